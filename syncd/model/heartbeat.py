"""What a daemon publishes about itself and its trainer."""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class HeartbeatBody(Struct, frozen=True, kw_only=True):
    """`heartbeat.json`. `interval`: seconds between two; a reader calls three missed ones silence.

    `state` is one of starting, restoring, training, restarting, draining, finishing, done, left, superseded.
    `durable_step`/`durable_at`: the newest commit (step; seconds since the epoch when it was committed).
    """

    version: Literal[1] = 1
    task: str
    attempt: Annotated[int, Meta(ge=1)]
    node: str
    session: str
    seq: Annotated[int, Meta(ge=0)]
    time: float
    interval: float
    state: str
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    phase: str | None = None
    durable: str | None = None
    durable_step: int | None = None
    durable_at: float | None = None
    waiting: int = 0
    waiting_bytes: int = 0
    restarts: int = 0
    store_error: str | None = None


ENDED = frozenset({"done", "left", "superseded"})
"""States in which a daemon says its last words."""
APART = 26 * 3600.0
"""Seconds by which clocks differ that were set to somewhere's local time."""


def _patience(body: HeartbeatBody) -> float:
    return 3 * max(1.0, body.interval)


def fresh(body: HeartbeatBody, now: float) -> bool:
    """Whether a daemon is likely alive, as far as two machines' clocks tell: to be shown, for clocks decide nothing."""
    return body.state not in ENDED and now - body.time < _patience(body)


def doubtful(body: HeartbeatBody, now: float) -> bool:
    """Whether it takes another heartbeat to know: this one is of the future, or old as that of a wrong clock may be."""
    return body.state not in ENDED and _patience(body) <= abs(now - body.time) < APART
