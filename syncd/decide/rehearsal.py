"""The rehearsal of `syncd chaos`: which faults are played in which order, and what is wrong with what was seen."""

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


class Fault(StrEnum):
    """What is done to a node, by the name in reports; `WHAT` says it in words."""

    NODE_LOST = "node_lost"
    NODE_KILLED = "node_killed"
    START_KILLED = "start_killed"
    DAEMON_KILLED = "daemon_killed"
    TRAINER_KILLED = "trainer_killed"
    FROZEN = "frozen"
    TWO_AT_ONCE = "two_at_once"
    DRAINED = "drained"
    OBJECT_DAMAGED = "object_damaged"
    STORE_FAILING = "store_failing"


WHAT = {
    Fault.NODE_LOST: "all of a node is killed, its disk is gone",
    Fault.NODE_KILLED: "all of a node is killed, its disk stays",
    Fault.START_KILLED: "a node is killed while it starts",
    Fault.DAEMON_KILLED: "syncd alone is killed, the trainer is orphaned",
    Fault.TRAINER_KILLED: "the trainer alone is killed, then the node",
    Fault.FROZEN: "a node is frozen, overtaken, and goes on",
    Fault.TWO_AT_ONCE: "two nodes start at the same time",
    Fault.DRAINED: "a node gets SIGTERM, its disk is gone",
    Fault.OBJECT_DAMAGED: "the newest commit is damaged in the store",
    Fault.STORE_FAILING: "calls of the store fail and are slow, then the node is lost",
}


class Damage(StrEnum):
    """What happens to a stored object."""

    FLIPPED = "a flipped bit"
    CUT = "cut short"
    GONE = "gone"
    MANIFEST_CUT = "its manifest cut short"


@dataclass(frozen=True, slots=True)
class Round:
    """One round: a node starts, commits `commits` checkpoints, and `delay` seconds later the fault comes.

    `failing`: its store fails and is slow. `keep_disk`: of a node killed at its start. `seed`: for what is drawn meanwhile.
    """

    number: int
    fault: Fault
    commits: int
    delay: float
    failing: bool
    keep_disk: bool
    damage: Damage
    seed: int


LONGEST_DELAY = 1.2
"""Seconds: longer than a save, an upload, or the start of a node take."""
FAILING_SHARE = 0.25
"""Part of the rounds of other faults that are played over a failing store too."""


def plan(seed: int, rounds: int) -> list[Round]:
    """The rounds of a seed: each fault once in a shuffled order, then all of them again. More rounds go on alike."""
    faults = list(Fault)
    planned = []
    for number in range(1, rounds + 1):
        block, place = divmod(number - 1, len(faults))
        order = sorted(faults, key=lambda fault: _draw(seed, block, f"order of {fault}"))
        fault = order[place]
        few = 2 if fault is Fault.OBJECT_DAMAGED else 1  # there must be one to fall back to
        planned.append(
            Round(
                number=number,
                fault=fault,
                commits=few + int(2 * _draw(seed, number, "commits")),
                delay=round(LONGEST_DELAY * _draw(seed, number, "delay"), 3),
                failing=fault is Fault.STORE_FAILING or _draw(seed, number, "failing") < FAILING_SHARE,
                keep_disk=_draw(seed, number, "disk") < 0.5,
                damage=list(Damage)[int(len(Damage) * _draw(seed, number, "damage"))],
                seed=int((1 << 32) * _draw(seed, number, "seed")),
            )
        )
    return planned


def _draw(seed: int, number: int, what: str) -> float:
    """From 0 to 1, the same for the same words: a generator's state would make one draw depend on all before it."""
    digest = hashlib.sha256(f"{seed} {number} {what}".encode()).digest()
    return int.from_bytes(digest[:6]) / (1 << 48)


# ---- what was seen, and what is wrong with it


@dataclass(frozen=True, slots=True)
class Death:
    """A node ended: the newest step that it told as committed, and the newest that the store then held for the next."""

    told: int
    stored: int


