"""Whole nodes, as in `tests/e2e`, what comes between them and their store, and what the fuzzers have to say at the end."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import client, credentials

from syncd.testing.servers import Minio
from tests.e2e.conftest import file_task, minio, new_node, s3_task
from tests.faults.between import Between
from tests.faults.disks import Mount
from tests.faults.fuzzing import INPUTS, SEED, TRACEBACKS

__all__ = ["between", "file_task", "minio", "new_node", "s3_task"]


@pytest.fixture
def between(minio: Minio) -> Iterator[Between]:
    """A proxy before the session's MinIO."""
    with Between(minio.port) as proxy:
        yield proxy


@pytest.fixture
def tmpfs() -> Iterator[Mount]:
    """Mount a tmpfs with these options on a directory that is made; to be asked for before `new_node`, whose processes end
    before it goes."""
    if os.geteuid() != 0:
        pytest.skip("a tmpfs cannot be mounted here: only root may")
    mounted: list[Path] = []

    def mount(at: Path, options: str) -> Path:
        at.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode(errors='replace').strip()}")
        mounted.append(at)
        return at

    yield mount
    for at in reversed(mounted):
        while os.path.ismount(at):
            subprocess.run(["umount", "-l", str(at)], capture_output=True, check=True)


@pytest.fixture
def as_operator(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own process speaks to that MinIO, by sessions that share what botocore's models say: most of what they cost."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)
    new, loader = credentials.new_session, credentials.new_session().get_component("data_loader")

    def quick() -> Any:
        session = new()
        session.register_component("data_loader", loader)
        return session

    for module in (client, credentials):
        monkeypatch.setattr(module, "new_session", quick)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The fuzzers' counts at the end of a run."""
    if not INPUTS:
        return
    each = ", ".join(f"{name} {count:,}" for name, count in sorted(INPUTS.items()))
    terminalreporter.write_line(f"fuzz: {each} (SYNCD_TEST_SEED={SEED})")
    terminalreporter.write_line(f"fuzz: {INPUTS.total():,} inputs, {TRACEBACKS.total()} tracebacks")
