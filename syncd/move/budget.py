"""What may be under way at once: pieces, bytes in memory, bytes a second."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from syncd.decide.lanes import LARGE, Lanes


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A piece that waits, or is under way; `laned`: a large upload."""

    nbytes: int
    laned: bool
    come: "asyncio.Future[None]"


class Budget:
    """Admits pieces of work: at most `concurrency` at once, `memory` bytes together, `rate` bytes a second (0: any).

    A piece larger than `memory` goes alone, when nothing else is under way, so that nothing waits for ever. `rate` is a
    token bucket of one second, for uploads alone; `hurry()` lifts it for the drain. A store that asks for fewer requests
    (`slow_down()`) halves what may run at once; each round of pieces that went through allows one more again (AIMD). On a
    slow link fewer large uploads run at once, as many as bring something (`Lanes`).
    """

    def __init__(
        self,
        concurrency: int,
        memory: int,
        rate: float = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.concurrency, self.memory, self.rate = concurrency, memory, rate
        self.moved = 0
        self.hurried = False
        self._allowed, self._slowed = float(concurrency), -math.inf
        self._lanes = Lanes(concurrency)
        self._began: float | None = None
        self._busy = 0.0
        self._clock, self._sleep = clock, sleep
        self._pieces = self._bytes = self._laned = 0
        self._waiting: list[_Turn] = []
        self._asked, self._earned, self._earned_at = 0, 0.0, clock()

    def hurry(self) -> None:
        """No rate limit and no courtesy to the trainer from now on: the node is about to go."""
        self.rate, self.hurried = 0, True
        self._admit()

    def pace(self, rate: float) -> None:
        """Another rate from now on, for what waits too; the drain's haste stays."""
        self._earn()
        if rate != self.rate:
            self._lanes.disturb()
        self.rate = 0 if self.hurried else rate

    def slow_down(self) -> None:
        """The store asked for less. Within a second it is one wish, however many requests hear it."""
        now = self._clock()
        if now - self._slowed >= 1.0:
            self._slowed, self._allowed = now, max(1.0, self._allowed / 2)
            self._lanes.disturb()

    @property
    def at_once(self) -> int:
        """Large uploads that may be under way now: `concurrency`, or fewer while the store is overloaded or the link slow."""
        return int(self._allowed) if self.hurried else min(int(self._allowed), self._lanes.at_once)

    @property
    def measured_rate(self) -> float | None:
        """Bytes a second over the time in which anything was under way; None before anything was moved."""
        busy = self._busy + (self._clock() - self._began if self._began is not None else 0.0)
        return round(self.moved / busy) if self.moved and busy > 0 else None

    def _fits(self, nbytes: int) -> bool:
        return self._pieces == 0 or (self._pieces < int(self._allowed) and self._bytes + nbytes <= self.memory)

    async def _pace(self, nbytes: int) -> bool:
        """Whether the rate held it up."""
        if self.rate <= 0:
            return False
        self._earn()
        held, due, self._asked = False, self._asked, self._asked + nbytes
        while self.rate > 0 and due - self._earn() >= 1:
            held = True
            await self._sleep(min((due - self._earned) / self.rate, 0.5))
        return held

    def _earn(self) -> float:
        """Bytes that the rate has allowed so far: at most one second's worth more than were asked for."""
        now = self._clock()
        self._earned = min(self._asked + self.rate, self._earned + self.rate * (now - self._earned_at))
        self._earned_at = now
        return self._earned

    def _admit(self) -> None:
        """First come, first served, so that nothing starves; only what waits for a lane is passed by what needs none."""
        for turn in list(self._waiting):
            if not turn.come.done():
                if turn.laned and self._laned >= self.at_once:
                    continue
                if not self._fits(turn.nbytes):
                    break
                if self._pieces == 0:
                    self._began = self._clock()
                self._pieces += 1
                self._bytes += turn.nbytes
                self._laned += turn.laned
                turn.come.set_result(None)
            self._waiting.remove(turn)

    def _release(self, turn: _Turn) -> None:
        self._pieces -= 1
        self._bytes -= turn.nbytes
        self._laned -= turn.laned
        if self._pieces == 0 and self._began is not None:
            self._busy += self._clock() - self._began
            self._began = None
        self._admit()

    @asynccontextmanager
    async def __call__(self, nbytes: int) -> AsyncIterator[bool]:
        """The gate of uploads: `unpaced`, and then the rate. Gives whether they are urgent."""
        async with self._admitted(nbytes, laned=nbytes >= LARGE):
            held = await self._pace(nbytes)
            yield self.hurried
            self.moved += nbytes
            # What a rate or the store's wish holds up, and too few pieces, say nothing of the link.
            full = not held and self._laned >= self._lanes.at_once and not self.hurried
            self._lanes.finished(nbytes, self._clock(), full=full)

    @asynccontextmanager
    async def unpaced(self, nbytes: int) -> AsyncIterator[None]:
        """The gate of downloads: wait until `nbytes` more may be under way, released at the end of the context."""
        async with self._admitted(nbytes, laned=False):
            yield

    @asynccontextmanager
    async def _admitted(self, nbytes: int, *, laned: bool) -> AsyncIterator[None]:
        turn = _Turn(nbytes, laned, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._admit()
        try:
            await turn.come
        except asyncio.CancelledError:
            if turn.come.done() and not turn.come.cancelled():
                self._release(turn)
            else:
                self._admit()
            raise
        try:
            yield
            self._allowed = min(float(self.concurrency), self._allowed + 1 / self._allowed)
        finally:
            self._release(turn)
