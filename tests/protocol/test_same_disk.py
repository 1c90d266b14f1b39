"""Same disk, same attempt; and what happens to a disk that served something else."""

import asyncio
import errno
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from syncd.errors import Superseded
from syncd.local.lock import identity
from syncd.local.pins import Pin
from syncd.local.tree import Fingerprint
from syncd.model.keys import Keys
from syncd.move.disk import read_note
from syncd.move.objects import read_commits, read_record
from syncd.move.own import reset
from syncd.store import Store
from syncd.store.memory import MemoryStore
from syncd.testing import CrashingStore, Node, NodeDied, SlowStore, verify
from syncd.testing.stores import Around

KEYS = Keys("task")


async def trained(store: Store, root: Path, *steps: int, keep: int = 9) -> Node:
    node = Node(store, root, keep=keep)
    await node.boot()
    for step in steps:
        node.save(step)
        await node.push_all()
    return node


def numbers(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if "/manifests/" in key]


async def test_a_restarted_daemon_goes_on_with_its_attempt_and_pushes_nothing_twice(ram_path: Path) -> None:
    store = MemoryStore()
    node = await trained(store, ram_path / "a", 1, 2)
    before = dict(store.objects)
    node.save(3)
    again = Node(store, ram_path / "a")
    begun = await again.boot()
    assert (begun.attempt, begun.checkpoint, begun.goes_on) == (1, "checkpoint-3", True)
    await again.push_all()
    assert {key for key in store.objects if key not in before} == {
        "task/attempt-0001/checkpoint-3/_SUCCESS",
        "task/attempt-0001/checkpoint-3/model.bin",
        "task/attempt-0001/checkpoint-3/sub/state.json",
        "task/attempt-0001/manifests/checkpoint-3.json",
    }


async def test_a_pin_is_sent_under_its_own_name_and_number_after_a_restart(ram_path: Path) -> None:
    """I1: two commits never share a number, also where the first took effect unanswered."""
    store = MemoryStore()

    class LosesTheAnswer(Around):
        async def after(self, verb: str, key: str) -> None:
            if verb == "create" and "/manifests/checkpoint-1" in key:
                raise NodeDied

    node = Node(LosesTheAnswer(store), ram_path / "a", backlog=1)
    await node.boot()
    node.save(1)
    with pytest.raises(NodeDied):
        await node.push_all()
    node.save(2)
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    found = (await read_commits(store, KEYS, 1)).good
    assert [(each.commit, each.manifest.number) for each in found] == [("checkpoint-1", 1), ("checkpoint-2", 2)]


async def test_I1_a_manifest_on_its_way_shares_its_number_with_no_later_commit(ram_path: Path) -> None:
    """The daemon dies with an unanswered manifest; its pin is torn; the manifest arrives after the next commit."""
    store = MemoryStore()
    sent: list[tuple[str, bytes]] = []

    class Swallows(Around):
        async def create(self, key: str, data: bytes) -> None:
            if "/manifests/" in key:
                sent.append((key, data))
                raise NodeDied
            await self.inner.create(key, data)

    node = Node(Swallows(store), ram_path / "a")
    await node.boot()
    path = node.save(1)
    with pytest.raises(NodeDied):
        await node.push_all()
    (path / "model.bin").write_bytes(b"written again in place")
    node.save(2)
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    await store.create(*sent[0])
    found = (await read_commits(store, KEYS, 1)).good
    assert found[0].commit == "checkpoint-1"
    assert found[-1].manifest.name == "checkpoint-2"
    assert len({each.manifest.number for each in found}) == len(found)
    assert (await Node(store, ram_path / "b").boot()).checkpoint == "checkpoint-2"


async def test_I1_a_manifest_that_cannot_be_read_shares_its_number_with_no_later_commit(ram_path: Path) -> None:
    store = MemoryStore()
    node = await trained(store, ram_path / "a", 1)
    key = "task/attempt-0001/manifests/checkpoint-1.json"
    whole = store.objects[key]
    store.objects[key] = whole[:-5]
    node.save(2)
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    store.objects[key] = whole  # it was the reading that was bad
    found = (await read_commits(store, KEYS, 1)).good
    assert [each.manifest.name for each in found] == ["checkpoint-1", "checkpoint-2"]
    assert found[0].manifest.number < found[1].manifest.number


