"""Stores that do more than the one they stand around: they watch it, or fail on purpose. For rehearsals and tests."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from syncd.errors import Transient
from syncd.store import Entry, Fetched, Gate, Source, Store


class Around:
    """Passes every verb on through `before` and `after`: a base to derive from."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    @property
    def way(self) -> str | None:
        """How large bodies travel, where the store says so."""
        return getattr(self.inner, "way", None)

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


class FlakyStore(Around):
    """Each call fails with `Transient` by chance, before or after it took effect (a lost answer).

    By the same chance it first waits for up to `slow` seconds.
    """

    def __init__(self, inner: Store, rng: random.Random, chance: float = 0.2, slow: float = 0.0) -> None:
        super().__init__(inner)
        self.rng, self.chance, self.slow = rng, chance, slow

    async def before(self, verb: str, key: str) -> None:
        if self.slow and self.rng.random() < self.chance:
            await asyncio.sleep(self.slow * self.rng.random())
        if self.rng.random() < self.chance:
            raise Transient(f"{verb} {key}: lost on the way there")

    async def after(self, verb: str, key: str) -> None:
        if self.rng.random() < self.chance:
            raise Transient(f"{verb} {key}: answer lost")
