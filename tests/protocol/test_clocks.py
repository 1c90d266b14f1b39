"""Clocks are set, and machines' clocks differ: nothing that is new is taken for old, and nobody for dead or alive."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.local import tree
from syncd.local.completion import State, Verdict
from syncd.local.root import Root
from syncd.local.scan import Seen, in_order
from syncd.local.tree import Identity
from syncd.model import canonical
from syncd.model.event import silent
from syncd.model.heartbeat import HeartbeatBody
from syncd.model.keys import Keys
from syncd.move.objects import at_work
from syncd.store.memory import MemoryStore
from syncd.testing import Node, verify

HOUR = 3600.0
KEYS = Keys("task")


def dated(path: Path, seconds: float) -> Path:
    """As if all of it had been written when the clock was so many seconds off."""
    for file in path.rglob("*"):
        if file.is_file():
            found = file.stat()
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns + int(seconds * 1e9)))
    return path


def renamed(node: Node, step: int, name: str) -> Path:
    return node.save(step).replace(node.root / name)


async def committed(store: MemoryStore) -> list[str]:
    """Names that are committed in attempt 1, oldest first."""
    audit = await verify(store)
    assert audit.clean
    prefix = "task/attempt-0001/manifests/"
    return sorted(key.removeprefix(prefix).removesuffix(".json") for key in store.objects if key.startswith(prefix))


@pytest.mark.parametrize("note", [True, False])
@pytest.mark.parametrize("off", [-HOUR, 0.0, HOUR])
async def test_a_save_that_no_daemon_saw_is_pushed_by_the_next_whatever_the_clock_did(
    ram_path: Path, off: float, note: bool
) -> None:
    """One directory that is written again and again has no step in its name to tell that it is newer."""
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    renamed(node, 1, "latest")
    await node.push_all()
    assert await committed(store) == ["latest"]
    # The daemon is killed, the clock is set, the trainer saves, a new daemon comes.
    for file in (node.root / "latest").rglob("*"):
        if file.is_file():
            file.unlink()
    for file in (source := node.save(2)).rglob("*"):
        if file.is_file():
            file.replace(node.root / "latest" / file.relative_to(source))
    dated(node.root / "latest", off)
    if not note:
        (node.root / ".syncd" / "taken.json").unlink()
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    assert await committed(store) == ["latest", "latest.2"]
    assert again.keeper.newest and again.keeper.newest.commit == "latest.2"


@pytest.mark.parametrize("off", [-HOUR, HOUR])
async def test_a_trainer_that_went_back_is_followed_whatever_the_clock_did(ram_path: Path, off: float) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    node.save(5)
    await node.push_all()
    dated(node.save(3), off)
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    assert again.keeper.newest and again.keeper.newest.commit == "checkpoint-3"


@pytest.mark.parametrize("off", [-HOUR, 0.0, HOUR])
async def test_what_was_passed_over_or_has_left_the_store_is_not_pushed_by_the_next_daemon(
    ram_path: Path, off: float
) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a", keep=2)
    await node.boot()
    node.save(1)
    dated(node.save(2), off)
    await node.push_all()  # 1 is passed over
    for step in (3, 4, 5):
        dated(node.save(step), off * step)
        await node.push_all()  # 2 and 3 leave the store
    assert await committed(store) == ["checkpoint-4", "checkpoint-5"]
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    assert await committed(store) == ["checkpoint-4", "checkpoint-5"]


async def test_a_restored_checkpoint_that_has_left_the_store_is_not_pushed_as_new(ram_path: Path) -> None:
    store = MemoryStore()
    first = Node(store, ram_path / "a")
    await first.boot()
    first.save(1)
    await first.push_all()
    second = Node(store, ram_path / "b")
    assert (await second.boot()).checkpoint == "checkpoint-1"
    for step in (2, 3, 4):
        second.save(step)
        await second.push_all()
    again = Node(store, ram_path / "b")
    await again.boot()
    assert not again.keeper.root.waiting
    await again.push_all()
    assert again.keeper.newest and again.keeper.newest.commit == "checkpoint-4"


@pytest.mark.parametrize("damage", ["gone", "garbage", "another attempt's"])
async def test_where_the_disk_does_not_tell_what_was_passed_over_steps_do(ram_path: Path, damage: str) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    node.save(1)
    dated(node.save(2), -HOUR)
    await node.push_all()
    note = node.root / ".syncd" / "taken.json"
    if damage == "gone":
        note.unlink()
    else:
        note.write_bytes(b"{" if damage == "garbage" else note.read_bytes().replace(b'"nonce":"', b'"nonce":"0', 1))
    dated(node.save(3), -2 * HOUR)
    again = Node(store, ram_path / "a")
    await again.boot()
    await again.push_all()
    assert await committed(store) == ["checkpoint-2", "checkpoint-3"]
    assert again.keeper.newest and again.keeper.newest.commit == "checkpoint-3"


@pytest.mark.parametrize("off", [-HOUR, HOUR])
@pytest.mark.parametrize("restarted", ["never", "before", "after"])
async def test_what_can_be_read_only_after_a_newer_one_was_taken_is_passed_over_for_good(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch, off: float, restarted: str
) -> None:
    real = tree.open_beneath

    def guarded(base: int, path: str, flags: int = tree.REGULAR) -> int:
        if path == "checkpoint-1":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(base, path, flags)

    store = MemoryStore()
    node = Node(store, ram_path / "a")
    await node.boot()
    with monkeypatch.context() as patch:
        patch.setattr(tree, "open_beneath", guarded)
        dated(node.save(1), off)
        node.save(2)
        await node.push_all()
        assert [fields["checkpoint"] for event, fields in node.events if event == "checkpoint_unreadable"] == [
            "checkpoint-1"
        ]
        if restarted == "before":
            node = Node(store, ram_path / "a")
            await node.boot()
            await node.push_all()
    await node.push_all()
    await node.keeper.skip_superseded()
    assert [fields["checkpoint"] for event, fields in node.events if event == "checkpoint_skipped"] == ["checkpoint-1"]
    if restarted == "after":
        node = Node(store, ram_path / "a")
        await node.boot()
        await node.push_all()
    assert await committed(store) == ["checkpoint-2"]


@pytest.mark.parametrize("off", [-HOUR, HOUR])
async def test_saves_that_are_found_at_once_are_committed_in_the_order_of_their_steps(
    ram_path: Path, off: float
) -> None:
    store = MemoryStore()
    node = Node(store, ram_path / "a", backlog=5)
    await node.boot()
    node.save(9)
    dated(node.save(10), off)
    dated(node.save(11), off)
    await node.push_all()
    assert [each.commit for each in node.keeper.commits] == ["checkpoint-9", "checkpoint-10", "checkpoint-11"]


def seen(name: str, step: int | None, written: int) -> Seen:
    return Seen(name, Verdict(State.COMPLETE, step=step), "_SUCCESS", {"f": Identity(1, 1, 1, written, 0, 0)})


def test_among_kinds_of_names_the_time_of_writing_orders(rng: random.Random) -> None:
    several = [
        seen("a-1", 1, 10), seen("b-7", 7, 20), seen("a-2", 2, 30), seen("best", None, 40), seen("a-3", 3, 5),
    ]  # fmt: skip
    rng.shuffle(several)
    assert [each.name for each in in_order(several)] == ["a-1", "a-2", "b-7", "a-3", "best"]


async def test_of_torn_ones_the_newest_stay_though_the_clock_was_set_back(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    root, real = Root(ram_path, silent), time.time_ns
    root.place.make()
    for step in range(6):
        (ram_path / f"checkpoint-{step}").mkdir()
        root.place.set_aside([f"checkpoint-{step}"], torn=True)
        monkeypatch.setattr(time, "time_ns", lambda step=step: real() - int((step + 1) * HOUR * 1e9))
    left = sorted(path.name for path in root.place.quarantine.iterdir())
    assert [name.rpartition("-")[2] for name in left] == ["2", "3", "4", "5"]


Beat = Callable[..., HeartbeatBody]


def beat(time: float, seq: int = 1, state: str = "training", interval: float = 30.0) -> bytes:
    return canonical.encode(
        HeartbeatBody(task="task", attempt=1, node="n", session="s", seq=seq, time=time, interval=interval, state=state)
    )


@pytest.mark.parametrize("off", [-HOUR, 0.0, HOUR, -12 * HOUR])
@pytest.mark.parametrize("lives", [True, False])
async def test_whether_another_node_is_at_work_is_seen_by_its_heartbeats_where_clocks_differ(
    off: float, lives: bool
) -> None:
    """A living one is never taken for dead; a dead one is not taken for alive because its clock was ahead."""
    store, now, waited, seq = MemoryStore(), 1e9, 0.0, 1
    died = now if lives else now - 10 * 60
    await store.put(KEYS.heartbeat(1), beat(died + off, seq))

    async def sleep(seconds: float) -> None:
        nonlocal waited, seq
        waited += seconds
        if lives and waited >= 30 * seq:
            seq += 1
            await store.put(KEYS.heartbeat(1), beat(now + waited + off, seq))

    assert await at_work(store, KEYS, 1, now, sleep) is lives
    assert waited <= 60
    if off == 0.0 and lives:
        assert waited == 0, "one whose clock agrees is known at once"


async def test_a_clock_that_is_a_moment_ahead_and_heartbeats_that_are_rare_cost_no_long_wait() -> None:
    store, waited = MemoryStore(), 0.0

    async def sleep(seconds: float) -> None:
        nonlocal waited
        waited += seconds

    await store.put(KEYS.heartbeat(1), beat(1e9 + 5))
    assert await at_work(store, KEYS, 1, 1e9, sleep)
    assert waited == 0
    await store.put(KEYS.heartbeat(1), beat(1e9 - 3 * HOUR, interval=HOUR))
    assert not await at_work(store, KEYS, 1, 1e9, sleep)
    assert waited == 300


async def test_one_that_said_its_last_words_or_is_silent_for_days_is_not_waited_for() -> None:
    async def never(seconds: float) -> None:
        raise AssertionError("waited")

    store = MemoryStore()
    assert not await at_work(store, KEYS, 1, 1e9, never)
    for body in (beat(1e9, state="left"), beat(1e9 + HOUR, state="done"), beat(1e9 - 30 * HOUR)):
        await store.put(KEYS.heartbeat(1), body)
        assert not await at_work(store, KEYS, 1, 1e9, never)
