"""Asking stores: good ones, and such that lack one thing each; what is left, and that no task is touched."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncd.decide.doctor import STORE
from syncd.errors import Denied, NotFound, StoreError, Transient
from syncd.model.answer import Answer
from syncd.move import doctor as doctor_module
from syncd.move import link
from syncd.move.doctor import Doctor
from syncd.move.link import LARGE
from syncd.store import Entry, Fetched, Gate, Source, Store
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Retrying
from syncd.testing import open_gate
from syncd.testing.stores import Around

MOST = LARGE
OFFERED = {"keys", "versions"}


@asynccontextmanager
async def doctor_of(store: Store, most: int = MOST) -> AsyncIterator[Doctor]:
    clock = [0.0]

    async def sleep(seconds: float) -> None:
        clock[0] += 10.0

    retrying = Retrying(store, sleep=sleep, patience=10.0, monotonic=lambda: clock[0])
    async with Doctor(retrying, open_gate, open_gate, most=most, largest=most, token="0123") as made:
        yield made


async def answers(store: Store, most: int = MOST) -> tuple[dict[str, Answer], Doctor]:
    async with doctor_of(store, most) as doctor:
        found = {key: answer async for key, answer in doctor.ask()}
    return found, doctor


def denied(found: Mapping[str, Answer]) -> set[str]:
    return {key for key, answer in found.items() if answer.yes is False}


def task(store: MemoryStore) -> dict[str, bytes]:
    return {key: data for key, data in store.objects.items() if key.startswith("task/")}


async def test_a_good_store_has_all_nothing_is_left_and_no_task_is_touched() -> None:
    store = MemoryStore({"task/attempt-0001/attempt.json": b"claim"})
    found, doctor = await answers(store)
    assert tuple(found) == tuple(key for key in STORE if key not in OFFERED)
    assert denied(found) == {"resume"}
    assert {key for key, answer in found.items() if answer.yes is None} == {"checksums", "clock"}
    assert store.objects == {"task/attempt-0001/attempt.json": b"claim"}
    assert not doctor.left
    assert not doctor.owing
    assert found["up"].value


async def test_a_directory_is_asked_for_its_clock_and_left_empty(ram_path: Path) -> None:
    found, _ = await answers(FileStore.open(ram_path / "store"))
    assert denied(found) == {"checksums", "resume"}
    assert found["clock"].yes is True
    assert not [path for path in (ram_path / "store").rglob("*") if path.name != ".tmp"]


async def test_every_key_that_is_used_lies_below_the_doctors_own_prefix() -> None:
    used: set[str] = set()

    class Watched(Around):
        async def before(self, verb: str, key: str) -> None:
            used.add(key)

    await answers(Watched(MemoryStore()))
    assert used
    assert {key for key in used if not key.startswith("-syncd-doctor/0123/")} == set()


class Ignores(Around):
    """A store that takes a create-only put for a put, as older Ceph does."""

    async def create(self, key: str, data: bytes) -> None:
        await self.inner.put(key, data)


class Races(Around):
    """A store that looks, and then writes: two at once both find nothing."""

    async def create(self, key: str, data: bytes) -> None:
        there = [entry.key for entry in await self.inner.list(key.rpartition("/")[0] + "/")]
        await asyncio.sleep(0)
        await (self.inner.create if key in there else self.inner.put)(key, data)


class Undeletable(Around):
    async def delete(self, key: str) -> None:
        raise Denied(f"{key}: no right to delete")


class Unwritable(Around):
    async def before(self, verb: str, key: str) -> None:
        if verb in ("put", "create", "upload"):
            raise Denied(f"{key}: no right to write")


class Late(Around):
    """A listing shows what was there when it was asked for the last time."""

    seen: tuple[Entry, ...] = ()

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        before, self.seen = self.seen, tuple(await self.inner.list(prefix, shallow=shallow))
        return list(before)


class Forgets(Around):
    """The first content of an object is read for ever."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.first: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        await self.inner.put(key, self.first.setdefault(key, data))


class Lingers(Around):
    """A delete is answered, and does nothing."""

    async def delete(self, key: str) -> None:
        return


class Whole(Around):
    """Ranges are not served."""

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self.inner.get(key)

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        raise Denied("the server does not serve ranges of objects; use another")


class Trusts(Around):
    """Uploads whatever there is, without a look at the sums."""

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        data = await asyncio.to_thread(source.read, 0, source.size)
        await self.inner.put(key, data)


class Damages(Around):
    """One byte of a large file is stored as another."""

    async def after(self, verb: str, key: str) -> None:
        if verb == "upload" and key.endswith("/upload") and isinstance(self.inner, MemoryStore):
            data = bytearray(self.inner.objects[key])
            data[-1] ^= 1
            self.inner.objects[key] = bytes(data)


