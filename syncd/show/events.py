"""The event log: one line for each thing that happened, in `.syncd/events.jsonl`, on stderr, and to whoever listens."""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("syncd")
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""To no link, and not waiting for the reader of a pipe."""
LOUD = frozenset(
    {"checkpoint_damaged", "checkpoint_torn", "checkpoint_refused", "checkpoint_unreadable", "superseded"}
    | {
        "store_away",
        "not_as_sent",
        "trainer_failed",
        "trainer_stalled",
        "torn_set_aside",
        "not_durable",
        "not_deleted",
        "disk_error",
        "nothing_committed",
    }
)
"""Events that a person should look at: logged as warnings."""


class EventLog:
    """Appends events to a file of one attempt; never fails the caller: a full disk costs the file, not the run."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.listeners: list[Callable[[dict[str, object]], None]] = []
        self._now = now
        self._told_error = False

    def __call__(self, event: str, /, **fields: object) -> None:
        """Tell that something happened."""
        line: dict[str, object] = {"event": event, "time": round(self._now(), 3)} | {
            key: value for key, value in fields.items() if value is not None
        }
        self._append(line)
        log.log(logging.WARNING if event in LOUD else logging.INFO, event, extra={"fields": fields})
        for listener in self.listeners:
            listener(line)

    def _append(self, line: dict[str, object]) -> None:
        try:
            with os.fdopen(os.open(self.path, _APPEND, 0o644), "ab") as file:
                file.write(json.dumps(line, sort_keys=True, separators=(",", ":"), default=str).encode() + b"\n")
        except OSError as error:
            if not self._told_error:
                self._told_error = True
                log.warning("events are not kept: %s", error)

    def begin_attempt(self) -> None:
        """A new attempt's log begins: the last one's is kept beside it."""
        try:
            if self.path.exists():
                self.path.replace(self.path.with_suffix(".old.jsonl"))
        except OSError as error:
            log.warning("%s: %s", self.path, error.strerror)