async def test_I1_a_commit_that_was_let_go_shares_its_number_with_no_other(ram_path: Path) -> None:
    store = MemoryStore()
    slow = SlowStore(store)
    node = Node(slow, ram_path / "a", backlog=2)
    await node.boot()
    node.save(1)
    await node.keeper.root.look()
    slow.hold.clear()
    pushing = asyncio.create_task(node.keeper.push_next())
    while node.keeper.pushing is None or node.keeper.pushing.commit is None:
        await asyncio.sleep(0)
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    slow.hold.set()
    node.save(2)
    await node.keeper.root.look()
    node.keeper.backlog = 1
    found = await node.keeper.push_next()
    assert found
    assert (found.commit, found.manifest.number) == ("checkpoint-2", 2)


async def test_a_disk_that_lost_its_checkpoints_claims_anew_and_records_what_it_resumed(ram_path: Path) -> None:
    """I4: what is damaged leaves the line for good, also here; nobody starts behind a successor's back."""
    store = MemoryStore()
    node = await trained(store, ram_path / "a", 1, 2, 3)
    for path in node.root.glob("checkpoint-*"):
        shutil.rmtree(path)
    store.objects["task/attempt-0001/checkpoint-3/model.bin"] = b"damaged"
    again = Node(store, ram_path / "a", keep=2)
    begun = await again.boot()
    assert (begun.attempt, begun.checkpoint, begun.goes_on) == (2, "checkpoint-2", False)
    record = await read_record(store, KEYS, 2)
    assert record
    assert [line.split(" ")[0] for line in record.line] == ["attempt-0001/checkpoint-2", "attempt-0001/checkpoint-1"]
    again.save(4)
    await again.push_all()
    await verify(store)
    assert "task/attempt-0001/manifests/checkpoint-2.json" in store.objects


async def test_what_waits_is_pushed_before_a_disk_that_lost_its_checkpoints_claims_anew(ram_path: Path) -> None:
    store = MemoryStore()
    node = await trained(store, ram_path / "a", 1)
    node.save(2)
    await node.keeper.root.look()
    for path in node.root.glob("checkpoint-*"):
        shutil.rmtree(path)
    again = Node(store, ram_path / "a")
    begun = await again.boot()
    assert (begun.attempt, begun.checkpoint) == (2, "checkpoint-2")
    assert again.holds(2)


async def test_a_running_daemon_renews_what_its_trainer_resumes(ram_path: Path) -> None:
    store = MemoryStore()
    await trained(store, ram_path / "a", 1)
    node = Node(store, ram_path / "b")
    assert (await node.boot()).checkpoint == "checkpoint-1"
    node.save(2)
    await node.push_all()
    shutil.rmtree(node.root / "checkpoint-1")
    assert (await node.keeper.resume_point("again")).checkpoint == "checkpoint-2"


async def test_an_older_checkpoint_that_was_skipped_is_not_pushed_after_a_newer_one(ram_path: Path) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    node.save(1)
    node.save(2)
    await node.push_all()
    assert len(numbers(store)) == 1
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    assert numbers(store) == ["task/attempt-0001/manifests/checkpoint-2.json"]


async def test_a_copied_disk_and_a_disk_of_another_store_claim_anew(ram_path: Path) -> None:
    store = MemoryStore()
    node = await trained(store, ram_path / "a", 1)
    shutil.copytree(node.root, ram_path / "copy", symlinks=True)
    assert identity(node.root) != identity(ram_path / "copy")
    begun = await Node(store, ram_path / "copy").boot()
    assert (begun.attempt, begun.checkpoint) == (2, "checkpoint-1")


async def test_I4_a_death_just_after_the_record_leaves_no_other_lines_checkpoint_in_sight(ram_path: Path) -> None:
    store = MemoryStore()
    await trained(store, ram_path / "a", 1)

    class DiesAfterTheRecord(Around):
        async def after(self, verb: str, key: str) -> None:
            if verb == "create" and key.endswith("resume.json"):
                raise NodeDied

    stale = Node(DiesAfterTheRecord(store), ram_path / "b")
    stale.save(900, lineage="of something else")
    with pytest.raises(NodeDied):
        await stale.boot()
    begun = await Node(store, ram_path / "b").boot()
    assert begun.checkpoint == "checkpoint-1"


async def test_I4_a_disk_that_served_another_task_keeps_none_of_its_checkpoints_in_sight(ram_path: Path) -> None:
    store = MemoryStore()
    old = await trained(store, ram_path / "a", 900)
    (old.root / "final").mkdir()
    (old.root / "final" / "model").write_text("of the old task")
    new = Node(store, ram_path / "a", task="new")
    begun = await new.boot()
    assert begun.checkpoint is None
    assert not (new.root / "final").exists()
    await new.push_all()
    assert not [key for key in store.objects if key.startswith("new/") and "manifests" in key]


