"""A node dies before, or just after, a call of the store, restarts, and nothing is lost.

`make test` has the mutations over memory and a directory; `make faults` every call of these, and every store's mutations.
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from syncd_obstore import ObstoreSettings
from syncd_obstore.store import ObstoreStore
from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.errors import Superseded
from syncd.model.keys import Keys
from syncd.move.start import AlreadyDone
from syncd.store import Store
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.testing import CrashingStore, Node, NodeDied, verify
from syncd.testing.servers import Minio
from syncd.testing.stores import EVERY, MUTATIONS

ALL = bool(os.environ.get("SYNCD_TEST_ALL_FAULTS"))
pytestmark = pytest.mark.timeout(
    0 if ALL else 600
)  # a minute in memory; where there is no /dev/shm, fsyncs wait for a disk
STEPS = (10, 20, 30, 40)
VERBS = EVERY if ALL else MUTATIONS
Make = Callable[[Path], Awaitable[Store]]


async def memory(path: Path) -> Store:
    return MemoryStore()


async def directory(path: Path) -> Store:
    return FileStore.open(path, create=True)


def s3(way: str) -> Make:
    async def make(path: Path) -> Store:
        return await S3Store.open(f"s3://kills/{way}/{path.parent.name}", S3Settings(s3_path=way))  # type: ignore[arg-type]

    return make


def obstore(url: str) -> Make:
    async def make(path: Path) -> Store:
        return await ObstoreStore.open(url.format(path=path, name=path.parent.name), ObstoreSettings())

    return make


MAKERS: dict[str, Make] = {"memory": memory, "file": directory}
if ALL:
    MAKERS |= {f"s3 {way}": s3(way) for way in ("fast", "signed", "sdk")}
    MAKERS |= {
        "obstore memory": obstore("obstore+memory:///"),
        "obstore file": obstore("obstore+file://{path}"),
        "obstore s3": obstore("obstore+s3://kills/obstore/{name}"),
    }


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("kills")
        yield server


@pytest.fixture
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    kind: str = request.param
    if "s3" in kind:
        for name, value in request.getfixturevalue("minio").env.items():
            monkeypatch.setenv(name, value)
    return MAKERS[kind]


@asynccontextmanager
async def stored(make: Make, home: Path) -> AsyncIterator[Store]:
    store = await make(home / "store")
    try:
        yield store
    finally:
        await store.aclose()


def verbs_of(store: Store) -> frozenset[str]:
    """Where a call takes long its mutations must do: between two of them a node that reads changes nothing."""
    return VERBS if isinstance(store, MemoryStore | FileStore) else MUTATIONS


class Story:
    """A run told in one go: node A trains and dies, node B restores, trains on, goes back a step, and finishes.

    What was committed is noted as soon as it is known, so that whoever comes later can be held to it.
    """

    def __init__(self, home: Path, store: Store) -> None:
        self.home, self.store = home, store
        self.durable = 0

    async def node(self, name: str, steps: tuple[int, ...], *, finish: bool) -> None:
        node = Node(self.store, self.home / name)
        try:
            begun = await node.boot()
        except AlreadyDone:
            return
        resumed = begun.step or 0
        assert resumed >= self.durable, f"resumed {resumed}, but {self.durable} was committed"
        if resumed:
            assert node.holds(resumed)
        for step in steps:
            if step > resumed:
                node.save(step)
                await node.push_all()
                self.durable = max(self.durable, step)
        if finish:
            final = node.root / "final"
            final.mkdir(exist_ok=True)
            (final / "model.bin").write_bytes(b"the model")
            await node.keeper.finish()

    async def tell(self) -> None:
        await self.node("a", STEPS[:2], finish=False)
        await self.node("b", STEPS, finish=True)


async def count(home: Path, make: Make) -> int:
    async with stored(make, home) as inner:
        store = CrashingStore(inner, at=10**9, verbs=verbs_of(inner))
        await Story(home, store).tell()
        return store.mutations


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS, indirect=True)
async def test_I1_I3_I4_I5_I7_death_at_every_call_loses_nothing(
    make: Make, ram_path: Path, request: pytest.FixtureRequest, sum_up: Callable[[str, str], None]
) -> None:
    """Each point on the same disk and on a new one, before and after the call takes effect."""
    points = 0
    total = await count(ram_path / "count-one", make)
    for late in (False, True):
        for same_disk in (False, True):
            for at in range(total):
                home = ram_path / f"one-{late}-{same_disk}-{at}"
                async with stored(make, home) as inner:
                    story = Story(home, CrashingStore(inner, at=at, late=late, verbs=verbs_of(inner)))
                    with pytest.raises(NodeDied):
                        await story.tell()
                    points += 1
                    await verify(inner)
                    story.store = inner
                    if not same_disk:
                        for left in home.glob("[ab]"):
                            shutil.rmtree(left)
                    await survive(story)
                    await verify(inner)
                    assert await inner.get(Keys("task").done)
                shutil.rmtree(home, ignore_errors=True)
    sum_up(request.node.name, f"{points} kill points within the process, {request.node.callspec.id}: 0 lost, 0 torn")
    assert points >= 120


async def survive(story: Story) -> None:
    """Who comes next finishes the task; a disk that was overtaken says so once and is then free."""
    try:
        await story.node("b", STEPS, finish=True)
    except Superseded:
        await story.node("b", STEPS, finish=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS, indirect=True)
async def test_I5_death_in_the_second_life_too_loses_nothing(
    make: Make, ram_path: Path, request: pytest.FixtureRequest, sum_up: Callable[[str, str], None]
) -> None:
    """Two deaths: the second node dies as well, at every call of its own, then a third takes over."""
    points = 0
    total = await count(ram_path / "count-two", make)
    for first in range(total):
        second = 0
        while True:
            home = ram_path / f"two-{first}-{second}"
            async with stored(make, home) as inner:
                story = Story(home, CrashingStore(inner, at=first, verbs=verbs_of(inner)))
                with pytest.raises(NodeDied):
                    await story.tell()
                story.store = CrashingStore(inner, at=second, verbs=verbs_of(inner))
                try:
                    await story.node("c", STEPS, finish=True)
                except NodeDied:
                    points += 1
                else:
                    shutil.rmtree(home)
                    break
                await verify(inner)
                story.store = inner
                await story.node("d", STEPS, finish=True)
                await verify(inner)
                assert await inner.get(Keys("task").done)
            shutil.rmtree(home, ignore_errors=True)
            second += 1
    sum_up(request.node.name, f"{points} kill points in a second life, {request.node.callspec.id}: 0 lost, 0 torn")
    assert points >= 500
