"""Stores that misbehave on purpose, each around a real one."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from syncd.errors import Transient
from syncd.store import Entry, Fetched, Gate, Source, Store


class NodeDied(BaseException):
    """The node is gone. No `Exception`, so that nothing on the way can swallow it."""


class Around:
    """Passes every verb on through `before` and `after`; the base of the wrappers here."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    async def before(self, verb: str, key: str) -> None:
        """Runs before a verb takes effect."""

    async def after(self, verb: str, key: str) -> None:
        """Runs after a verb took effect, before its answer is given."""

    async def _do(self, verb: str, key: str, call: Callable[[], Awaitable[object]]) -> object:
        await self.before(verb, key)
        result = await call()
        await self.after(verb, key)
        return result

    async def put(self, key: str, data: bytes) -> None:
        await self._do("put", key, lambda: self.inner.put(key, data))

    async def create(self, key: str, data: bytes) -> None:
        await self._do("create", key, lambda: self.inner.create(key, data))

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        await self._do("upload", key, lambda: self.inner.upload(key, source, gate))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        await self.before("get", key)
        data = await self.inner.get(key, offset, length)
        await self.after("get", key)
        return data

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        await self.before("fetch", key)
        fetched = await self.inner.fetch(key, offset, length, fd)
        await self.after("fetch", key)
        return fetched

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        await self.before("list", prefix)
        entries = await self.inner.list(prefix, shallow=shallow)
        await self.after("list", prefix)
        return entries

    async def delete(self, key: str) -> None:
        await self._do("delete", key, lambda: self.inner.delete(key))

    async def aclose(self) -> None:
        await self.inner.aclose()


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


class FlakyStore(Around):
    """Each call fails with `Transient` by chance, before or after it took effect (a lost answer)."""

    def __init__(self, inner: Store, rng: random.Random, chance: float = 0.2) -> None:
        super().__init__(inner)
        self.rng, self.chance = rng, chance

    async def before(self, verb: str, key: str) -> None:
        if self.rng.random() < self.chance:
            raise Transient(f"{verb} {key}: lost on the way there")

    async def after(self, verb: str, key: str) -> None:
        if self.rng.random() < self.chance:
            raise Transient(f"{verb} {key}: answer lost")


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