async def test_other_peoples_directories_are_not_touched_by_a_restore(ram_path: Path) -> None:
    store = MemoryStore()
    await trained(store, ram_path / "a", 1)
    root = ram_path / "b"
    others = [
        root / "data" / "2026",
        root / "data" / "train.parquet",
        *(root / f"experiment-{n}" / "ckpt" for n in range(8)),
    ]
    for path in others:
        path.mkdir(parents=True)
        (path / "part-0").write_text("theirs")
        (path / "_SUCCESS").write_text("")
    node = Node(store, root)
    node.save(7)
    assert (await node.boot()).checkpoint == "checkpoint-1"
    assert all((path / "part-0").read_text() == "theirs" for path in others)
    assert not (root / "checkpoint-7").exists()


async def test_what_is_set_aside_whole_is_never_deleted(ram_path: Path) -> None:
    store = MemoryStore()
    await trained(store, ram_path / "a", 1)
    node = Node(store, ram_path / "b")
    for step in range(10, 20):
        node.save(step)
    await node.boot()
    assert len(list((node.root / ".syncd" / "quarantine").iterdir())) == 10


async def test_the_zombies_disk_is_free_once_and_its_own_kinds_are_set_aside(ram_path: Path) -> None:
    store = MemoryStore()
    zombie = await trained(store, ram_path / "a", 1, 2)
    (zombie.root / "data").mkdir()
    (zombie.root / "data" / "_SUCCESS").write_text("")
    await Node(store, ram_path / "b").boot()
    with pytest.raises(Superseded):
        await Node(store, ram_path / "a").boot()
    note = read_note(zombie.root)
    assert note
    assert note.superseded
    assert not list(zombie.root.glob("checkpoint-*"))
    assert (zombie.root / "data").exists()
    begun = await Node(store, ram_path / "a").boot()
    assert (begun.attempt, begun.checkpoint) == (3, "checkpoint-2")


async def test_what_a_zombies_daemon_had_only_pinned_is_set_aside_too(ram_path: Path) -> None:
    store = MemoryStore()
    zombie = await trained(store, ram_path / "a")
    zombie.save(1)
    await zombie.keeper.root.look()
    await Node(store, ram_path / "b").boot()
    with pytest.raises(Superseded):
        await Node(store, ram_path / "a").boot()
    assert not list(zombie.root.glob("checkpoint-*"))
    assert len(list((zombie.root / ".syncd" / "quarantine").iterdir())) == 1


async def test_I3_a_reset_that_was_overtaken_deletes_nothing_of_its_successor(ram_path: Path) -> None:
    store = MemoryStore()
    await trained(store, ram_path / "a", 1)

    class Overtaken(Around):
        async def after(self, verb: str, key: str) -> None:
            if verb == "create" and key.endswith("attempt-0002/resume.json"):
                await trained(store, ram_path / "b", 5)

    with pytest.raises(Superseded):
        await reset(Overtaken(store), KEYS, node="operator", now=0.0)
    assert "task/attempt-0003/manifests/checkpoint-5.json" in store.objects


