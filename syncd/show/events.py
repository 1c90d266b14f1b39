"""The event log: one line for each thing that happened, in `.syncd/events.jsonl`, on stderr, and to whoever listens."""

import contextlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from syncd.local.trouble import Trouble

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
        "disk_error",
        "disk_low",
        "not_pinned",
        "not_deleted",
        "nothing_committed",
    }
)
"""Events that a person should look at: logged as warnings."""


HELD_BACK = 1000
"""Events that are kept in memory while the disk does not take them."""


class EventLog:
    """Appends events to a file of one attempt; never fails the caller: what the disk does not take now comes later.

    `disk` is told how the writing went.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.listeners: list[Callable[[dict[str, object]], None]] = []
        self.disk: Trouble | None = None
        self._now = now
        self._unwritten: deque[bytes] = deque(maxlen=HELD_BACK)

    def __call__(self, event: str, /, **fields: object) -> None:
        """Tell that something happened."""
        line: dict[str, object] = {"event": event, "time": round(self._now(), 3)} | {
            key: value for key, value in fields.items() if value is not None
        }
        self._unwritten.append(json.dumps(line, sort_keys=True, separators=(",", ":"), default=str).encode() + b"\n")
        self.write_back()
        log.log(logging.WARNING if event in LOUD else logging.INFO, event, extra={"fields": fields})
        for listener in self.listeners:
            listener(line)

    def write_back(self) -> None:
        """Write what has not been written yet, if there is any."""
        if not self._unwritten:
            return
        lines = b"".join(self._unwritten)
        try:
            _append(self.path, lines)
        except OSError as error:
            if self.disk:
                self.disk.failed("events", error)
            return
        self._unwritten.clear()
        if self.disk:
            self.disk.worked("events")

    def begin_attempt(self) -> None:
        """A new attempt's log begins: the last one's is kept beside it."""
        try:
            if self.path.exists():
                self.path.replace(self.path.with_suffix(".old.jsonl"))
        except OSError as error:
            log.warning("%s: %s", self.path, error.strerror)


def _append(path: Path, lines: bytes) -> None:
    """All of the lines or none: half a line would spoil the next one. Raises `OSError`."""
    fd = os.open(path, _APPEND, 0o644)
    try:
        before = os.fstat(fd).st_size
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):  # a disk that does not even take this has more to say than we
                os.ftruncate(fd, before)
            raise
    finally:
        os.close(fd)