@dataclass(frozen=True, slots=True)
class Begin:
    """A trainer began at `step` (0: from zero), as it noted itself.

    `wrong`: files that are not what is written at that step; `author`: the node that wrote them. `known`: the newest
    step that must not be lost, `because` it is committed, or on the disk. `damaged`: the step of a commit that was damaged
    before, and `told` whether somebody said so. `late`: (node, step) that overtaken nodes saved too late; `foreign`:
    commits of theirs in the line that this attempt recorded.
    """

    step: int
    known: int
    because: str = "committed"
    wrong: tuple[str, ...] = ()
    author: str | None = None
    damaged: int | None = None
    told: bool = True
    late: Set[tuple[str, int]] = frozenset()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """A node that had to end by itself with the code `wanted`: its code (None: not within `seconds`), what it left."""

    what: str
    wanted: int
    code: int | None
    seconds: float
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: whether the task is done, the finished model's files that are not right, what `verify --deep` found.

    `saved`: the step that the trainer finished at; `step`: of the stored model (None: there is none).
    """

    done: bool
    saved: int
    step: int | None
    wrong: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def judge(seen: Death | Begin | Exit | Finish) -> list[str]:
    """What is wrong, a line each; nothing where all is as promised."""
    match seen:
        case Death():
            return _judge_death(seen)
        case Begin():
            return _judge_begin(seen)
        case Exit():
            return _judge_exit(seen)
        case Finish():
            return _judge_finish(seen)


def _judge_death(seen: Death) -> list[str]:
    if seen.told > seen.stored:
        return [f"step {seen.told} was told as committed, but the newest that the store holds is {_step(seen.stored)}"]
    return []


def _judge_begin(seen: Begin) -> list[str]:
    wrong = []
    if seen.step < seen.known:
        how = f"resumed step {seen.step}" if seen.step else "began from zero"
        wrong.append(f"{how}, although step {seen.known} was {seen.because}")
    if seen.wrong:
        wrong.append(f"what was resumed at step {seen.step} is not what was saved: {', '.join(seen.wrong)}")
    if seen.author is not None and (seen.author, seen.step) in seen.late:
        wrong.append(f"resumed step {seen.step} of {seen.author}, which it saved after it had been overtaken")
    if seen.foreign:
        wrong.append(f"the recorded line holds what an overtaken node committed late: {', '.join(seen.foreign)}")
    if seen.damaged is not None and seen.step < seen.damaged and not seen.told:
        wrong.append(f"step {seen.damaged} was damaged in the store and passed over, and nobody said so")
    return wrong


def _judge_exit(seen: Exit) -> list[str]:
    wrong = []
    if seen.code is None:
        wrong.append(f"{seen.what} did not end within {seen.seconds:.0f} s (exit code {seen.wanted} was to come)")
    elif seen.code != seen.wanted:
        wrong.append(f"{seen.what} ended with exit code {seen.code} instead of {seen.wanted}")
    if seen.processes:
        wrong.append(f"{seen.what} left {seen.processes} processes behind")
    return wrong


def _judge_finish(seen: Finish) -> list[str]:
    wrong = []
    if not seen.done:
        wrong.append("the trainer finished, but the task is not done")
    elif seen.step != seen.saved:
        stored = "none" if seen.step is None else f"that of step {seen.step}"
        wrong.append(f"the trainer finished at step {seen.saved}, but the stored model is {stored}")
    if seen.wrong:
        wrong.append(f"the finished model is not what was saved: {', '.join(seen.wrong)}")
    wrong += [f"verify --deep: {problem}" for problem in seen.problems]
    return wrong


def _step(step: int) -> str:
    return f"step {step}" if step else "none"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and worst of some measured seconds; both 0 where nothing was measured."""

    median: float
    worst: float


def spread(seconds: Sequence[float]) -> Spread:
    """
    >>> spread([1.0, 5.0, 2.0])
    Spread(median=2.0, worst=5.0)
    """
    return Spread(median(seconds), max(seconds)) if seconds else Spread(0.0, 0.0)


def disk_needed(size: int) -> tuple[int, int]:
    """Bytes that checkpoints of `size` need at most: for the nodes' disks, and in the store.

    Two nodes at once hold what the trainer keeps, what is being restored and what is set aside; the store what is kept of
    the line, an upload, a zombie's late commits and the result.
    """
    spare = 64 << 20
    return 16 * size + spare, 10 * size + spare