async def test_an_unreadable_directory_stops_nothing_but_itself(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lost+found` of a fresh volume, seen by a user who is not root."""
    from syncd.local import tree

    real = tree.open_beneath

    def guarded(base: int, path: str, flags: int = tree.REGULAR) -> int:
        if path.startswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return real(base, path, flags)

    monkeypatch.setattr(tree, "open_beneath", guarded)
    (ram_path / "a" / "lost+found").mkdir(parents=True)
    store = MemoryStore()
    await trained(store, ram_path / "a", 1)
    assert numbers(store) == ["task/attempt-0001/manifests/checkpoint-1.json"]


async def test_a_look_during_a_push_does_not_lose_track(ram_path: Path) -> None:
    """The same name is pinned anew while an older pin of it is let go."""
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    node.save(1)
    node.save(2)
    await node.keeper.root.look()
    keep = node.keeper.root.let_go

    async def let_go(pin: object) -> None:
        node.save(2, lineage="again")
        node.keeper.root.let_go = keep  # type: ignore[method-assign]
        await node.keeper.root.look()
        await keep(pin)  # type: ignore[arg-type]

    node.keeper.root.let_go = let_go  # type: ignore[method-assign,assignment]
    await node.keeper.push_next()
    await node.push_all()
    found = (await read_commits(store, KEYS, 1)).good
    assert found[-1].manifest.name == "checkpoint-2"
    await verify(store)


async def test_I8_a_push_that_is_given_up_just_after_its_commit_leaves_no_pin(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pin in no list could never be let go of when the disk gets low."""
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    node.save(1)
    await node.keeper.root.look(writer_gone=True)
    reached, go_on = asyncio.Event(), asyncio.Event()
    real = node.keeper._take

    async def take(done: Mapping[str, Fingerprint]) -> None:
        if "checkpoint-1" in done:
            reached.set()
            await go_on.wait()
        await real(done)

    monkeypatch.setattr(node.keeper, "_take", take)
    pushing = asyncio.ensure_future(node.keeper.push_next())
    await reached.wait()
    pushing.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert [each.commit for each in node.keeper.commits] == ["checkpoint-1"]
    assert [name for name, _ in node.events][-1] == "checkpoint_committed"
    assert not node.keeper.root.waiting
    assert not node.keeper.root.pins.load(), "it is on the disk, and in no list"
    await verify(store)


async def test_a_pin_that_cannot_be_removed_keeps_no_checkpoint_from_being_seen(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    root = node.keeper.root
    real, fails = root.pins.drop, True

    def drop(pin: Pin) -> None:
        if fails and pin.name == "checkpoint-1":
            raise OSError(errno.EIO, "Input/output error", str(pin.path))
        real(pin)

    monkeypatch.setattr(root.pins, "drop", drop)
    for step in (1, 2, 3):
        node.save(step)
        await node.push_all()
    assert [each.commit for each in node.keeper.commits] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    left = [path for path in (node.root / ".syncd" / "pins").iterdir() if path.is_dir()]
    assert len(left) == 1
    fails = False
    await root.look()
    assert not left[0].exists(), "it goes once the disk lets it"


@pytest.mark.parametrize("pushed", [True, False])
@pytest.mark.parametrize("to", [1, 2])
async def test_I4_a_trainer_that_went_back_behind_several_saves_goes_on_from_its_newest(
    ram_path: Path, pushed: bool, to: int
) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a", keep=9)
    await node.boot()
    for step in (1, 2, 3, 4):
        node.save(step)
        await node.push_all()
    node.save(to, lineage="went back")
    if pushed:
        await node.push_all()
    else:
        await node.keeper.root.look(writer_gone=True)
    assert (await node.boot()).checkpoint == f"checkpoint-{to}"
    node.save(to + 1, lineage="went back")
    await node.push_all()
    assert (await node.boot()).checkpoint == f"checkpoint-{to + 1}"
    assert (await Node(store, ram_path / "b", keep=9).boot()).step == to + 1


async def test_a_save_that_no_daemon_saw_counts_though_its_name_was_left_behind(ram_path: Path) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a", keep=9)
    await node.boot()
    for step in (1, 2, 3):
        node.save(step)
        await node.push_all()
    node.save(1, lineage="went back")
    await node.push_all()
    node.save(3, lineage="went back")
    assert (await node.boot()).checkpoint == "checkpoint-3"


async def test_I4_what_was_left_behind_stays_so_when_its_commit_has_left_the_store(ram_path: Path) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a", keep=2)
    await node.boot()
    for step in (1, 2, 3, 4, 5):
        node.save(step)
        await node.push_all()
    for step in (1, 2, 3):
        node.save(step, lineage="went back")
        await node.push_all()
    assert "checkpoint-5" not in {each.manifest.name for each in (await read_commits(store, KEYS, 1)).good}
    for _ in range(2):
        assert (await node.boot()).checkpoint == "checkpoint-3"
    node.save(5, lineage="went back")
    await node.push_all()
    assert (await node.boot()).checkpoint == "checkpoint-5", "it is saved anew"


async def test_I4_a_death_at_any_point_of_a_start_leaves_nothing_in_sight_that_is_not_of_the_line(
    ram_path: Path,
) -> None:
    """What a disk has of another task is set aside before the record: after it, the disk's newest would be resumed."""
    at = 0
    while True:
        store, home = MemoryStore(), ram_path / str(at)
        first = Node(store, home / "a")
        await first.boot()
        first.save(3)
        await first.push_all()
        other = Node(store, home / "b", task="other")
        await other.boot()
        other.save(9)
        await other.push_all()
        try:
            await Node(CrashingStore(store, at=at, late=True), home / "b").boot()
        except NodeDied:
            at += 1
        else:
            break
        assert (await Node(store, home / "b").boot()).checkpoint == "checkpoint-3"
    assert at >= 2, "claim and record"
