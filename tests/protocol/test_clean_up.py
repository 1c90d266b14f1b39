"""gc and reset: what they delete, what they never do, and death at each of their mutations."""

import asyncio
import shutil
from pathlib import Path

import pytest

from syncd.errors import Denied, Superseded, UsageError
from syncd.model import canonical
from syncd.model.heartbeat import HeartbeatBody
from syncd.model.keys import Keys
from syncd.move.own import (
    own,
    plan_gc,
    refuse_beside_a_result,
    refuse_beside_another,
    refuse_without_delete,
    reset,
)  # fmt: skip
from syncd.move.retain import carry_out
from syncd.store import Store
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Retrying
from syncd.testing import CrashingStore, Node, NodeDied, open_gate, verify
from syncd.testing.stores import Around

KEYS = Keys("task")


class Undeletable(Around):
    """Keys that may write and not delete, until they are `granted` that too."""

    granted = False

    async def delete(self, key: str) -> None:
        if not self.granted:
            raise Denied(f"{key}: no right")
        await self.inner.delete(key)


async def gc(store: Store, keep: int = 2) -> None:
    owner, started = await own(store, KEYS, node="operator", now=0.0, gate=open_gate)
    await carry_out(store, await plan_gc(store, owner, started, keep))


async def run_of(store: Store, root: Path, steps: tuple[int, ...], keep: int = 99) -> Node:
    node = Node(store, root, keep=keep)
    await node.boot()
    for step in steps:
        node.save(step)
        await node.push_all()
    return node


async def commits(store: Store) -> list[str]:
    return [entry.key for entry in await store.list("task/") if "/manifests/" in entry.key]


async def test_I7_gc_keeps_the_newest_of_the_line_and_what_is_marked(ram_path: Path) -> None:
    store = MemoryStore()
    await run_of(store, ram_path / "a", (1, 2, 3, 4, 5))
    await store.create("task/attempt-0001/kept/checkpoint-2.json", b"{}")
    await gc(store, keep=2)
    assert [key.rsplit("/", 1)[-1] for key in await commits(store)] == [
        "checkpoint-2.json",
        "checkpoint-4.json",
        "checkpoint-5.json",
    ]
    await verify(store)


async def test_keys_without_the_right_to_delete_still_commit_every_checkpoint_and_it_is_told_once(
    ram_path: Path,
) -> None:
    store = Undeletable(MemoryStore())
    retrying = Retrying(store)
    retrying.patient = True  # as in a daemon: a trainer depends on us
    node = await run_of(retrying, ram_path / "a", (1, 2, 3, 4, 5), keep=2)
    assert len(await commits(store)) == 5
    assert [name for name, _ in node.events].count("not_deleted") == 1
    store.granted = True
    node.save(6)
    await node.push_all()
    assert len(await commits(store)) == 2
    await verify(store)


async def test_who_may_not_delete_is_told_before_anything_is_claimed() -> None:
    store = MemoryStore()
    with pytest.raises(Denied, match="Nothing was changed: run 'syncd gc'"):
        await refuse_without_delete(Undeletable(store), KEYS, "gc")
    assert not store.objects
    await refuse_without_delete(store, KEYS, "gc")


async def test_I7_gc_removes_orphans_and_late_commits_of_a_zombie(ram_path: Path) -> None:
    store = MemoryStore()
    zombie = await run_of(store, ram_path / "a", (1, 2))
    await run_of(store, ram_path / "b", (3,))
    zombie.save(9, lineage="zombie")
    await zombie.keeper.root.look()
    assert await zombie.keeper.push_next()
    with pytest.raises(Superseded):
        await zombie.keeper.clean_up()
    await store.put("task/attempt-0001/checkpoint-7/model.bin", b"orphan")
    await gc(store)
    left = [entry.key for entry in await store.list("task/")]
    assert not [key for key in left if "checkpoint-9" in key or "checkpoint-7" in key]
    assert not [key for key in left if "checkpoint-1/" in key]
    await verify(store)


async def test_only_attempts_from_the_lowest_that_loses_something_are_closed(ram_path: Path) -> None:
    """Else each deletion after a hundred preemptions would ask a hundred attempts."""
    store = MemoryStore()
    for life, steps in enumerate([(1,), (2,), (3, 4, 5), (6,)]):
        node = Node(store, ram_path / str(life), keep=2)
        await node.boot()
        for step in steps:
            node.save(step)
            await node.push_all()
    closed = {key for key in store.objects if key.endswith("closed.json")}
    assert closed == {KEYS.closed(1), KEYS.closed(2), KEYS.closed(3)}, "each lost its commits to a later one"
    await store.delete(KEYS.closed(1))
    node.save(7)
    await node.push_all()
    assert {step for step in range(9) if KEYS.manifest(3, f"checkpoint-{step}") in store.objects} == set()
    assert KEYS.closed(1) not in store.objects, "nothing of it was left to be deleted"
    await verify(store)


