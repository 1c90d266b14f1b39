"""A node is asked to leave: what is saved then is committed, and the next node goes on from there."""

import signal
import time
from pathlib import Path

import pytest

from .conftest import NewNode
from .fake_trainer import state_after, weights
from .helpers import FAKE, REAL, Task, until

pytestmark = pytest.mark.slow
NOBODY = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.mark.timeout(300)
def test_the_real_trainer_that_keeps_one_checkpoint_is_drained_and_ends_elsewhere_byte_for_byte(
    file_task: Task, new_node: NewNode, uninterrupted: bytes
) -> None:
    trainer = [*REAL, "--save_total_limit", "1"]
    first = new_node(file_task, SYNCD_UPLOAD_LIMIT="1MB")  # an upload takes longer than a save
    life = first.run(trainer)
    until(lambda: first.events("checkpoint_seen") and first.events("checkpoint_seen")[-1]["step"] >= 40, "two saves")
    life_step = first.events("checkpoint_seen")[-1]["step"]
    first.signal(signal.SIGTERM, [life.pid])
    assert life.code(40) == 75
    saved = first.committed()[-1]
    print(f"asked at step {life_step} or later, left with {first.committed()} committed")
    assert saved >= life_step
    assert saved % 20, "it saved at its next step, not at the next planned save"
    file_task.verify()
    first.vanish()

    second = new_node(file_task, SYNCD_UPLOAD_LIMIT="1MB")
    assert second.run(trainer).code(120) == 0
    assert second.events("attempt_begun")[0]["step"] == saved
    print(f"the second node committed {second.committed()}")
    assert second.committed()[-1] == 120
    assert sorted(set(second.committed())) == second.committed(), "no directory half removed counts as a save"
    assert (file_task.restore("final") / "adapter_model.safetensors").read_bytes() == uninterrupted
    file_task.verify()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_commits_and_leaves_with_75(file_task: Task, new_node: NewNode, number: signal.Signals) -> None:
    trainer = [*FAKE, "--steps", "30", "--every", "10", "--pause", "0.1"]
    first = new_node(file_task)
    life = first.run(trainer)
    first.until_committed(life, bool, "the first commit")
    first.signal(number, [life.pid])
    assert life.code(20) == 75
    print(f"{number.name}: committed {first.committed()}")
    saved = first.committed()[-1]
    assert 10 < saved < 20
    assert not first.pids()
    state = first.own("status.json")
    assert state
    assert (state["state"], state["durable_step"]) == ("left", saved)

    second = new_node(file_task)
    assert second.run(trainer).code() == 0
    assert second.events("attempt_begun")[0]["step"] == saved
    assert (file_task.restore("final") / "model.bin").read_bytes() == weights(state_after(30), 20_000)


def test_a_save_is_pushed_while_its_trainer_takes_long_to_end(file_task: Task, new_node: NewNode) -> None:
    """Of the grace, the time that a trainer spends on closing its loggers and devices is not lost for the upload."""
    node = new_node(file_task, SYNCD_GRACE="20")
    life = node.run([*FAKE, "--steps", "1000", "--every", "100", "--linger", "3"])
    until((node.root / "progress.json").exists, "it trains", 20)
    node.signal(signal.SIGTERM, [life.pid])
    assert life.code(20) == 75
    committed, left = node.events("checkpoint_committed"), node.events("trainer_left")
    print(f"the trainer left {left[0]['time'] - committed[0]['time']:.1f} s after the commit")
    assert committed[0]["time"] < left[0]["time"] - 1


def test_a_second_signal_ends_everything_at_once(file_task: Task, new_node: NewNode) -> None:
    node = new_node(file_task, SYNCD_GRACE="60")
    life = node.run([*FAKE, "--steps", "1000", "--every", "2", "--deaf"])
    node.until_committed(life, bool, "the first commit")
    node.signal(signal.SIGTERM, [life.pid])
    until(lambda: "draining" in str(node.own("status.json")), "it drains")
    node.signal(signal.SIGINT, [life.pid])
    began = time.monotonic()
    assert life.code(20) == 128 + signal.SIGINT
    took = time.monotonic() - began
    print(f"ended {took:.1f} s after the second signal")
    assert took < 5
    assert not node.pids()
    file_task.verify()


def test_a_trainer_that_does_not_heed_is_killed_within_the_grace(file_task: Task, new_node: NewNode) -> None:
    node = new_node(file_task, SYNCD_GRACE="4")
    life = node.run([*FAKE, "--steps", "1000", "--every", "2", "--deaf"])
    node.until_committed(life, bool, "the first commit")
    node.signal(signal.SIGTERM, [life.pid])
    began = time.monotonic()
    assert life.code(20) == 75
    took = time.monotonic() - began
    print(f"ended after {took:.1f} s with {node.committed()} committed")
    assert took < 4 + 2
    assert not node.pids()
    file_task.verify()
    newest = max(
        int(path.name.rpartition("-")[2]) for path in node.root.glob("checkpoint-*") if (path / "_SUCCESS").exists()
    )
    assert node.committed()[-1] in (newest, newest - 2), "but for one that was being written when it was killed"


def test_a_signal_while_the_store_does_not_answer_ends_within_the_grace(tmp_path: Path, new_node: NewNode) -> None:
    """Before anything could be claimed: there is nothing to save, and nothing to wait for."""
    node = new_node(None, SYNCD_STORE="s3://nobody-there/x", SYNCD_TASK="t", SYNCD_GRACE="4", **NOBODY)
    life = node.run(FAKE)
    until(lambda: "store_away" in life.text, "it says that the store is away", 30)
    node.signal(signal.SIGTERM, [life.pid])
    assert life.code(10) in (75, 128 + signal.SIGTERM, -signal.SIGTERM)
