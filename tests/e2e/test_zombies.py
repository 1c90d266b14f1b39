"""A paused node that is overtaken and goes on: nothing of it is ever restored, and it sees that it must leave."""

import signal

import pytest

from .conftest import NewNode
from .fake_trainer import state_after, weights
from .helpers import FAKE, Task, until

pytestmark = pytest.mark.slow
SIZE = 20_000


def test_a_thawed_node_leaves_and_what_it_still_committed_is_restored_by_nobody(
    s3_task: Task, new_node: NewNode
) -> None:
    """Node 1 is frozen, overtaken by node 2, and commits once more; node 3 takes the line of node 2."""
    late, end = s3_task.home.parent / "late", s3_task.home.parent / "end"
    trainer = [*FAKE, "--steps", "40", "--every", "2", "--pause", "0.1"]
    # Its daemon asks for its standing only after a commit, so that the late commit comes for certain.
    first = new_node(s3_task, SYNCD_HEARTBEAT="60")
    zombie = first.run([*trainer, "--hold", f"5:{late}"])
    first.until_committed(zombie, lambda steps: 4 in steps, "two commits")
    first.freeze()

    second = new_node(s3_task)
    owner = second.run([*trainer, "--hold", f"9:{end}"])
    second.until_committed(owner, lambda steps: 8 in steps, "commits of the second node")
    line = s3_task.line(2)
    assert line[0] == "attempt-0001/checkpoint-4"

    late.touch()
    first.thaw()
    assert zombie.code(30) == 77
    after = [found["step"] for found in s3_task.commits(1)]
    print(f"node 1 ended with 77; it committed {first.committed()}, the store has {after} of them")
    assert max(first.committed()) > 4, "the late commit that this is about"
    assert not first.pids()
    assert not list(first.root.glob("checkpoint-*"))
    assert list((first.root / ".syncd" / "quarantine").iterdir())

    again = first.run(trainer)
    assert again.code(20) == 77
    assert "attempt 2 has taken over" in again.text
    assert len(first.events("trainer_started")) == 1, "no trainer beside the owner's"
    assert s3_task.attempts == 2
    s3_task.verify()

    second.vanish()
    third = new_node(s3_task)
    end.touch()
    assert third.run(trainer).code() == 0
    line = s3_task.line(3)
    print(f"node 3 took the line {line}")
    assert line[0] == "attempt-0002/checkpoint-8"
    assert set(line) <= {"attempt-0002/checkpoint-8", "attempt-0002/checkpoint-6", *s3_task.line(2)}
    assert (s3_task.restore("final") / "model.bin").read_bytes() == weights(state_after(40), SIZE)
    s3_task.verify()


def test_a_zombies_disk_may_work_again_once_the_owner_is_silent(file_task: Task, new_node: NewNode) -> None:
    gate = file_task.home.parent / "gate"
    trainer = [*FAKE, "--steps", "20", "--every", "2", "--hold", f"5:{gate}"]
    first = new_node(file_task)
    zombie = first.run(trainer)
    first.until_committed(zombie, lambda steps: 4 in steps, "two commits")
    first.freeze()
    second = new_node(file_task)
    owner = second.run(trainer)
    until(lambda: second.events("trainer_started"), "the second node is at work")
    first.thaw()
    assert zombie.code(30) == 77
    second.signal(signal.SIGTERM, [owner.pid])
    assert owner.code(30) == 75
    gate.touch()
    assert first.run(trainer).code(60) == 0
    begun = first.events("attempt_begun")[-1]
    print(f"the zombie's disk claimed anew: {begun}")
    # The owner was asked at its first step or later, and saved where it then was.
    assert (begun["attempt"], begun["checkpoint"]) in [(3, "checkpoint-5"), (3, "checkpoint-6")]
    assert {event["attempt"] for event in file_task.events(3) if "attempt" in event} == {3}, (
        "an attempt's events are its own, not those of the disk's earlier ones"
    )
    assert (file_task.restore("final") / "model.bin").read_bytes() == weights(state_after(20), SIZE)
    file_task.verify()
