"""The nouns of the files in `root/.syncd/` and of the beat: what trainer, with-syncd and syncd tell each other.

Times are seconds since the epoch, for people: nothing is decided by comparing them, since two containers write them.
"""

import json
import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

from syncd.errors import brief

ExitCode = Annotated[int, Meta(ge=0, le=255)]
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]
"""A name that a POSIX shell can read, compare and write without a JSON parser."""


class Ready(Struct, frozen=True, kw_only=True):
    """`.syncd/ready.json`: restore is over. `checkpoint` is relative to the root; None is a start from zero.

    `session` is new in each life of the daemon: with-syncd starts by it once and never again.
    """

    version: Literal[1] = 1
    attempt: Annotated[int, Meta(ge=1)]
    checkpoint: str | None
    step: int | None
    session: Token
    time: float


class Order(Struct, frozen=True, kw_only=True):
    """`.syncd/order.json`: what with-syncd shall do, obeyed once per `id`; the latest order is the only one.

    `grace`: seconds between SIGTERM and SIGKILL. `exit_code`: for `exit`, what the platform shall see.
    `life`: for `restart`, the life that it replaces; where another one runs already the order has no effect.
    """

    version: Literal[1] = 1
    id: Token
    action: Literal["stop", "restart", "exit"]
    exit_code: ExitCode = 0
    grace: Annotated[float, Meta(ge=0)] = 30.0
    life: Token | None = None
    time: float


class TrainerState(Struct, frozen=True, kw_only=True):
    """`.syncd/trainer.json`: what with-syncd last did; rewritten about every two seconds as its sign of life.

    `id` names a life: it changes with each start of the trainer and of its container. `pid` is 0 while none runs.
    `exit_code` is None until a run has ended. `requested`: the run was asked to stop, by order or by a signal.
    `order`, `session`: the last order obeyed, the last ready.json used up.
    """

    version: Literal[1] = 1
    state: Literal["waiting", "running", "exited"]
    id: Token
    pid: Annotated[int, Meta(ge=0)]
    exit_code: ExitCode | None = None
    requested: bool = False
    order: Token | None = None
    session: Token | None = None
    time: float


class Notice(Struct, frozen=True, kw_only=True):
    """`.syncd/notice.json`: the node goes at `at`; `fits`: would a save started now make it (None: not known)."""

    version: Literal[1] = 1
    at: float
    fits: bool | None = None
    reason: str | None = None
    time: float


class ChildMark(Struct, frozen=True, kw_only=True):
    """`.syncd/child.json`: the trainer's process group, so that the next daemon can end what a killed one left.

    `started`: the main process's start, clock ticks after boot (exact, whatever the wall clock does); with `boot_id`
    it tells a recycled pid. `pid`, `pgid` and `started` are 0 until the process exists. `life` stands in the
    environment of all its processes, also of those that left the group.
    """

    version: Literal[1] = 1
    pid: Annotated[int, Meta(ge=0)] = 0
    pgid: Annotated[int, Meta(ge=0)] = 0
    started: Annotated[int, Meta(ge=0)] = 0
    boot_id: str
    life: Token


MOST_COUNT = 1 << 53
"""Steps beyond that are no steps, and no other program could read what we say of them."""


class Beat(Struct, frozen=True):
    """`progress.json`: how far the trainer says it is. A field that is missing or makes no sense is None."""

    step: int | None = None
    total: int | None = None
    phase: str | None = None
    loss: float | None = None
    time: float | None = None


def parse_beat(data: bytes) -> Beat | None:
    """A beat from any trainer's bytes, or None where they are no JSON object. Never raises.

    Parsed by `json`, which accepts the bare NaN that Python trainers write where strict parsers refuse the file.
    """
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    phase = said.get("phase")
    return Beat(
        step=_count(said.get("step")),
        total=_count(said.get("total")),
        phase=brief(phase, 40) if isinstance(phase, str) else None,
        loss=_finite(said.get("loss")),
        time=_finite(said.get("time")),
    )


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count(value: object) -> int | None:
    number = _finite(value)
    return int(number) if number is not None and 0 <= number <= MOST_COUNT and number == int(number) else None
