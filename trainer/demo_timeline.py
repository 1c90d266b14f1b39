"""What happened, in words: one row for each event that a spectator wants to see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Event = dict[str, Any]

_WORDS: dict[str, Callable[[Event], str | None]] = {
    "attempt_claimed": lambda event: f"claimed attempt {event['attempt']}",
    "attempt_begun": lambda event: None if event.get("checkpoint") else "started from zero",
    "restored": lambda event: f"restored {_moved(event)}",
    "trainer_started": lambda event: "trainer started",
    "checkpoint_committed": lambda event: "committed " + _moved(event),
    "deleted": lambda event: f"deleted an old checkpoint ({event['objects']} objects)",
    "trainer_ended": lambda event: "trainer finished" if event["verdict"] == "finished" else None,
    "task_done": lambda event: f"done: the result is {event['result'].partition(' ')[0]}",
}


class Row(NamedTuple):
    """One line of the timeline; `time` is in seconds since the epoch."""

    time: float
    who: str
    what: str


@dataclass
class Timeline:
    """Rows in the order of their times; `listener` hears each at once."""

    listener: Callable[[float, str, str], None]
    began: float = field(default_factory=time.time)
    rows: list[Row] = field(default_factory=list)

    def add(self, who: str, what: str, at: float | None = None) -> None:
        row = Row(time.time() if at is None else at, who, what)
        self.rows.append(row)
        self.listener(row.time - self.began, who, what)

    def heard(self, who: str, events: list[Event]) -> None:
        """Add the rows of a daemon's events."""
        for event in events:
            if what := words(event):
                self.add(who, what, event["time"])

    def table(self) -> list[tuple[str, str, str]]:
        """Return the rows as text: seconds since the beginning, who, what."""
        rows = sorted(self.rows, key=lambda row: row.time)
        return [(f"{row.time - self.began:.1f} s", row.who, row.what) for row in rows]


def words(event: Event) -> str | None:
    """Say an event as a person would; None for one that says nothing new. Warnings are always said."""
    if say := _WORDS.get(event["event"]):
        return say(event)
    if event.get("level") in ("warning", "error"):
        return f"{event['event']}: {event['why']}" if event.get("why") else str(event["event"])
    return None


def size(count: float) -> str:
    """Return bytes as people say them: `1.4 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _moved(event: Event) -> str:
    return f"{event['checkpoint']} ({size(event['bytes'])}, {event['seconds']:.2f} s)"
