"""The one seam to the outside: what a store of objects promises.

A key is a relative path of names joined by `/`; no key is a path prefix of another (a file and a directory of one
name never stand side by side), so that a file system can hold them. Every verb is one atomic operation, seen at once
by all. A backend raises only `syncd.errors.StoreError`s (`Torn` from `upload`), does no retries of its own, and
gives up on an operation that stands still (a time-out is `Transient`). A cancelled call may or may not have taken
effect, never half.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from syncd.errors import Torn, Unreadable
from syncd.model.answer import Answer
from syncd.model.checkpoint import FileSum


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing: a key and its size in bytes, or (shallow) a prefix that ends in `/`, size 0."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """An open regular file that the caller holds still, its size in bytes and the sums of its content."""

    fd: int
    size: int
    sum: FileSum

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; raises `Torn` when the file has become shorter, or cannot be read. Blocks: call it in
        a thread."""
        return read_exactly(self.fd, offset, length)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `fetch` wrote: `nbytes` bytes, and their digest where it was taken of the very bytes that were written."""

    nbytes: int
    digest: str | None = None


Gate = Callable[[int], AbstractAsyncContextManager[bool | None]]
"""`async with gate(nbytes) as urgent:` admits one piece of work under the caller's byte budget, concurrency and rate.

Unless it is urgent, a piece of an upload should leave the processor to the trainer.
"""


@runtime_checkable
class Store(Protocol):
    """Seven verbs over keys and bytes."""

    async def put(self, key: str, data: bytes) -> None:
        """Write a small object, replacing what was there."""

    async def create(self, key: str, data: bytes) -> None:
        """Write a small object that must not exist. Raises `Exists`, and then has written nothing."""

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        """Write a file of any size, replacing what was there; returns only when the store has vouched for the bytes.

        Takes up again what an earlier call for this key left unfinished, where the store can tell. Passes each piece
        (at most one range) through `gate`. Raises `Torn` when what was read is not what `source.sum` says.
        """

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """An object's bytes, or a range of them (shorter at the end of the object). Raises `NotFound`."""

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        """`get` of a range into an open file, at the same offset; what came (fewer bytes at the object's end).

        Nothing is verified: what was written counts only once the caller has compared its digest, or summed the file
        where the store says none. Raises OSError for the file's own disk. `fetch_by_get` serves a store that knows no
        better way. A cancelled call has stopped writing.
        """

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        """All objects below `prefix` (which ends in `/`), by key; shallow: its direct children only."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    async def aclose(self) -> None:
        """Free connections and threads."""


Probe = Callable[[str], Awaitable[Answer]]
"""Asks a store one question by means of its own, under a key that is the caller's to write and to delete."""


class Telling(Protocol):
    """What a store may have beside its verbs, as its attribute `telling`, for `syncd doctor`: nothing depends on it."""

    async def about(self) -> Mapping[str, str]:
        """What it knows of itself, by names for people: kind of server, endpoint, how bodies travel. Never a secret."""

    def probes(self) -> Mapping[str, Probe]:
        """What only it can ask, by the keys of `syncd.decide.doctor.QUESTIONS`: `checksums`, `clock`, `resume`, `keys`,
        `versions`.

        A probe raises what the verbs raise: then its question has no answer.
        """

    async def tidy(self, key: str) -> bool:
        """Remove what uploads of this key left unfinished, where a listing does not show it.

        Whether nothing is left: False also of a store that cannot see what a dead process left.
        """


def read_exactly(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes of an open file; raises `Torn` when it has become shorter, or cannot be read. Blocks."""
    pieces = []
    while length:
        try:
            piece = os.pread(fd, length, offset)
        except OSError as error:  # of the source's disk, not of a store's: waiting does not mend it
            raise Unreadable(
                f"bytes {offset} to {offset + length} of the file cannot be read: {error.strerror}; look into dmesg"
            ) from None
        if not piece:
            raise Torn(f"the file ended at byte {offset}, expected {length} more")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def fetch_by_get(store: Store, key: str, offset: int, length: int, fd: int) -> Fetched:
    """`Store.fetch` through memory: one `get`, then the write."""
    from syncd.local.threads import to_its_end  # asyncio, which the command line's start does without
    from syncd.store.landing import Landing, Unwritable

    data, landing = await store.get(key, offset, length), Landing(fd, offset, length)
    try:
        await to_its_end(landing.take, data[:length])
    except Unwritable as disk:
        raise disk.error from None
    return landing.fetched


def write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
    """All of `data` into a file at `offset`; its length. Blocks."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
    return len(data)