@pytest.mark.parametrize(
    ("kind", "lacks", "left"),
    [
        (Ignores, {"create"}, False),
        (Races, {"create"}, False),
        (Lingers, {"gone"}, True),
        (Undeletable, {"delete"}, True),
        (Forgets, {"replace", "ranges"}, False),
        (Whole, {"ranges", "down", "upload"}, False),
        (Trusts, {"held"}, False),
        (Damages, {"upload"}, False),
    ],
)
async def test_what_a_store_lacks_is_found_and_nothing_else(
    kind: Callable[[Store], Around], lacks: set[str], left: bool
) -> None:
    inner = MemoryStore({"task/x": b"1"})
    found, doctor = await answers(kind(inner))
    assert denied(found) - {"resume"} == lacks
    assert bool(doctor.left) == left
    assert task(inner) == {"task/x": b"1"}
    assert left or inner.objects == {"task/x": b"1"}


async def test_where_nothing_may_be_deleted_what_is_left_weighs_nothing() -> None:
    inner = MemoryStore()
    found, doctor = await answers(Undeletable(inner))
    assert "no right to delete" in found["delete"].said
    assert found["gone"].yes is None
    assert {entry.key for entry in doctor.left} == set(inner.objects)
    assert sum(map(len, inner.objects.values())) == 0


async def test_keys_that_may_only_read_are_told_so_once_and_the_rest_is_not_asked() -> None:
    found, doctor = await answers(Unwritable(MemoryStore()))
    assert denied(found) == {"put"}
    assert set(found) == {"reach", "put", "checksums", "clock"}
    assert not doctor.left


async def test_a_listing_that_lags_is_found() -> None:
    found, _ = await answers(Late(MemoryStore()))
    assert "list" in denied(found)


@pytest.mark.parametrize("error", [Denied("no such bucket"), Transient("connection refused")])
async def test_a_store_that_cannot_be_reached_is_asked_nothing_more(error: StoreError) -> None:
    class Unreachable(Around):
        async def before(self, verb: str, key: str) -> None:
            raise error

    found, doctor = await answers(Unreachable(MemoryStore()))
    assert found == {"reach": Answer(False if isinstance(error, Denied) else None, str(error))}
    assert doctor.away == isinstance(error, Transient)
    assert doctor.not_cleaned is None, "nothing was written"


async def test_a_store_that_goes_away_in_between_ends_the_questions_and_what_may_be_left_is_told() -> None:
    class Goes(Around):
        gone = False

        async def before(self, verb: str, key: str) -> None:
            self.gone = self.gone or verb == "upload"
            if self.gone:
                raise Transient("connection refused")

    found, doctor = await answers(Goes(MemoryStore()))
    assert list(found)[-1] == "held"
    assert found["held"] == Answer(None, "connection refused")
    assert doctor.away
    assert doctor.not_cleaned == "connection refused"


async def test_one_question_that_cannot_be_answered_leaves_the_others() -> None:
    class Odd(Around):
        async def before(self, verb: str, key: str) -> None:
            if verb == "create":
                raise Transient("503 to every create")

    found, doctor = await answers(Odd(MemoryStore()))
    assert found["create"] == Answer(None, "503 to every create")
    assert found["upload"].yes is True
    assert doctor.owing, "a run needs it"
    assert not doctor.away
    assert not doctor.left


class Tells(Around):
    """A store with a telling: what it says is counted, `says` is its answers."""

    def __init__(self, inner: Store, **says: Answer | StoreError) -> None:
        super().__init__(inner)
        self.says, self.tidied = says, list[str]()

    @property
    def telling(self) -> "Tells":
        return self

    async def about(self) -> Mapping[str, str]:
        raise NotFound("nothing to tell")

    def probes(self) -> Mapping[str, Callable[[str], Awaitable[Answer]]]:
        def probe(said: Answer | StoreError) -> Callable[[str], Awaitable[Answer]]:
            async def ask(key: str) -> Answer:
                if isinstance(said, StoreError):
                    raise said
                return said

            return ask

        return {key: probe(said) for key, said in self.says.items()}

    async def tidy(self, key: str) -> bool:
        self.tidied.append(key)
        return True


async def test_what_a_store_tells_of_itself_is_its_answer_and_what_it_may_not_ask_is_none() -> None:
    store = Tells(MemoryStore(), clock=Answer(False, "it is 90 s ahead", 90), versions=Denied("no right"))
    found, _ = await answers(store)
    assert found["clock"] == Answer(False, "it is 90 s ahead", 90)
    assert found["versions"] == Answer(None, "no right")
    assert "keys" not in found
    async with doctor_of(store) as doctor:
        assert await doctor.about() == {"about": "nothing to tell"}


async def test_an_upload_is_not_interrupted_where_its_parts_could_not_be_found_again() -> None:
    uploads: list[str] = []

    class Counts(Tells):
        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            uploads.append(key)
            await self.inner.upload(key, source, gate)

    found, _ = await answers(Counts(MemoryStore(), resume=Answer(False, "the keys lack a right")))
    assert found["resume"] == Answer(False, "the keys lack a right")
    assert [key.rpartition("/")[2] for key in uploads].count("upload") == 1
    uploads.clear()
    await answers(Counts(MemoryStore(), resume=Answer(True)))
    assert [key.rpartition("/")[2] for key in uploads].count("upload") == 2


