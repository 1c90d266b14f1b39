"""One file to a store by obstore: whole when it is small, as a multipart upload that is fed from here otherwise."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import obstore

from syncd.errors import Torn, Transient
from syncd.local.digest import add_crc, crc_of
from syncd.local.threads import to_its_end
from syncd.model.checkpoint import ranges
from syncd.store import Gate, Source

SLICE = 2 << 20
"""Bytes read and handed over at a time."""
PART = 8 << 20
"""Bytes of a part, and of the largest file that goes whole."""
PARTS = 9_000
"""Parts of one upload; the services stop at 10,000 and, Azure, at 50,000."""
AT_ONCE = 2
"""Parts under way at once: with the one that fills, they hold as much as the range that passed the gate."""
FAREWELL = 10.0
"""Seconds in which an upload that was given up may remove its parts."""

Progress = Callable[[int | None], None]


def part_of(size: int) -> int:
    """Bytes of a part for a file of `size` bytes, in whole MiB."""
    return max(PART, -(-size // PARTS // (1 << 20)) << 20)


async def upload(store: Any, path: str, source: Source, gate: Gate, progress: Progress) -> None:
    """Store the file as `path`. Raises `Torn`, and obstore's errors; then no object is there.

    Calls `progress(nbytes)` when that many must leave before the next call, `progress(None)` when it waits for the gate.
    """
    if source.size <= PART:
        async with gate(source.size):
            progress(source.size)
            data = await to_its_end(source.read, 0, source.size)
            _compare(add_crc(data), source.sum.digest, path, 0)
            await obstore.put_async(store, path, data, use_multipart=False)
        return
    part, feed = part_of(source.size), _Feed()
    put = asyncio.ensure_future(
        obstore.put_async(store, path, feed, use_multipart=True, chunk_size=part, max_concurrency=AT_ONCE)
    )
    try:
        digests = source.sum.ranges or (source.sum.digest,)
        for (offset, length), digest in zip(ranges(source.size), digests, strict=True):
            progress(None)
            async with gate(length):
                crc = 0
                for at in range(offset, offset + length, SLICE):
                    progress(AT_ONCE * part)
                    data = await to_its_end(source.read, at, min(SLICE, offset + length - at))
                    crc = add_crc(data, crc)
                    await _unless(put, feed.give(data))
                _compare(crc, digest, path, offset)
        progress(AT_ONCE * part)
        await _unless(put, feed.give(None))
        await put
    except BaseException:
        # By an error of its input obstore removes the parts; a call that is just cancelled leaves them behind.
        feed.broken = True
        feed.wake()
        await asyncio.wait({put}, timeout=FAREWELL)
        put.cancel()
        await asyncio.wait({put}, timeout=1)
        if put.done() and not put.cancelled():
            put.exception()  # what it said after that is of no interest
        raise


def _compare(crc: int, digest: str, path: str, offset: int) -> None:
    if crc != crc_of(digest):
        raise Torn(f"{path}: the bytes read at {offset} are not those that were summed")


async def _unless(put: "asyncio.Future[Any]", giving: Awaitable[None]) -> None:
    """Hand over, unless the upload ends before: its error is raised."""
    given = asyncio.ensure_future(giving)
    try:
        await asyncio.wait({put, given}, return_when=asyncio.FIRST_COMPLETED)
        if not given.done():
            put.result()
            raise Transient("the upload ended before its file did")
    finally:
        given.cancel()


class _Feed:
    """An asynchronous iterator for obstore, whose task for it outlives a cancelled call: it touches no file."""

    def __init__(self) -> None:
        self.broken = False
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    async def give(self, data: bytes | None) -> None:
        """The next bytes, or the end; waits until those before were taken."""
        await self._queue.put(data)

    def wake(self) -> None:
        """Let a pull that waits see that nothing more comes."""
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(None)

    def __aiter__(self) -> "_Feed":
        return self

    async def __anext__(self) -> bytes:
        data = None if self.broken else await self._queue.get()
        if self.broken:
            raise RuntimeError("given up")
        if data is None:
            raise StopAsyncIteration
        return data