async def test_gc_and_reset_refuse_beside_a_fresh_heartbeat(ram_path: Path) -> None:
    store = MemoryStore()
    await run_of(store, ram_path / "a", (1,))
    body = HeartbeatBody(
        task="task", attempt=1, node="a", session="s", seq=1, time=1000.0, interval=1.0, state="training"
    )
    await store.put(KEYS.heartbeat(1), canonical.encode(body))
    with pytest.raises(UsageError, match="at work"):
        await refuse_beside_another(store, KEYS, 1001.0, "gc")
    await refuse_beside_another(store, KEYS, 1100.0, "gc")


async def test_reset_leaves_claims_and_records_and_the_next_start_is_from_zero(ram_path: Path) -> None:
    store = MemoryStore()
    node = await run_of(store, ram_path / "a", (1, 2))
    (node.root / "final").mkdir()
    (node.root / "final" / "m").write_text("model")
    await node.keeper.finish()
    await carry_out(store, await reset(store, KEYS, node="operator", now=0.0))
    assert {entry.key.rsplit("/", 1)[-1] for entry in await store.list("task/")} == {
        "attempt.json",
        "resume.json",
        "closed.json",
    }
    again = Node(store, ram_path / "c")
    assert (await again.boot()).checkpoint is None
    await verify(store)


class AtDone(Around):
    """A node that stands still just before it names its result."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def create(self, key: str, data: bytes) -> None:
        if key == KEYS.done:
            self.reached.set()
            await self.go_on.wait()
        await self.inner.create(key, data)


@pytest.mark.parametrize("final", [True, False])
async def test_I7_a_reset_deletes_nothing_that_a_node_is_about_to_name(ram_path: Path, final: bool) -> None:
    store = MemoryStore()
    slow = AtDone(store)
    zombie = await run_of(slow, ram_path / "a", (1, 2))
    if final:
        (zombie.root / "final").mkdir()
        (zombie.root / "final" / "m").write_text("model")
    finishing = asyncio.ensure_future(zombie.keeper.finish())
    await slow.reached.wait()
    before = dict(store.objects)
    with pytest.raises(UsageError, match=r"attempt 1 of task was about to name its result.*--gone"):
        await refuse_beside_a_result(store, KEYS)
    assert store.objects == before
    with pytest.raises(Superseded, match="attempt 1 names its result at this moment; nothing is deleted"):
        await reset(store, KEYS, node="operator", now=0.0)  # it closed itself after the look
    slow.go_on.set()
    assert await finishing
    await verify(store)
    await refuse_beside_a_result(store, KEYS)
    await carry_out(store, await reset(store, KEYS, node="operator", now=0.0))
    assert not [key for key in store.objects if "/manifests/" in key or key == KEYS.done]


@pytest.mark.parametrize("final", [True, False])
async def test_I7_after_a_reset_an_overtaken_node_names_no_result(ram_path: Path, final: bool) -> None:
    store = MemoryStore()
    zombie = await run_of(store, ram_path / "a", (1, 2))
    if final:
        (zombie.root / "final").mkdir()
        (zombie.root / "final" / "m").write_text("model")
    await carry_out(store, await reset(store, KEYS, node="operator", now=0.0))
    with pytest.raises(Superseded):
        await zombie.keeper.finish()
    assert KEYS.done not in store.objects
    assert (await Node(store, ram_path / "b").boot()).checkpoint is None


async def test_a_reset_of_a_node_that_is_gone_for_good_is_done_when_that_is_said(ram_path: Path) -> None:
    store = MemoryStore()
    slow = AtDone(store)
    zombie = await run_of(slow, ram_path / "a", (1, 2))
    finishing = asyncio.ensure_future(zombie.keeper.finish())
    await slow.reached.wait()
    finishing.cancel()
    await carry_out(store, await reset(store, KEYS, node="operator", now=0.0, gone=True))
    assert not [key for key in store.objects if "/manifests/" in key]


@pytest.mark.parametrize("late", [False, True])
async def test_I1_I7_death_at_every_mutation_of_gc_loses_nothing(ram_path: Path, late: bool) -> None:
    points = 0
    while True:
        store = MemoryStore()
        await run_of(store, ram_path / "a", (1, 2, 3, 4, 5))
        await store.put("task/attempt-0001/checkpoint-7/model.bin", b"orphan")
        shutil.rmtree(ram_path / "a")
        try:
            await gc(CrashingStore(store, at=points, late=late))
        except NodeDied:
            points += 1
        else:
            break
        await verify(store)
        next_node = Node(store, ram_path / "n")
        assert (await next_node.boot()).step == 5
        assert next_node.holds(5)
        shutil.rmtree(ram_path / "n")
    print(f"{points} kill points in gc")
    assert points >= 15


async def test_death_at_every_mutation_of_reset_leaves_a_store_that_starts(ram_path: Path) -> None:
    points = 0
    while True:
        store = MemoryStore()
        await run_of(store, ram_path / "a", (1, 2, 3))
        shutil.rmtree(ram_path / "a")
        crashing = CrashingStore(store, at=points)
        try:
            await carry_out(crashing, await reset(crashing, KEYS, node="operator", now=0.0))
        except NodeDied:
            points += 1
        else:
            break
        await verify(store)
        recorded = KEYS.record(2) in store.objects
        begun = await Node(store, ram_path / "n").boot()
        assert begun.step == (None if recorded else 3)
        shutil.rmtree(ram_path / "n")
    assert points >= 10
