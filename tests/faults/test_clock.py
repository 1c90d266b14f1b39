"""The wall clock is set while a node works, or is wrong on one of two nodes. Feigned by libfaketime to whole processes.

As a real clock does, it moves times of day and of files, and leaves the monotonic clock alone.
"""

import itertools
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import NewNode
from tests.e2e.fake_trainer import state_after, weights
from tests.e2e.helpers import FAKE, Node, Task, trace, until
from tests.faults.scale import campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
HOUR = 3600
SIZE = 20_000
TRAINER = [*FAKE, "--every", "2", "--pause", "0.1", "--stamp"]


def _library() -> Path | None:
    found = sorted(Path("/usr/lib").glob("**/libfaketimeMT.so.1"))
    return found[0] if found else None


class Clock:
    """A node's wall clock, `off` by so many seconds."""

    def __init__(self, node: Node, off: int = 0) -> None:
        library = _library()
        if library is None:
            pytest.skip("libfaketime is not here: apt install faketime")
        self.path = node.home / "clock"
        self.set(off)
        node.settings |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, off: int) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(f"{off:+d}")
        new.replace(self.path)


def quiet(node: Node) -> None:
    """Nothing was mistaken for a stall, a failure or another's work."""
    for event in ("trainer_stalled", "trainer_failed", "superseded", "checkpoint_torn", "checkpoint_damaged"):
        assert not node.events(event), event


def in_order(task: Task, attempt: int) -> list[int]:
    """The steps of an attempt's commits by number, which must be in the order in which they were saved."""
    steps = [found["step"] for found in task.commits(attempt) if found["step"] is not None]
    assert steps == sorted(steps)
    return steps


@pytest.mark.parametrize(
    "jumps",
    [pytest.param((-HOUR, 0), id="back and forth"), pytest.param((HOUR, 0), id="forth and back", marks=campaign)],
)
def test_a_clock_that_jumps_while_a_node_works_changes_nothing(
    s3_task: Task, new_node: NewNode, tmp_path: Path, jumps: tuple[int, int]
) -> None:
    gates, notes = [tmp_path / f"gate-{n}" for n in range(3)], tmp_path / "trace"
    node = new_node(s3_task, SYNCD_STALL_AFTER="30", SYNCD_KEEP="100", SYNCD_GRACE="10", SYNCD_BACKLOG="9")
    clock = Clock(node)
    holds = [f"--hold={step}:{gate}" for step, gate in zip((7, 13, 19), gates, strict=True)]
    command = [*TRAINER, "--steps", "24", *holds, "--trace", str(notes)]
    life = node.run(command)
    node.until_committed(life, lambda steps: 6 in steps, "what was saved at the first time")
    clock.set(jumps[0])
    gates[0].touch()
    node.until_committed(life, lambda steps: 12 in steps, "what was saved after the jump")
    assert "s3.clock" in life.text, "the server refuses signatures of another time, and says its own"
    # The daemon dies where nobody asked it to, and the next one goes on under a clock that was set meanwhile.
    node.signal(signal.SIGKILL)
    until(lambda: not node.pids(), "all are gone")
    clock.set(jumps[1])
    gates[1].touch()
    life = node.run(command)
    node.until_committed(life, lambda steps: 18 in steps, "what was saved after the second jump")
    gates[2].touch()
    assert life.code(60) == 0

    quiet(node)
    assert len(trace(notes, "begin")) == 2, "no life of the trainer but the two that were meant"
    steps = in_order(s3_task, 1)
    assert steps == [*range(2, 25, 2)], "each save is committed once"
    times = [found["time"] for found in s3_task.commits(1)]
    leaps = [round(after - before) for before, after in itertools.pairwise(times)]
    print(f"between commits the clock moved by {leaps} s")
    assert sum(abs(leap) > HOUR - 60 for leap in leaps) == 2, "the clock was feigned, that of files too"
    assert (s3_task.restore("final") / "model.bin").read_bytes() == weights(state_after(24), SIZE)
    s3_task.verify()


@pytest.mark.parametrize("off", [pytest.param(-HOUR, id="behind"), pytest.param(HOUR, id="ahead", marks=campaign)])
def test_a_node_whose_clock_is_an_hour_off_saves_and_is_followed(
    s3_task: Task, new_node: NewNode, off: int, tmp_path: Path
) -> None:
    first, second, gate = new_node(s3_task), new_node(s3_task), tmp_path / "gate"
    Clock(first, off)
    life = first.run([*TRAINER, "--steps", "20", "--hold", f"7:{gate}"])
    first.until_committed(life, lambda steps: 6 in steps, "three commits")
    refused = s3_task.syncd("gc")
    assert (refused.returncode, "is at work" in refused.stderr) == (64, True), refused
    first.vanish()
    allowed = s3_task.syncd("gc", "--dry-run", "--json")
    assert allowed.returncode == 0, f"a dead node is not taken for one at work: {allowed}"
    gate.touch()
    assert second.run([*TRAINER, "--steps", "20"]).code(60) == 0
    begun = second.events("attempt_begun")[0]
    assert (begun["attempt"], begun["checkpoint"]) == (2, "checkpoint-6")
    assert in_order(s3_task, 2)[-1] == 20
    quiet(second)
    assert (s3_task.restore("final") / "model.bin").read_bytes() == weights(state_after(20), SIZE)
    s3_task.verify()


def test_the_time_in_which_a_node_stood_still_is_no_stall(file_task: Task, new_node: NewNode, tmp_path: Path) -> None:
    """A paused machine's monotonic clock may run on; its trainer had no part of that time."""
    node, gate = new_node(file_task, SYNCD_STALL_AFTER="3"), tmp_path / "gate"
    life = node.run([*TRAINER, "--steps", "8", "--hold", f"5:{gate}"])
    node.until_committed(life, lambda steps: 4 in steps, "two commits")
    node.freeze()
    time.sleep(4.5)
    node.thaw()
    gate.touch()
    assert life.code(60) == 0
    quiet(node)
    assert in_order(file_task, 1)[-1] == 8


@campaign
def test_a_clock_that_is_set_again_and_again(
    s3_task: Task, new_node: NewNode, rng: random.Random, tmp_path: Path
) -> None:
    """Signatures, pauses and the trainer's restarts under a clock that is a different one every half second."""
    node = new_node(s3_task, SYNCD_STALL_AFTER="30", SYNCD_BACKLOG="9", SYNCD_KEEP="100")
    clock = Clock(node)
    life = node.run([*TRAINER, "--steps", "40", "--lives", "save-exit9", "--trace", str(tmp_path / "trace")])
    tried = []
    while True:
        tried.append(rng.choice([-13, -5, -1, 0, 1, 5, 13]) * HOUR // 2)
        clock.set(tried[-1])
        try:
            assert life.head.wait(0.5) == 0
        except subprocess.TimeoutExpired:
            continue
        break
    print(f"the clock was {tried} s off")
    assert not node.events("trainer_stalled")
    assert [event["code"] for event in node.events("trainer_failed")] == [9]
    steps = in_order(s3_task, 1)
    assert len(steps) == len(set(steps)) and steps[-1] == 40
    assert json.loads((s3_task.restore() / "state.json").read_text())["step"] == 40
    s3_task.verify()
