"""Whole processes against real servers: `syncd`, trainers, MinIO. Nothing here imports the daemon."""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncd.testing.servers import Minio

from .helpers import REAL, Bucket, Directory, Node, Task, environment

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture
def file_task(tmp_path: Path) -> Task:
    """A task in a directory."""
    store = tmp_path / "store"
    return Task(f"run-{next(_numbers)}", {"SYNCD_STORE": store.as_uri()}, Directory(store), tmp_path / "operator")


@pytest.fixture
def s3_task(minio: Minio, tmp_path: Path) -> Iterator[Task]:
    """A task in a bucket of its own."""
    name = minio.make_bucket(f"e2e-{next(_numbers)}")
    bucket = Bucket(minio, name, "some/prefix/")
    yield Task("run", {**minio.env, "SYNCD_STORE": f"s3://{name}/some/prefix"}, bucket, tmp_path / "operator")
    bucket.close()


NewNode = Callable[..., Node]


@pytest.fixture
def new_node(tmp_path: Path) -> Iterator[NewNode]:
    """Make nodes; all that runs on them is killed afterwards, and their last words are shown when the test fails."""
    nodes: list[Node] = []

    def make(task: Task | None = None, **settings: str) -> Node:
        name = f"node-{len(nodes) + 1}"
        nodes.append(Node(name, tmp_path / name, task, **settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.kill()
        for process in node.processes:
            print(f"---- {node.name} {process.log.name}, ended with {process.head.poll()}\n{process.text[-4000:]}")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of the real trainer, run once without syncd and without disturbance."""
    home = tmp_path_factory.mktemp("uninterrupted")
    said = subprocess.run(
        [*REAL, "--output_dir", str(home / "out")], env=environment(), cwd=home, capture_output=True, check=False
    )
    assert said.returncode == 0, said
    return (home / "out" / "final" / "adapter_model.safetensors").read_bytes()
