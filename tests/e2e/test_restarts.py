"""Trainers that fail, hang, leave, or end without a model."""

from pathlib import Path

import pytest

from .conftest import NewNode
from .fake_trainer import state_after, weights
from .helpers import FAKE, Node, Task, trace

pytestmark = pytest.mark.slow


def failures(node: Node) -> list[int]:
    return [line["restart"] for line in node.events("trainer_failed")]


def test_a_trainer_that_fails_twice_is_started_again_with_growing_pauses(
    file_task: Task, new_node: NewNode, tmp_path: Path
) -> None:
    node = new_node(file_task)
    life = node.run([*FAKE, "--steps", "5", "--lives", "exit1,exit1", "--trace", str(tmp_path / "trace")])
    assert life.code() == 0
    assert failures(node) == [1, 2]
    begins = [line["time"] for line in node.events("trainer_started")]
    fails = [line["time"] for line in node.events("trainer_failed")]
    pauses = [begin - fail for begin, fail in zip(begins[1:], fails, strict=True)]
    print(f"paused for {pauses}")
    assert 0.4 < pauses[0] < 2
    assert 0.9 < pauses[1] < 4
    assert (file_task.restore("final") / "model.bin").read_bytes() == weights(state_after(5), 20_000)


@pytest.mark.parametrize("events", ["1", "0"])
def test_a_new_checkpoint_makes_the_count_of_failures_begin_anew(
    file_task: Task, new_node: NewNode, tmp_path: Path, events: str
) -> None:
    """It saves and dies at once: what it saved is progress, also where it is seen only after that death."""
    node = new_node(file_task, SYNCD_MAX_RESTARTS="2", SYNCD_WATCH_EVENTS=events, SYNCD_SCAN_INTERVAL="30")
    lives = "exit1,exit1,save-exit1,exit1"
    life = node.run([*FAKE, "--steps", "6", "--lives", lives, "--trace", str(tmp_path / "trace")])
    code = life.code()
    print(f"exit {code}, restarts were counted as {failures(node)}, committed {node.committed()}")
    assert code == 0
    assert failures(node) == [1, 2, 1, 2]
    file_task.verify()


def test_failures_without_progress_end_with_76_and_a_clear_line(
    file_task: Task, new_node: NewNode, tmp_path: Path
) -> None:
    node = new_node(file_task, SYNCD_MAX_RESTARTS="1")
    life = node.run([*FAKE, "--steps", "5", "--lives", "save-exit1,exit9,exit9,exit9", "--trace", str(tmp_path / "t")])
    assert life.code() == 76
    assert "failed 2 times without a new checkpoint (last exit code 9)" in life.text
    assert node.committed() == [1]
    assert len(trace(tmp_path / "t", "begin")) == 2
    assert "done.json" not in file_task.listing()
    file_task.verify()


def test_a_trainers_own_75_leaves_the_node(file_task: Task, new_node: NewNode, tmp_path: Path) -> None:
    node = new_node(file_task)
    trainer = [*FAKE, "--steps", "3", "--lives", "save-exit75", "--trace", str(tmp_path / "trace")]
    assert node.run(trainer).code() == 75
    assert node.committed() == [1]
    assert failures(node) == []
    other = new_node(file_task)
    assert other.run(trainer).code() == 0
    assert other.events("attempt_begun")[0]["step"] == 1


def test_a_trainer_that_beats_and_then_hangs_is_started_again(
    file_task: Task, new_node: NewNode, tmp_path: Path
) -> None:
    node = new_node(file_task, SYNCD_STALL_AFTER="2", SYNCD_GRACE="1")
    life = node.run([*FAKE, "--steps", "5", "--lives", "hang", "--deaf", "--trace", str(tmp_path / "trace")])
    assert life.code() == 0
    begin, again = trace(tmp_path / "trace", "begin")
    hung = trace(tmp_path / "trace", "hangs")[0]
    print(f"hung at {hung['at'] - begin['at']:.1f} s, started again {again['at'] - hung['at']:.1f} s later")
    assert len(node.events("trainer_stalled")) == 1
    assert again["step"] == 1, "it goes on from its save"
    assert again["at"] - hung["at"] > 1.8
    assert (file_task.restore("final") / "model.bin").read_bytes() == weights(state_after(5), 20_000)


def test_a_task_without_a_final_model_is_done_with_its_newest_commit(file_task: Task, new_node: NewNode) -> None:
    node = new_node(file_task)
    assert node.run([*FAKE, "--steps", "3", "--no-final"]).code() == 0
    assert file_task.read("done.json")["result"].startswith("attempt-0001/checkpoint-3 ")
    assert (file_task.restore() / "weights.bin").read_bytes() == weights(state_after(3), 20_000)
    file_task.verify()


@pytest.mark.parametrize("command", [["no-such-command"], ["/no/such/command"], [__file__], []])
def test_a_command_that_cannot_run_is_a_usage_error_before_anything_is_claimed(
    file_task: Task, new_node: NewNode, command: list[str]
) -> None:
    node = new_node(file_task)
    life = node.run(command)
    assert life.code(20) == 64
    print(life.text)
    assert life.text.count("\n") <= 2, "one line says what to mend"
    assert file_task.listing() == []
