"""Loose files of an attempt: events, the trainer's output, what `SYNCD_EXTRA` names. Single writer: this attempt."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from syncd.errors import Refused, Torn
from syncd.local.digest import sum_file
from syncd.local.tree import OWN, Identity, open_beneath, opened
from syncd.local.trouble import Trouble
from syncd.model.names import check_path
from syncd.move.objects import Owner
from syncd.store import Gate, Source, Store

log = logging.getLogger("syncd")
SEGMENT = 1 << 20
"""Bytes after which a segment of the trainer's output is closed."""
SEGMENT_AGE = 60.0
"""Seconds after which it is closed anyway."""
MOST_SEGMENTS = 64
"""Closed segments kept while the store is away: then the oldest go, for a log must not fill the trainer's disk."""


class OutputLog:
    """The trainer's output in `.syncd/logs/`: `000001.part` grows, `000001.log` is closed and can be stored whole."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.number = 1
        self._size = 0
        self._since = 0.0
        self.disk: Trouble | None = None
        """Is told how the writing went."""

    def open(self) -> "OutputLog":
        """Close what an earlier daemon left growing; to be called with the root's lock held."""
        self.home.mkdir(parents=True, exist_ok=True)
        for left in self.home.glob("*.part"):
            left.rename(left.with_suffix(".log"))
        self.number = max((int(path.stem) for path in self.home.glob("*.log") if path.stem.isdecimal()), default=0) + 1
        return self

    @property
    def _part(self) -> Path:
        return self.home / f"{self.number:06d}.part"

    def write(self, data: bytes) -> None:
        """Append. Never raises: on a full disk the copy lacks lines, the trainer goes on."""
        try:
            with self._part.open("ab", buffering=0) as file:
                file.write(data)
            self._since = self._since or time.monotonic()
            self._size += len(data)
            if self._size >= SEGMENT:
                self.close_segment()
        except OSError as error:
            if self.disk:
                self.disk.failed("output", error)
            return
        if self.disk:
            self.disk.worked("output")

    def close_segment(self, older_than: float = 0.0) -> None:
        """Close the growing segment if there is one that began `older_than` seconds ago or earlier."""
        if self._size and time.monotonic() - self._since >= older_than:
            self._part.rename(self._part.with_suffix(".log"))
            self.number += 1
            self._size, self._since = 0, 0.0
            for old in self.closed()[:-MOST_SEGMENTS]:
                old.unlink(missing_ok=True)

    def closed(self) -> list[Path]:
        """Closed segments, oldest first."""
        return sorted(self.home.glob("*.log"))


class Loose:
    """Puts an attempt's loose files into the store. What cannot be read now is tried again at the next round."""

    def __init__(self, store: Store, owner: Owner, root: Path, extra: Sequence[str], gate: Gate) -> None:
        self.store, self.owner, self.root, self.extra, self.gate = store, owner, root, extra, gate
        self._stored: dict[str, tuple[int, int]] = {}
        self._events: tuple[int, int] | None = None
        self._logs: int | None = None

    async def events(self, path: Path) -> None:
        """The next segment of the event log: all whole lines since the last one. S3 has no append."""
        prefix = self.owner.keys.events(self.owner.attempt)
        if self._events is None:
            there = await self.store.list(prefix)
            self._events = len(there), sum(entry.size for entry in there)
        number, offset = self._events
        data = await asyncio.to_thread(_tail, path, offset)
        if data:
            await self.store.put(f"{prefix}{number + 1:06d}.jsonl", data)
            self._events = number + 1, offset + len(data)

    async def output(self, log_: OutputLog) -> None:
        """Closed segments of the trainer's output; each leaves the disk once it is stored."""
        prefix = self.owner.keys.logs(self.owner.attempt)
        if self._logs is None:
            self._logs = len(await self.store.list(prefix))
        for segment in log_.closed():
            await self.store.put(f"{prefix}{self._logs + 1:06d}.log", await asyncio.to_thread(segment.read_bytes))
            self._logs += 1
            segment.unlink(missing_ok=True)

    async def extras(self) -> None:
        """Files that match `SYNCD_EXTRA` and changed since they were stored: whole files only."""
        for path, identity in (await asyncio.to_thread(self._matching)).items():
            mark = identity.size, identity.mtime_ns
            if self._stored.get(path) == mark:
                continue
            try:
                await self._store_extra(path)
            except (Torn, OSError):
                continue  # being written: the next round has it
            except Refused as error:
                log.warning("extra file left out: %s", error)
            self._stored[path] = mark

    def _matching(self) -> dict[str, Identity]:
        found = {}
        for glob in self.extra:
            # A final ** means files too only since Python 3.13.
            matching = self.root.glob(f"{glob}/*" if glob.endswith("**") else glob)
            with suppress(
                RecursionError
            ):  # pathlib walks by recursion: below there, no path is short enough to be carried
                for path in matching:
                    name = path.relative_to(self.root).as_posix()
                    with suppress(OSError):  # gone, or not to be looked at
                        identity = Identity.of(path.lstat())
                        if identity.regular and not name.startswith(OWN):
                            found[name] = identity
        return found

    async def _store_extra(self, path: str) -> None:
        check_path(path, "SYNCD_EXTRA")
        with opened(self.root) as root:
            fd = open_beneath(root, path)
        try:
            size = os.fstat(fd).st_size
            source = Source(fd, size, await asyncio.to_thread(sum_file, fd, size))
            await self.store.upload(self.owner.keys.extra(self.owner.attempt) + path, source, self.gate)
        finally:
            os.close(fd)


def _tail(path: Path, offset: int) -> bytes:
    """Whole lines of a file from `offset` on; nothing where the file is shorter (it began anew)."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(8 << 20)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]
