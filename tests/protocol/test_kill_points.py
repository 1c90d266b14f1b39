"""A node dies before, or just after, every mutation of the store, restarts, and nothing is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.errors import Superseded
from syncd.model.keys import Keys
from syncd.move.start import AlreadyDone
from syncd.store import Store
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.testing import CrashingStore, Node, NodeDied, verify

pytestmark = pytest.mark.timeout(600)  # a minute in memory; where there is no /dev/shm, each fsync waits for a disk
STEPS = (10, 20, 30, 40)
MAKERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda path: MemoryStore(),
    "file": lambda path: FileStore.open(path, create=True),
}


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


async def count(home: Path, make: Callable[[Path], Store]) -> int:
    store = CrashingStore(make(home / "store"), at=10**9)
    await Story(home, store).tell()
    return store.mutations


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
async def test_I1_I3_I4_I5_I7_death_at_every_mutation_loses_nothing(kind: str, ram_path: Path) -> None:
    """Each point on the same disk and on a new one, before and after the mutation takes effect."""
    make = MAKERS[kind]
    points = 0
    total = await count(ram_path / "count", make)
    for late in (False, True):
        for same_disk in (False, True):
            for at in range(total):
                home = ram_path / f"{late}-{same_disk}-{at}"
                inner = make(home / "store")
                story = Story(home, CrashingStore(inner, at=at, late=late))
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
                keys = Keys("task")
                assert await inner.get(keys.done)
                shutil.rmtree(home)
    print(f"{points} kill points on the {kind} store")
    assert points >= 120


async def survive(story: Story) -> None:
    """Who comes next finishes the task; a disk that was overtaken says so once and is then free."""
    try:
        await story.node("b", STEPS, finish=True)
    except Superseded:
        await story.node("b", STEPS, finish=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
async def test_I5_death_in_the_second_life_too_loses_nothing(kind: str, ram_path: Path) -> None:
    """Two deaths: the second node dies as well, at every mutation of its own, then a third takes over."""
    make = MAKERS[kind]
    points = 0
    total = await count(ram_path / "count", make)
    for first in range(total):
        second = 0
        while True:
            home = ram_path / f"{first}-{second}"
            inner = make(home / "store")
            story = Story(home, CrashingStore(inner, at=first))
            with pytest.raises(NodeDied):
                await story.tell()
            story.store = CrashingStore(inner, at=second)
            try:
                await story.node("c", STEPS, finish=True)
            except NodeDied:
                points += 1
            else:
                break
            await verify(inner)
            story.store = inner
            await story.node("d", STEPS, finish=True)
            await verify(inner)
            assert await inner.get(Keys("task").done)
            shutil.rmtree(home)
            second += 1
    print(f"{points} kill points on the {kind} store")
    assert points >= 500
