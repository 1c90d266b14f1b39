"""What is kept beside checkpoints: the trainer's output, loose files by pattern, events."""

import json

import pytest

from .conftest import NewNode
from .helpers import FAKE, Task

pytestmark = pytest.mark.slow


def test_output_extra_files_and_events_lie_beside_the_checkpoints(s3_task: Task, new_node: NewNode) -> None:
    node = new_node(s3_task, SYNCD_EXTRA="runs/**,*.txt")
    (node.root / "notes.txt").write_text("by hand\n")
    (node.root / "other.bin").write_bytes(b"not asked for")
    life = node.run([*FAKE, "--steps", "8", "--pause", "0.3", "--every", "3", "--log"])
    assert life.code() == 0
    keys = s3_task.listing()

    logs = [key for key in keys if key.startswith("attempt-0001/logs/")]
    said = b"".join(s3_task.get(key) for key in logs).decode().splitlines()
    assert said == ["life 1 begins at step 0 of 8", *(f"step {n}" for n in range(1, 9))]
    spoken = life.text.splitlines()
    assert [line for line in spoken if not line.startswith("{")] == said, "and it goes to syncd's own output"
    assert all(json.loads(line)["event"] for line in spoken if line.startswith("{"))

    extra = {key.removeprefix("attempt-0001/extra/"): key for key in keys if key.startswith("attempt-0001/extra/")}
    print(f"extra files: {sorted(extra)}")
    assert sorted(extra) == ["notes.txt", "runs/deep/scalars.log"]
    assert s3_task.get(extra["runs/deep/scalars.log"]) == (node.root / "runs/deep/scalars.log").read_bytes()

    segments = sorted(key for key in keys if key.startswith("attempt-0001/events/"))
    print(f"event segments: {segments}")
    assert segments[0] == "attempt-0001/events/000001.jsonl"
    assert len(segments) > 1, "also while training went on"
    lines = [json.loads(line) for key in segments for line in s3_task.get(key).splitlines()]
    assert all({"event", "time"} <= line.keys() for line in lines)
    names = [line["event"] for line in lines]
    assert names[:3] == ["attempt_claimed", "attempt_begun", "trainer_started"]
    assert names.count("checkpoint_committed") == 3  # steps 3 and 6, and the final model
    assert names[-1] == "task_done"
    assert len(lines) == len({json.dumps(line, sort_keys=True) for line in lines}), "none twice"
    heartbeat = s3_task.read("attempt-0001/heartbeat.json")
    assert (heartbeat["state"], heartbeat["step"]) == ("done", 8)
