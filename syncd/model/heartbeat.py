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


def fresh(body: HeartbeatBody, now: float) -> bool:
    """Whether a daemon is likely alive: politeness towards it only, for clocks decide nothing (DESIGN.md)."""
    return body.state not in ("done", "left", "superseded") and now - body.time < 3 * max(1.0, body.interval)
