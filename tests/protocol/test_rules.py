"""The rules of DESIGN.md, one by one, on the memory store: what each must do, seen from outside."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from syncd.errors import ConfigError, Corrupt, Exists, Superseded
from syncd.model import canonical
from syncd.model.attempt import Done, Record
from syncd.model.keys import Keys
from syncd.move.objects import create_once, read_commits, read_record
from syncd.move.start import AlreadyDone, claim, start
from syncd.store import Store
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Retrying
from syncd.testing import FlakyStore, Node, NodeDied, verify
from syncd.testing.stores import Around

KEYS = Keys("task")


async def two_commits(store: Store, ram_path: Path) -> Node:
    node = Node(store, ram_path / "a")
    await node.boot()
    for step in (1, 2):
        node.save(step)
        await node.push_all()
    return node


class Before(Around):
    """Runs something once, just before the first verb on a key that ends so."""

    def __init__(self, inner: Store, verb: str, suffix: str, action) -> None:  # type: ignore[no-untyped-def]
        super().__init__(inner)
        self.verb, self.suffix, self.action = verb, suffix, action

    async def before(self, verb: str, key: str) -> None:
        if self.action and verb == self.verb and key.endswith(self.suffix):
            action, self.action = self.action, None
            await action()


async def test_I1_nothing_counts_before_the_manifest_and_everything_is_stored_by_then(ram_path: Path) -> None:
    order: list[tuple[str, str]] = []

    class Watcher(Around):
        async def after(self, verb: str, key: str) -> None:
            if verb in ("upload", "create", "list"):
                order.append((verb, key))

    node = Node(Watcher(MemoryStore()), ram_path / "a")
    await node.boot()
    order.clear()
    node.save(1)
    await node.push_all()
    manifest = order.index(("create", "task/attempt-0001/manifests/checkpoint-1.json"))
    uploads = [n for n, (verb, _) in enumerate(order) if verb == "upload"]
    checked = order.index(("list", "task/attempt-0001/checkpoint-1/"))
    assert len(uploads) == 3
    assert max(uploads) < checked < manifest


async def test_I1_a_file_that_the_store_lost_before_the_commit_is_sent_again(ram_path: Path) -> None:
    inner = MemoryStore()

    async def lose() -> None:
        await inner.delete("task/attempt-0001/checkpoint-1/model.bin")

    node = Node(Before(inner, "list", "checkpoint-1/", lose), ram_path / "a")
    await node.boot()
    node.save(1)
    await node.push_all()
    await verify(inner)


async def test_I2_objects_that_no_manifest_names_are_never_restored(ram_path: Path) -> None:
    store = MemoryStore()
    await two_commits(store, ram_path)
    await store.put("task/attempt-0001/checkpoint-9/model.bin", b"half of a newer one")
    await store.put("task/latest", b"checkpoint-9")
    begun = await Node(store, ram_path / "b").boot()
    assert begun.checkpoint == "checkpoint-2"


async def test_I3_a_lost_answer_to_the_claim_is_recognised_by_its_nonce() -> None:
    inner = MemoryStore()

    class LosesFirstAnswer(Around):
        lost = False

        async def create(self, key: str, data: bytes) -> None:
            await self.inner.create(key, data)
            if not self.lost:
                self.lost = True
                await self.inner.create(key, data)  # the retry of a client that got no answer

    with pytest.raises(Exists):
        await LosesFirstAnswer(inner).create("task/x", b"1")
    inner = MemoryStore()
    owner = await claim(LosesFirstAnswer(inner), KEYS, node="a", now=0.0)
    assert owner.attempt == 1
    assert await claim(inner, KEYS, node="b", now=0.0) != owner


async def test_I3_a_store_that_ignores_the_condition_is_refused_unless_the_risk_is_taken_by_name() -> None:
    class Ignores(Around):
        async def create(self, key: str, data: bytes) -> None:
            await self.inner.put(key, data)

    with pytest.raises(ConfigError, match="SYNCD_SINGLE_WRITER"):
        await claim(Ignores(MemoryStore()), KEYS, node="a", now=0.0)
    assert (await claim(Ignores(MemoryStore()), KEYS, node="a", now=0.0, single_writer=True)).attempt == 1


async def test_I3_another_ones_object_is_never_taken_for_ours() -> None:
    store = MemoryStore()
    assert await create_once(store, "k", b"ours")
    assert await create_once(store, "k", b"ours")
    assert not await create_once(store, "k", b"theirs")


async def test_I4_a_commit_after_the_successors_record_is_restored_by_nobody(ram_path: Path) -> None:
    store = MemoryStore()
    zombie = await two_commits(store, ram_path)
    second = Node(store, ram_path / "b")
    assert (await second.boot()).checkpoint == "checkpoint-2"
    zombie.save(3, lineage="zombie")
    await zombie.keeper.root.look()
    assert await zombie.keeper.push_next()
    third = Node(store, ram_path / "c")
    assert (await third.boot()).checkpoint == "checkpoint-2"
    assert third.holds(2)


async def test_I4_an_attempt_that_never_recorded_is_passed_over(ram_path: Path) -> None:
    store = MemoryStore()
    await two_commits(store, ram_path)
    await claim(store, KEYS, node="died", now=0.0)
    begun = await Node(store, ram_path / "c").boot()
    assert (begun.attempt, begun.checkpoint) == (3, "checkpoint-2")


async def test_I4_a_passed_attempt_that_records_meanwhile_is_chosen_from_again(ram_path: Path) -> None:
    """Rule 6: while the third chooses, the second records, trains and commits."""
    store = MemoryStore()
    await two_commits(store, ram_path)
    second = await claim(store, KEYS, node="slow", now=0.0)

    async def fetch_nothing(found: object) -> None:
        return None

    async def second_starts() -> None:
        record = Record(line=(await start_line(store)), nonce=second.nonce)
        await store.create(KEYS.record(second.attempt), canonical.encode(record))

    owner = await claim(store, KEYS, node="third", now=0.0)
    started = await start(Before(store, "get", "manifests/checkpoint-2.json", second_starts), owner, fetch_nothing)
    assert started.record.line == await start_line(store)
    assert started.record.nonce == owner.nonce


async def start_line(store: Store) -> tuple[str, ...]:
    return tuple(str(found.item) for found in reversed((await read_commits(store, KEYS, 1)).good))


async def test_I4_the_record_says_what_was_restored_and_skipped_ones_leave_the_line(ram_path: Path) -> None:
    store = MemoryStore()
    await two_commits(store, ram_path)
    store.objects["task/attempt-0001/checkpoint-2/model.bin"] = b"x" * 672
    second = Node(store, ram_path / "b")
    assert (await second.boot()).checkpoint == "checkpoint-1"
    record = await read_record(store, KEYS, 2)
    assert record and [line.split(" ")[0] for line in record.line] == ["attempt-0001/checkpoint-1"]
    assert "checkpoint-2" in record.skipped[0].key
    assert [event for event, _ in second.events if event == "checkpoint_damaged"]
    third = Node(store, ram_path / "c")
    assert (await third.boot()).checkpoint == "checkpoint-1"


async def test_I4_newest_is_the_highest_number_not_the_highest_step(ram_path: Path) -> None:
    store = MemoryStore()
    node = await two_commits(store, ram_path)
    node.save(1, lineage="went back")
    await node.push_all()
    second = Node(store, ram_path / "b")
    assert (await second.boot()).checkpoint == "checkpoint-1"
    assert second.holds(1, lineage="went back")
    assert "task/attempt-0001/manifests/checkpoint-1.2.json" in store.objects
    await verify(store)


@pytest.mark.parametrize("damage", ["flip", "short", "gone", "manifest", "manifest gone", "other digest"])
async def test_I5_a_damaged_checkpoint_means_the_next_older_one(ram_path: Path, damage: str) -> None:
    store = MemoryStore()
    await two_commits(store, ram_path)
    file, manifest = "task/attempt-0001/checkpoint-2/model.bin", "task/attempt-0001/manifests/checkpoint-2.json"
    if damage == "flip":
        store.objects[file] = b"\0" + store.objects[file][1:]
    elif damage == "short":
        store.objects[file] = store.objects[file][:-1]
    elif damage == "gone":
        del store.objects[file]
    elif damage == "manifest":
        store.objects[manifest] = store.objects[manifest][:-40]
    elif damage == "manifest gone":
        del store.objects[manifest]
    else:
        await Node(store, ram_path / "x").boot()
        store.objects[manifest] = store.objects[manifest].replace(b'"step":2', b'"step":7')
    second = Node(store, ram_path / "b")
    begun = await second.boot()
    assert begun.checkpoint == "checkpoint-1"
    assert second.holds(1)
    assert not (second.root / "checkpoint-2").exists()


@pytest.mark.parametrize("keep", [2, 3])
async def test_I5_as_many_silent_damages_as_are_kept_lose_and_one_less_does_not(ram_path: Path, keep: int) -> None:
    """The bound that DESIGN.md states."""
    store = MemoryStore()
    node = Node(store, ram_path / "a", keep=keep)
    await node.boot()
    for step in (1, 2, 3, 4):
        node.save(step)
        await node.push_all()
    oldest = 5 - keep
    for step in range(oldest + 1, 5):
        store.objects[f"task/attempt-0001/checkpoint-{step}/model.bin"] = b"damaged"
    last = f"task/attempt-0001/checkpoint-{oldest}/model.bin"
    whole, store.objects[last] = store.objects[last], b"damaged"
    assert (await Node(store, ram_path / "b").boot()).checkpoint is None
    store.objects[last] = whole
    del store.objects["task/attempt-0002/resume.json"]
    assert (await Node(store, ram_path / "c").boot()).checkpoint == f"checkpoint-{oldest}"


async def test_I5_a_line_that_cannot_be_read_is_never_a_start_from_zero(ram_path: Path) -> None:
    store = MemoryStore()
    await two_commits(store, ram_path)
    await Node(store, ram_path / "b").boot()
    store.objects["task/attempt-0002/resume.json"] = b"{torn"
    with pytest.raises(Corrupt, match="Not starting from zero"):
        await Node(store, ram_path / "c").boot()


async def test_I5_the_fence_stops_a_node_that_was_overtaken_while_it_restored(ram_path: Path) -> None:
    store = MemoryStore()
    await two_commits(store, ram_path)

    async def overtake() -> None:
        await Node(store, ram_path / "c").boot()

    slow = Node(Before(store, "fetch", "checkpoint-2/model.bin", overtake), ram_path / "b")
    with pytest.raises(Superseded):
        await slow.boot()
    assert await read_record(store, KEYS, 2) is None


async def test_a_finished_task_is_not_started_again(ram_path: Path) -> None:
    store = MemoryStore()
    node = await two_commits(store, ram_path)
    done = await node.keeper.finish()
    assert done.result and done.result.startswith("attempt-0001/checkpoint-2 ")
    with pytest.raises(AlreadyDone):
        await Node(store, ram_path / "b").boot()


async def test_of_two_finishers_the_first_result_stands(ram_path: Path) -> None:
    store = MemoryStore()
    zombie = await two_commits(store, ram_path)
    second = Node(store, ram_path / "b")
    await second.boot()
    for node in (zombie, second):
        (node.root / "final").mkdir()
        (node.root / "final" / "model").write_text(node.root.name)
    first = await zombie.keeper.finish()
    late = await second.keeper.finish()
    assert late == first
    assert canonical.decode(store.objects[KEYS.done], Done, "done").attempt == 1
    assert store.objects["task/attempt-0001/final/model"] == b"a"
    await verify(store)


async def test_a_zombie_names_no_result_once_a_successor_deletes(ram_path: Path) -> None:
    """Rule 15: else done.json would name a checkpoint that is gone."""
    store = MemoryStore()
    zombie = await two_commits(store, ram_path)
    second = Node(store, ram_path / "b")
    await second.boot()
    for step in (3, 4, 5):
        second.save(step)
        await second.push_all()
    assert "task/attempt-0001/manifests/checkpoint-2.json" not in store.objects
    with pytest.raises(Superseded, match="names no result"):
        await zombie.keeper.finish()
    assert KEYS.done not in store.objects


async def test_I7_nothing_of_an_attempt_that_names_its_result_is_deleted(ram_path: Path) -> None:
    store = MemoryStore()

    async def overtake() -> None:
        second = Node(store, ram_path / "b")
        await second.boot()
        for step in (3, 4, 5):
            second.save(step)
            await second.push_all()

    finisher = await two_commits(Before(store, "create", "done.json", overtake), ram_path)
    done = await finisher.keeper.finish()
    assert done
    assert done.result.startswith("attempt-0001/checkpoint-2 ")
    await verify(store)


async def test_an_attempt_that_began_to_name_its_result_does_not_go_on(ram_path: Path) -> None:
    """Its done.json may still be on its way; what it names must not be let go by a further life."""
    store = MemoryStore()

    async def die() -> None:
        raise NodeDied

    node = await two_commits(Before(store, "create", "done.json", die), ram_path)
    with pytest.raises(NodeDied):
        await node.keeper.finish()
    again = Node(store, ram_path / "a")
    begun = await again.boot()
    assert (begun.attempt, begun.checkpoint) == (2, "checkpoint-2")
    for step in (3, 4, 5):
        again.save(step)
        await again.push_all()
    assert "task/attempt-0001/manifests/checkpoint-2.json" in store.objects
    await again.keeper.finish()
    await verify(store)


async def test_I7_retention_keeps_two_of_the_line_and_local_deletes_delete_nothing(ram_path: Path) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a", keep=1)
    await node.boot()
    for step in (1, 2, 3, 4):
        path = node.save(step)
        await node.push_all()
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
        await node.push_all()
    left = [key for key in store.objects if "/manifests/" in key]
    assert sorted(key.rsplit("/", 1)[-1] for key in left) == ["checkpoint-3.json", "checkpoint-4.json"]
    await verify(store)


async def test_I7_retention_leaves_a_commit_whose_own_manifest_marks_it(ram_path: Path) -> None:
    store = MemoryStore()
    node = await two_commits(store, ram_path)
    marked = (await read_commits(store, KEYS, 1)).good[0].manifest
    key = KEYS.manifest(1, marked.commit)
    store.objects[key] = canonical.encode(replace(marked, kept=True))
    for step in (3, 4, 5):
        node.save(step)
        await node.push_all()
    left = [each.commit for each in (await read_commits(store, KEYS, 1)).good]
    assert left == ["checkpoint-1", "checkpoint-4", "checkpoint-5"]
    await verify(store)


async def test_I7_a_finished_model_of_another_attempt_is_not_deleted(ram_path: Path) -> None:
    store = MemoryStore()
    zombie = await two_commits(store, ram_path)
    (zombie.root / "final").mkdir()
    (zombie.root / "final" / "model").write_text("zombie")
    pin = await zombie.keeper.root.pin(await zombie.keeper.root.final())  # type: ignore[arg-type]
    assert pin
    await zombie.keeper.push_next()
    second = Node(store, ram_path / "b")
    begun = await second.boot()
    assert begun.checkpoint == "checkpoint-2", "a finished model is no point to resume from"
    second.save(3)
    await second.push_all()
    assert "task/attempt-0001/final/model" in store.objects


@pytest.mark.slow
async def test_I1_I3_I5_through_a_store_that_loses_requests_and_answers(ram_path: Path, rng: random.Random) -> None:
    async def no_wait(seconds: float) -> None:
        return None

    for round_ in range(30):
        inner = MemoryStore()
        store = Retrying(FlakyStore(inner, rng, 0.3), sleep=no_wait, rng=rng)
        home = ram_path / str(round_)
        node = Node(store, home / "a")
        await node.boot()
        for step in (1, 2, 3):
            node.save(step)
            await node.push_all()
        second = Node(store, home / "b")
        assert (await second.boot()).step == 3
        assert second.holds(3)
        assert len([key for key in inner.objects if key.endswith("attempt.json")]) == 2
        await second.keeper.finish()
        await verify(inner)
