"""Stores that misbehave on purpose, each around a real one."""

import asyncio

from syncd.store import Store
from syncd.store.around import Around, FlakyStore

__all__ = ["MUTATIONS", "Around", "CrashingStore", "FlakyStore", "NodeDied", "SlowStore"]


class NodeDied(BaseException):
    """The node is gone. No `Exception`, so that nothing on the way can swallow it."""


MUTATIONS = frozenset({"put", "create", "upload", "delete"})


class CrashingStore(Around):
    """Dies at mutation number `at` (from 0): just before it takes effect, or (`late`) just after, unanswered.

    Once dead, every further call dies too: the process is gone. `mutations` counts those that were reached.
    """

    def __init__(self, inner: Store, at: int, *, late: bool = False) -> None:
        super().__init__(inner)
        self.at, self.late, self.mutations, self.dead = at, late, 0, False

    async def before(self, verb: str, key: str) -> None:
        if self.dead:
            raise NodeDied
        if verb in MUTATIONS:
            if self.mutations == self.at and not self.late:
                self.dead = True
                raise NodeDied
            self.mutations += 1

    async def after(self, verb: str, key: str) -> None:
        if verb in MUTATIONS and self.late and self.mutations > self.at:
            self.dead = True
        if self.dead:
            raise NodeDied


class SlowStore(Around):
    """Every mutation takes `delay` seconds, or as long as the event `hold` is clear."""

    def __init__(self, inner: Store, delay: float = 0.0) -> None:
        super().__init__(inner)
        self.delay = delay
        self.hold = asyncio.Event()
        self.hold.set()

    async def before(self, verb: str, key: str) -> None:
        if verb in MUTATIONS:
            await self.hold.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
