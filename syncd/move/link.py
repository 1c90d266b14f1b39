"""Measuring the link to a store: how fast it is, and a file of several ranges that is interrupted on its way."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from syncd.decide.doctor import SMALL, second_measurement
from syncd.local.digest import crc_of, crc_range, sum_file
from syncd.local.threads import all_of, to_its_end
from syncd.model.answer import Answer
from syncd.model.checkpoint import RANGE, ranges
from syncd.store import Gate, Source, Store

LARGE = RANGE + (64 << 10)
"""Bytes of the smallest file of two ranges that an upload can be interrupted between."""
PIECE = 8 << 20
"""Bytes of an object by which a fast link is measured, at most; smaller where that makes `LANES` of them."""
LANES = 4
LONGEST = 20.0
"""Seconds after which a measurement is given up, and beyond which nothing is begun."""


class Link:
    """Objects sent below `top` and fetched again. `most`: bytes that may be moved each way, `largest`: that a file may have.

    `interrupted`: the key of an upload that was cut off, of which the store may still hold parts.
    """

    def __init__(self, store: Store, top: str, up: Gate, down: Gate, *, most: int, largest: int) -> None:
        self.store, self.top, self.most, self.largest = store, top, most, largest
        self.interrupted: str | None = None
        self.resumed: Answer | None = None
        """Whether the second try of the file went on from the first; None: it was not asked."""
        self._gate_up, self._gate_down = up, down
        self._sent: list[tuple[str, int]] = []
        self._rate: float | None = None
        """Bytes a second of the slower way."""

    async def up(self) -> Answer:
        """One object tells about how fast the link is; then some at once, for as long as is worth it."""
        if not self.most:
            return Answer(None, "--bytes 0")
        first = min(SMALL, self.most)
        seconds = await self._send(1, first)
        if seconds is None:
            self._rate = first / LONGEST
            return Answer(True, f"less than {_rate(self._rate)}")
        self._rate = first / seconds
        wanted = second_measurement(seconds * SMALL / first, self.most)
        if wanted:
            piece = min(PIECE, wanted // LANES)
            seconds = await self._send(wanted // piece, piece)
            if seconds:
                self._rate = wanted // piece * piece / seconds
        return Answer(True, _rate(self._rate), round(self._rate))

    async def _send(self, count: int, nbytes: int) -> float | None:
        """Store so many objects of one size, some at once; the seconds, None where it took too long."""
        with memory(os.urandom(nbytes)) as fd:
            source = Source(fd, nbytes, await asyncio.to_thread(sum_file, fd, nbytes))
            keys = [f"{self.top}up-{nbytes}-{n}" for n in range(count)]
            began = time.monotonic()
            try:
                async with asyncio.timeout(LONGEST):
                    await all_of((partial(self.store.upload, key, source, self._gate_up) for key in keys), LANES)
            except TimeoutError:
                return None
        self._sent = [(key, nbytes) for key in keys]
        return time.monotonic() - began

    async def down(self) -> Answer:
        if not self._sent:
            return Answer(None, "nothing went up that could be fetched" if self.most else "--bytes 0")

        async def fetch(fd: int, key: str, nbytes: int) -> int:
            async with self._gate_down(nbytes):
                return (await self.store.fetch(key, 0, nbytes, fd)).nbytes

        with memory() as fd:
            began, moved = time.monotonic(), 0
            try:
                async with asyncio.timeout(LONGEST):
                    moved = sum(await all_of((partial(fetch, fd, *each) for each in self._sent), LANES))
            except TimeoutError:
                rate = sum(nbytes for _, nbytes in self._sent) / LONGEST
                self._rate = min(self._rate or rate, rate)
                return Answer(True, f"less than {_rate(rate)}")
            rate = moved / (time.monotonic() - began)
            self._rate = min(self._rate or rate, rate)
        return Answer(True, _rate(rate), round(rate))

    async def upload(self, may_resume: Callable[[], Awaitable[Answer]] | None) -> Answer:
        """A file of several ranges: interrupted, sent again, and read back. `may_resume` asks the store, where it tells."""
        if self.largest < LARGE:
            return Answer(None, f"it takes {LARGE / SMALL:.1f} MiB, more than --bytes allows")
        if self._rate and LARGE / self._rate > LONGEST:
            return Answer(None, f"its {LARGE / SMALL:.1f} MiB would take {LARGE / self._rate:.0f} s")
        told = await may_resume() if may_resume else None
        key, content = self.top + "upload", await asyncio.to_thread(os.urandom, LARGE)
        with memory(content) as fd:
            source = Source(fd, LARGE, await asyncio.to_thread(sum_file, fd, LARGE))
            # Where an interrupted one could not be found again, its parts would stay for good.
            stored = await self._interrupt(key, source) if told is None or told.yes else ""
            again = await self._send_counted(key, source)
            self.interrupted = None
            if told and not told.yes:
                self.resumed = told
            elif isinstance(stored, str):
                self.resumed = Answer(None, stored)
            else:
                self.resumed = Answer(again <= LARGE - stored)
        return Answer(await self._reads_back(key, source))

    async def _interrupt(self, key: str, source: Source) -> int | str:
        """Upload until one piece has gone, and be cancelled; its bytes, or why there was nothing to be interrupted."""
        gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        turn = asyncio.Lock()

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[bool | None]:
            # A piece that went keeps its turn: others wait for the end. One that failed lets the next try.
            await turn.acquire()
            try:
                async with self._gate_up(nbytes) as urgent:
                    yield urgent
            except BaseException:
                turn.release()
                raise
            gone.set_result(nbytes)

        self.interrupted = key
        upload = asyncio.ensure_future(self.store.upload(key, source, gate))
        try:
            either: set[asyncio.Future[Any]] = {upload, gone}
            await asyncio.wait(either, timeout=LONGEST, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upload.cancel()
            await asyncio.wait({upload})
        if not upload.cancelled():
            upload.result()
            return "it was over before it could be interrupted"
        return gone.result() if gone.done() else f"no piece of it went within {LONGEST:.0f} s"

    async def _send_counted(self, key: str, source: Source) -> int:
        """Upload; the bytes that had to be sent."""
        sent = 0

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[bool | None]:
            nonlocal sent
            async with self._gate_up(nbytes) as urgent:
                yield urgent
            sent += nbytes

        await self.store.upload(key, source, gate)
        return sent

    async def _reads_back(self, key: str, source: Source) -> bool:
        with memory() as fd:
            for (offset, length), digest in zip(ranges(source.size), source.sum.ranges, strict=True):
                async with self._gate_down(length):
                    came = await self.store.fetch(key, offset, length, fd)
                if came.nbytes != length or await to_its_end(crc_range, fd, offset, length) != crc_of(digest):
                    return False
        return True


@contextmanager
def memory(content: bytes = b"") -> Iterator[int]:
    """An open file in memory: the link is measured, not the disk, and nothing is written there."""
    fd = os.memfd_create("syncd-doctor")
    try:
        os.write(fd, content) if content else None
        yield fd
    finally:
        os.close(fd)


def _rate(bytes_per_second: float) -> str:
    """`9.5 MiB a second`."""
    if bytes_per_second < SMALL:
        return f"{bytes_per_second / 1024:.0f} KiB a second"
    return f"{bytes_per_second / SMALL:.1f} MiB a second"