async def test_an_interrupted_upload_is_tidied_up_when_the_doctor_is_ended_in_the_midst_of_it() -> None:
    begun = asyncio.Event()

    class Stalls(Tells):
        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            if key.endswith("/upload"):
                begun.set()
                await asyncio.Event().wait()
            await self.inner.upload(key, source, gate)

    store = Stalls(MemoryStore(), resume=Answer(True))
    running = asyncio.create_task(answers(store))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.tidied == ["-syncd-doctor/0123/upload"]
    assert isinstance(store.inner, MemoryStore)
    assert store.inner.objects == {}


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_piece_that_fails_is_sent_again_before_the_upload_is_interrupted(failures: int) -> None:
    """The interruption waits for a piece that went: a failed one must not keep the others waiting."""

    class FailsInTheGate(Around):
        left, uploads = failures, 0

        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            @asynccontextmanager
            async def failing(nbytes: int) -> AsyncIterator[bool | None]:
                async with gate(nbytes) as urgent:
                    if key.endswith("/upload") and self.left:
                        self.left -= 1
                        raise Transient("connection reset")
                    yield urgent

            self.uploads += key.endswith("/upload")
            await self.inner.upload(key, source, failing)

    store = FailsInTheGate(MemoryStore())
    async with asyncio.timeout(20):
        found, doctor = await answers(store)
    assert found["upload"].yes is True
    assert found["resume"] == Answer(False), "it was interrupted, and a store in memory begins anew"
    assert store.uploads == failures + 2
    assert not doctor.left


async def test_pieces_that_wait_for_one_that_failed_have_their_turn() -> None:
    """As on S3: several senders at once, of which the first fails, and the call ends when all have."""

    class SendsAtOnce(Around):
        failed = False

        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            async def send(number: int) -> None:
                async with gate(1):
                    await asyncio.sleep(0)
                    if number == 0 and not self.failed:
                        self.failed = True
                        raise Transient("connection reset")

            if key.endswith("/upload"):
                tasks = [asyncio.ensure_future(send(number)) for number in range(3)]
                try:
                    await asyncio.wait(tasks)
                    for task in tasks:
                        task.result()
                finally:
                    for task in tasks:
                        task.cancel()
            await self.inner.upload(key, source, open_gate)

    store = SendsAtOnce(MemoryStore())
    async with asyncio.timeout(20):
        found, _ = await answers(store)
    assert store.failed
    assert found["upload"].yes is True


async def test_an_upload_of_which_no_piece_goes_is_given_up_and_the_answer_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class StallsOnce(Around):
        stalled = False

        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            if key.endswith("/upload") and not self.stalled:
                self.stalled = True
                await asyncio.Event().wait()
            await self.inner.upload(key, source, gate)

    class Quick(link.Link):
        async def _interrupt(self, key: str, source: Source) -> int | str:
            monkeypatch.setattr(link, "LONGEST", 0.05)
            return await super()._interrupt(key, source)

    monkeypatch.setattr(doctor_module, "Link", Quick)
    found, doctor = await answers(StallsOnce(MemoryStore()))
    assert found["upload"].yes is True
    assert found["resume"] == Answer(None, "no piece of it went within 0 s")
    assert not doctor.left


@pytest.mark.parametrize("verb", ["list", "put", "delete"])
async def test_a_store_that_stalls_ends_the_questions_in_time_and_what_may_be_left_is_told(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(doctor_module, "ASKING", 0.5)
    monkeypatch.setattr(doctor_module, "CLEANING", 0.2)

    class Stalls(Around):
        async def before(self, asked: str, key: str) -> None:
            if asked == verb:
                await asyncio.Event().wait()

    async with asyncio.timeout(20):
        found, doctor = await answers(Stalls(MemoryStore()))
    assert any(answer == Answer(None, doctor_module.LATE) for answer in found.values())
    assert doctor.owing
    if verb == "list":
        assert set(found) == {"reach"}
    assert doctor.not_cleaned == ("the store did not remove it within 0 s" if verb == "delete" else None)


async def test_bytes_bound_what_is_moved() -> None:
    moved = 0

    class Counts(Around):
        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            nonlocal moved
            moved += source.size
            await self.inner.upload(key, source, gate)

    found, _ = await answers(Counts(MemoryStore()), most=3 << 20)
    assert found["upload"].yes is None
    assert found["up"].yes is True
    assert moved <= (1 << 20) + (3 << 20) + (1 << 20)
    moved = 0
    found, _ = await answers(Counts(MemoryStore()), most=0)
    assert found["up"] == found["down"] == Answer(None, "--bytes 0")
    assert moved <= 1 << 20


async def test_a_link_that_is_slow_is_told_and_no_large_file_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LONGEST", 0.05)

    class Slow(Around):
        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            if "/up-" in key:
                await asyncio.Event().wait()
            await self.inner.upload(key, source, gate)

    found, doctor = await answers(Slow(MemoryStore()))
    assert found["up"] == Answer(True, "less than 20.0 MiB a second")
    assert found["down"].yes is None
    assert found["upload"].yes is None
    assert "would take" in found["upload"].said
    assert not doctor.left
