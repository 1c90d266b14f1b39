"""Wrappers around any store, stacked by the composition root: opening at first use, retries."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from syncd.errors import Denied, SlowDown, StoreError, Transient
from syncd.store import Entry, Fetched, Gate, Source, Store, Telling

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Opening:
    """Opens the store at the first call, and again at the next where that failed.

    So a store that is away when we start is waited out, shown and interrupted like one that goes away later.
    """

    def __init__(self, open_: Callable[[], Awaitable[Store]]) -> None:
        self._open = open_
        self._store: Store | None = None
        self._lock = asyncio.Lock()

    @property
    def way(self) -> str | None:
        """How large bodies travel, where the store says so and has been opened."""
        return getattr(self._store, "way", None)

    @property
    def telling(self) -> Telling | None:
        """Who tells of the store, where it has one and has been opened."""
        return getattr(self._store, "telling", None)

    async def _get(self) -> Store:
        async with self._lock:
            if self._store is None:
                self._store = await self._open()
            return self._store

    async def put(self, key: str, data: bytes) -> None:
        await (await self._get()).put(key, data)

    async def create(self, key: str, data: bytes) -> None:
        await (await self._get()).create(key, data)

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        await (await self._get()).upload(key, source, gate)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await (await self._get()).get(key, offset, length)

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        return await (await self._get()).fetch(key, offset, length, fd)

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        return await (await self._get()).list(prefix, shallow=shallow)

    async def delete(self, key: str) -> None:
        await (await self._get()).delete(key)

    async def aclose(self) -> None:
        if self._store is not None:
            await self._store.aclose()


class Health:
    """What the store's last answers were: the state that is shown while it is away.

    By verb: a store that is full can still be read, and is not back for that.
    """

    def __init__(self) -> None:
        self._errors: dict[str, str] = {}
        self.retries = 0
        self.listeners: list[Callable[[str | None], None]] = []
        self.slow_listeners: list[Callable[[], None]] = []

    @property
    def error(self) -> str | None:
        """What is wrong; None where nothing is."""
        return next(iter(self._errors.values()), None)

    def failed(self, verb: str, error: str) -> None:
        first = not self._errors
        self._errors[verb] = error
        self.retries += 1
        if first:
            self._tell()

    def slowed(self) -> None:
        """The store asks for fewer requests."""
        for listener in self.slow_listeners:
            listener()

    def worked(self, verb: str) -> None:
        """The verb got an answer, or nobody waits for one any more."""
        if self._errors.pop(verb, None) is not None and not self._errors:
            self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener(self.error)


class Retrying:
    """Repeats what failed for a while, for as long as the process lives, with full jitter.

    `Transient` is always waited out. `Denied` ends the start; once `patient` is set (a trainer depends on us) it is
    waited out too: rights come back, and a trainer is worth more than a clean exit; but for deletes, which are done
    without: keys often lack that right, and no checkpoint may wait for it. A create-only put is repeated like any other:
    the caller tells its own object by its bytes.
    """

    def __init__(
        self,
        inner: Store,
        *,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
        first: float = 0.5,
        longest: float = 30.0,
        patience: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`first`, `longest`: bounds in seconds of a pause; `patience`: seconds of failures of one call, None: no end."""
        self.inner = inner
        self.health = Health()
        self.patient = False
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._first, self._longest = first, longest
        self._patience, self._monotonic = patience, monotonic

    @property
    def way(self) -> str | None:
        """How large bodies travel, where the store says so."""
        return getattr(self.inner, "way", None)

    @property
    def telling(self) -> Telling | None:
        """Who tells of the store, where it has one."""
        return getattr(self.inner, "telling", None)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer of a store that tells of itself, repeated like a verb."""
        return await self._retry("ask", question)

    async def _retry(self, verb: str, call: Callable[[], Awaitable[T]], *, patient: bool | None = None) -> T:
        tries, began = 0, self._monotonic()
        while True:
            try:
                result = await call()
            except (Transient, Denied) as error:
                if isinstance(error, Denied) and not (self.patient if patient is None else patient):
                    raise
                self.health.failed(verb, str(error))
                if isinstance(error, SlowDown):
                    self.health.slowed()
                if self._patience is not None and self._monotonic() - began > self._patience:
                    raise
                tries += 1
                # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
                await self._sleep(self._rng.uniform(0, min(self._longest, self._first * 2 ** min(tries - 1, 16))))
            except StoreError:
                self.health.worked(verb)  # an answer, if not the hoped one
                raise
            else:
                self.health.worked(verb)
                return result

    async def put(self, key: str, data: bytes) -> None:
        await self._retry("put", lambda: self.inner.put(key, data))

    async def create(self, key: str, data: bytes) -> None:
        await self._retry("create", lambda: self.inner.create(key, data))

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        await self._retry("upload", lambda: self.inner.upload(key, source, gate))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._retry("get", lambda: self.inner.get(key, offset, length))

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        return await self._retry("fetch", lambda: self.inner.fetch(key, offset, length, fd))

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        return await self._retry("list", lambda: self.inner.list(prefix, shallow=shallow))

    async def delete(self, key: str) -> None:
        await self._retry("delete", lambda: self.inner.delete(key), patient=False)

    async def aclose(self) -> None:
        await self.inner.aclose()
