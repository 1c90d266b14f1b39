"""The single argument of each hook: frozen, plain values."""

from __future__ import annotations  # Settings is for the type checker only: pydantic costs a start 0.2 s

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncd.config import Settings


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A store is wanted. `url` is the value of SYNCD_STORE, without credentials."""

    url: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Attach:
    """An attempt was claimed by this node."""

    settings: Settings
    task: str
    attempt: int
    node: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What the trainer starts from: `checkpoint` relative to the root, or None for a start from zero."""

    checkpoint: str | None
    step: int | None
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """A complete checkpoint was found under the root; `name` is relative to it."""

    name: str
    step: int | None
    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class CheckpointCommitted:
    """A manifest was written. `commit` is the checkpoint's name in the store, `number` counts the attempt's commits.

    `seconds`: from the checkpoint's being seen to its commit.
    """

    name: str
    commit: str
    number: int
    step: int | None
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the daemon says about itself and the trainer, ready for JSON."""

    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One line of events.jsonl; `time` in seconds since the epoch, `fields` ready for JSON and without secrets."""

    name: str
    time: float
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TaskDone:
    """done.json exists: the attempt and the commit that it names (None: the task ended without a checkpoint)."""

    attempt: int
    commit: str | None
    step: int | None
