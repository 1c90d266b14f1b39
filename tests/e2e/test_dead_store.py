"""The store is away: training does not notice, people do, and nothing is lost."""

import itertools
from pathlib import Path

import pytest

from syncd.testing.servers import Minio

from .conftest import NewNode
from .fake_trainer import state_after, weights
from .helpers import FAKE, Bucket, Task, trace, until

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Minio:
    """One of our own, not started."""
    return Minio(tmp_path / "minio")


def task_on(server: Minio, tmp_path: Path) -> Task:
    name = server.make_bucket("runs")
    env = {**server.env, "SYNCD_STORE": f"s3://{name}/deep"}
    return Task("run", env, Bucket(server, name, "deep/"), tmp_path / "operator")


def test_a_store_that_dies_and_comes_back_costs_training_nothing(
    server: Minio, tmp_path: Path, new_node: NewNode
) -> None:
    task = task_on(server, tmp_path)
    notes, gate = tmp_path / "trace", tmp_path / "gate"
    with server:
        node = new_node(task)
        fake = [*FAKE, "--steps", "60", "--every", "5", "--pause", "0.1", "--keep", "1"]
        life = node.run([*fake, "--hold", f"50:{gate}", "--trace", str(notes)])
        node.until_committed(life, bool, "the first commit")
        server.kill()
        died = max(line["step"] for line in trace(notes, "step"))
        until(lambda: node.events("store_away"), "syncd says that the store is away", 30)
        status = until(lambda: (node.own("status.json") or {}).get("store_error") and node.own("status.json"), "status")
        assert status
        assert (status["store_path"], status["transfers_at_once"]) == ("fast", 4)
        print(f"at step {died} the store died: {status['store_error']}")
        until(lambda: trace(notes, "step")[-1]["step"] == 50, "training goes on", 30)
        server.start()
        until(lambda: node.events("store_back"), "syncd sees that the store is back", 60)
        until(lambda: (node.committed() or [0])[-1] == 50, "the newest save is committed", 60)
        gate.touch()
        assert life.code(60) == 0

        at = [line["at"] for line in trace(notes, "step") if line["step"] <= 50]
        gaps = [after - before for before, after in itertools.pairwise(at)]
        print(f"steps took {min(gaps):.3f} to {max(gaps):.3f} s; committed {node.committed()}")
        assert len(trace(notes, "begin")) == 1, "the trainer was left alone"
        assert max(gaps[died:]) < max(0.5, 3 * max(gaps[:died])), "no step waited for the store"
        skipped = [line["step"] for line in node.events("checkpoint_skipped")]
        assert skipped, "the backlog is bounded"
        pins = list((node.root / ".syncd" / "pins").iterdir())
        assert pins == []
        assert (task.restore("final") / "model.bin").read_bytes() == weights(state_after(60), 20_000)
        task.verify()


def test_a_store_that_is_away_at_the_start_is_waited_for(server: Minio, tmp_path: Path, new_node: NewNode) -> None:
    task = task_on(server, tmp_path)
    node = new_node(task)
    life = node.run([*FAKE, "--steps", "3"])
    until(lambda: "store_away" in life.text, "syncd says what it waits for", 30)
    node.alive(life, "it waits for the store")
    assert not node.events("trainer_started")
    with server:
        assert life.code(60) == 0
        task.verify()
    assert task.view.server is server  # type: ignore[attr-defined]
