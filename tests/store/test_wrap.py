"""The wrappers: retries that never give up while they should not, and opening at first use."""

import asyncio
import random

import pytest

from syncd.errors import ConfigError, Denied, NotFound, SlowDown, Transient
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Opening, Retrying


class Failing(MemoryStore):
    """Fails with the given errors, one a call, then works."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__({"k": b"v"})
        self.errors = list(errors)
        self.calls = 0

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self._fail()
        return await super().get(key, offset, length)

    async def delete(self, key: str) -> None:
        self._fail()
        await super().delete(key)

    def _fail(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def retrying(store: Failing, pauses: list[float], **options: object) -> Retrying:
    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    return Retrying(store, sleep=sleep, rng=random.Random(7), **options)  # type: ignore[arg-type]


async def test_what_fails_for_a_while_is_repeated_with_growing_jittered_pauses() -> None:
    pauses: list[float] = []
    store = retrying(Failing(*[Transient("away")] * 40), pauses)
    assert await store.get("k") == b"v"
    assert len(pauses) == 40
    assert all(0 <= pause <= 30 for pause in pauses)
    assert max(pauses[:3]) <= 2.0
    assert len({round(pause, 6) for pause in pauses}) == 40, "full jitter: no two alike"


async def test_the_state_is_told_once_when_it_changes() -> None:
    told: list[str | None] = []
    store = retrying(Failing(Transient("a"), Transient("b"), Transient("c")), [])
    store.health.listeners.append(told.append)
    await store.get("k")
    await store.get("k")
    assert told == ["a", None]
    assert store.health.retries == 3


async def test_it_is_away_while_any_call_fails_though_others_succeed() -> None:
    told: list[str | None] = []
    held = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await held.wait()

    inner = Failing(Transient("no name"))
    store = Retrying(inner, sleep=sleep)
    store.health.listeners.append(told.append)
    failing = asyncio.ensure_future(store.get("k"))
    while not told:
        await asyncio.sleep(0)
    await store.get("k")
    assert (told, store.health.error) == (["no name"], "no name")
    held.set()
    await failing
    assert (told, store.health.error) == (["no name", None], None)


async def test_it_is_back_when_one_that_failed_is_answered_though_others_pause() -> None:
    told: list[str | None] = []
    pausing = asyncio.Event()
    pauses = iter([pausing.wait, lambda: asyncio.sleep(0)])

    async def sleep(seconds: float) -> None:
        await next(pauses)()

    store = Retrying(Failing(Transient("a"), Transient("b")), sleep=sleep)
    store.health.listeners.append(told.append)
    first = asyncio.ensure_future(store.get("k"))
    while not told:
        await asyncio.sleep(0)
    await store.get("k")
    assert (told, store.health.error) == (["a", None], None)
    pausing.set()
    await first
    assert told == ["a", None]


async def test_a_call_that_is_given_up_fails_no_more() -> None:
    told: list[str | None] = []

    async def sleep(seconds: float) -> None:
        await asyncio.Event().wait()

    store = Retrying(Failing(Transient("away")), sleep=sleep)
    store.health.listeners.append(told.append)
    failing = asyncio.ensure_future(store.get("k"))
    while not told:
        await asyncio.sleep(0)
    failing.cancel()
    await asyncio.gather(failing, return_exceptions=True)
    assert (told, store.health.error) == (["away"], None), "nobody knows whether it is back"


async def test_a_store_that_asks_for_fewer_requests_is_away_only_when_it_goes_on_asking() -> None:
    told: list[str | None] = []
    store = retrying(Failing(SlowDown("a"), SlowDown("b")), [])
    store.health.listeners.append(told.append)
    await store.get("k")
    assert (told, store.health.retries) == ([], 2)
    store = retrying(Failing(*[SlowDown("again")] * 3), [])
    store.health.listeners.append(told.append)
    await store.get("k")
    assert told == ["again", None]


async def test_denied_ends_a_start_but_is_waited_out_once_a_trainer_depends_on_us() -> None:
    with pytest.raises(Denied):
        await retrying(Failing(Denied("no right")), []).get("k")
    store = retrying(Failing(Denied("no right"), Denied("no right")), [])
    store.patient = True
    assert await store.get("k") == b"v"


async def test_a_delete_that_is_denied_is_done_without_also_when_a_trainer_depends_on_us() -> None:
    inner = Failing(Transient("away"), Denied("no right"))
    store = retrying(inner, [])
    store.patient = True
    with pytest.raises(Denied):
        await store.delete("k")
    assert inner.calls == 2, "what passes was waited out"


async def test_an_answer_is_no_failure() -> None:
    inner = Failing(NotFound("k"))
    with pytest.raises(NotFound):
        await retrying(inner, []).get("k")
    assert inner.calls == 1


async def test_a_command_that_is_no_daemon_loses_its_patience() -> None:
    clock = [0.0]

    async def sleep(seconds: float) -> None:
        clock[0] += 10.0

    store = Retrying(Failing(*[Transient("away")] * 100), sleep=sleep, patience=30.0, monotonic=lambda: clock[0])
    with pytest.raises(Transient):
        await store.get("k")
    assert clock[0] == 40.0


async def test_a_store_that_cannot_be_opened_yet_is_opened_later_and_only_once() -> None:
    opened = 0

    async def open_() -> MemoryStore:
        nonlocal opened
        opened += 1
        if opened < 3:
            raise Transient("not up yet")
        return MemoryStore({"k": b"v"})

    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    store = Retrying(Opening(open_), sleep=sleep)
    assert await store.get("k") == b"v"
    assert await store.get("k") == b"v"
    assert (opened, len(pauses)) == (3, 2)
    await store.aclose()


async def test_what_the_operator_must_mend_ends_the_opening() -> None:
    async def open_() -> MemoryStore:
        raise ConfigError("no plugin")

    with pytest.raises(ConfigError):
        await Retrying(Opening(open_)).list("t/")


async def test_each_wish_for_fewer_requests_is_passed_on_and_waited_out() -> None:
    heard: list[int] = []
    store = retrying(Failing(Transient("away"), SlowDown("less"), SlowDown("less")), [])
    store.health.slow_listeners.append(lambda: heard.append(1))
    assert await store.get("k") == b"v"
    assert len(heard) == 2


async def test_a_store_that_can_be_read_is_not_back_while_it_refuses_writes() -> None:
    told: list[str | None] = []

    class Full(Failing):
        async def put(self, key: str, data: bytes) -> None:
            self.calls += 1
            if self.calls < 5:
                await store.get("k")
                raise Transient("full")
            await super().put(key, data)

    store = retrying(Full(), [])
    store.health.listeners.append(told.append)
    await store.put("a", b"1")
    assert told == ["full", None]


async def test_a_delete_that_is_denied_is_not_waited_for() -> None:
    class Kept(Failing):
        async def delete(self, key: str) -> None:
            raise Denied("no right")

    store, told = retrying(Kept(), []), list[str | None]()
    store.health.listeners.append(told.append)
    store.patient = True
    with pytest.raises(Denied):
        await store.delete("k")
    assert told == [], "the store is not away"
