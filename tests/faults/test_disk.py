"""Disks that are full, read-only, failing or gone: the trainer goes on, one line says what is wrong, nothing is lost."""

import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import NewNode
from tests.e2e.helpers import FAKE, SYNCD, Directory, Node, Task, trace, until
from tests.faults.disks import (
    Mount,
    enlarge,
    fill,
    fill_inodes,
    fiu,
    fiu_controlled,
    make_fail,
    make_read_only,
    make_writable,
    one,
    some,
    told,
)
from tests.faults.scale import campaign

pytestmark = pytest.mark.slow
SIZE = 100_000


class Held:
    """A trainer that waits at step 3, alive and without writing, until it may go on to step 6."""

    def __init__(self, node: Node, home: Path, *more: str) -> None:
        self.node, self.notes, self.gate = node, home / "trace", home / "gate"
        held = ["--steps", "6", "--keep", "2", "--size", str(SIZE), "--hold", f"3:{self.gate}"]
        self.life = node.run([*FAKE, *held, "--trace", str(self.notes), *more])
        node.until_committed(self.life, lambda steps: 3 in steps, "step 3")
        until(lambda: not (node.root / "checkpoint-1").exists(), "its rotation is over", 10)

    def still(self, seconds: float) -> None:
        """For so long nothing ends, and the trainer is the one that began."""
        time.sleep(seconds)
        self.node.alive(self.life, "a fault of the disk is waited out")
        assert len(trace(self.notes, "begin")) == 1

    def finish(self, task: Task) -> None:
        """The fault is removed: all is committed, whole, by the trainer's one life."""
        self.gate.touch()
        assert self.life.code(60) == 0, self.life.text
        assert len(trace(self.notes, "begin")) == 1
        assert self.node.committed()[-1] == 6
        task.verify()


@contextmanager
def refusing(root: Path, how: str) -> Iterator[list[str]]:
    """A disk that takes nothing while the context lasts; words that say so."""
    if how == "read-only":
        make_read_only(root)
        yield ["Read-only file system", "mount it writable again"]
        make_writable(root)
        return
    foreign = fill(root) if how == "full" else fill_inodes(root)
    left = "0 bytes are free" if how == "full" else "inodes are used"
    yield ["No space left on device", left, "delete something there"]
    shutil.rmtree(foreign) if foreign.is_dir() else foreign.unlink()


@pytest.mark.parametrize("how", some("full", "out of inodes", "read-only"))
def test_a_root_that_refuses_is_said_once_and_costs_nothing(
    tmp_path: Path, tmpfs: Mount, file_task: Task, new_node: NewNode, how: str
) -> None:
    root = tmpfs(tmp_path / "node-1" / "disk", "size=8m,nr_inodes=200")
    node = new_node(file_task)
    trainer = Held(node, tmp_path)
    with refusing(root, how) as words:
        until(lambda: told(trainer.life, "disk_error"), "syncd says what is wrong with the disk", 15)
        trainer.still(2)
        one(told(trainer.life), str(root), *words)
    until(lambda: node.events("disk_back"), "syncd says that it is well", 20)
    assert len(node.events("disk_error")) == 1, "what could not be written was written later"
    trainer.finish(file_task)


@pytest.mark.parametrize("how", some("read-only", "full"))
def test_a_trainer_that_its_disk_ended_is_started_again_when_the_disk_takes_something(
    tmp_path: Path, tmpfs: Mount, file_task: Task, new_node: NewNode, how: str
) -> None:
    root, gate = tmpfs(tmp_path / "node-1" / "disk", "size=8m"), tmp_path / "gate"
    node = new_node(file_task)
    fake = [*FAKE, "--steps", "6", "--keep", "2", "--size", str(SIZE), "--hold", f"3:{gate}"]
    life = node.run([*fake, "--trace", str(tmp_path / "trace")])
    node.until_committed(life, lambda steps: 3 in steps, "step 3")
    with refusing(root, how) as words:
        gate.touch()
        until(lambda: told(life, "trainer_failed"), "its save fails", 20)
        time.sleep(2.5)
        node.alive(life, "it waits for the disk")
        one(told(life, "disk_error"), str(root), *words)
        assert len(told(life, "trainer_failed")) == 1, "the budget of restarts is not spent on a disk"
    assert life.code(60) == 0
    assert node.committed()[-1] == 6
    file_task.verify()


@campaign
@pytest.mark.parametrize("lacking", some("bytes", "inodes"))
def test_a_root_that_is_full_at_the_start_ends_it_with_one_line(
    tmp_path: Path, tmpfs: Mount, file_task: Task, new_node: NewNode, lacking: str
) -> None:
    root = tmpfs(tmp_path / "node-1" / "disk", "size=1m,nr_inodes=100")
    foreign = fill(root) if lacking == "bytes" else fill_inodes(root)
    node = new_node(file_task)
    life = node.run([*FAKE, "--steps", "2", "--size", "1000"])
    assert life.code(30) == 78, life.text
    lines = life.text.splitlines()
    assert sum("No space left on device" in line and str(root) in line for line in lines) == 1, life.text
    assert "Traceback" not in life.text
    shutil.rmtree(foreign) if foreign.is_dir() else foreign.unlink()
    assert node.run([*FAKE, "--steps", "2", "--size", "1000"]).code(60) == 0
    file_task.verify()


@campaign
def test_a_push_by_hand_on_a_full_disk_ends_with_one_line(
    tmp_path: Path, tmpfs: Mount, file_task: Task, new_node: NewNode
) -> None:
    root = tmpfs(tmp_path / "node-1" / "disk", "size=1m")
    node = new_node(file_task)
    (root / "checkpoint-1").mkdir()
    (root / "checkpoint-1" / "_SUCCESS").touch()
    foreign = fill(root)
    life = node.start([SYNCD, "push", str(root / "checkpoint-1")], SYNCD_LOG_LEVEL="warning")
    assert life.code(30) == 78, life.text
    assert len(life.text.splitlines()) == 1, life.text
    assert "No space left on device" in life.text
    foreign.unlink()
    assert node.start([SYNCD, "push", str(root / "checkpoint-1")]).code(30) == 0
    file_task.verify()


# ---- the file store's disk


@pytest.fixture
def small_store(tmp_path: Path, tmpfs: Mount) -> Task:
    """A task in a directory of a small file system of its own."""
    store = tmpfs(tmp_path / "mounted", "size=3m")
    return Task("run", {"SYNCD_STORE": store.as_uri()}, Directory(store), tmp_path / "operator")


@campaign
@pytest.mark.parametrize("fault", some("full", "read-only"))
def test_a_store_whose_disk_refuses_is_waited_out(
    tmp_path: Path, small_store: Task, new_node: NewNode, fault: str
) -> None:
    assert isinstance(small_store.view, Directory)
    store, node = small_store.view.path, new_node(small_store)
    trainer = Held(node, tmp_path)
    foreign = fill(store) if fault == "full" else None
    if not foreign:
        make_read_only(store)
    (tmp_path / "gate").touch()
    until(lambda: told(trainer.life, "store_away"), "syncd says what is wrong with the store", 15)
    until(lambda: trace(trainer.notes, "step")[-1]["step"] == 6, "the trainer goes on to its end", 20)
    time.sleep(2.5)
    node.alive(trainer.life, "a store that refuses is waited out")
    word = "No space left on device" if foreign else "Read-only file system"
    one(told(trainer.life, "store_away"), word, str(store), "make room there" if foreign else "mount it writable")
    assert not told(trainer.life, "store_back"), "that it can be read is no reason to say that it is back"
    if foreign:
        foreign.unlink()
    else:
        make_writable(store)
    trainer.finish(small_store)
    assert list((store / ".tmp").iterdir()) == [], "nothing half is left"


# ---- restore


@pytest.fixture
def saved(file_task: Task, new_node: NewNode) -> Task:
    """A task whose last checkpoint, of 2 MB, is stored; its node is gone."""
    node = new_node(file_task)
    life = node.run(
        [*FAKE, "--steps", "2", "--size", "2000000", "--lives", "save-exit3", "--trace", str(node.home / "t")]
    )
    node.until_committed(life, lambda steps: 1 in steps, "step 1")
    node.vanish()
    return file_task


@pytest.mark.parametrize("command", some("run", "restore"))
def test_a_restore_that_does_not_fit_says_what_it_needs_and_leaves_nothing_half(
    tmp_path: Path, tmpfs: Mount, saved: Task, new_node: NewNode, command: str
) -> None:
    root = tmpfs(tmp_path / "node-2" / "disk", "size=1m")
    node, before = new_node(saved), saved.listing()
    words = (
        [SYNCD, "restore"] if command == "restore" else [SYNCD, "run", "--", *FAKE, "--steps", "2", "--size", "2000000"]
    )
    life = node.start(words)
    assert life.code(30) == 78, life.text
    lines = [line for line in life.text.splitlines() if "needs" in line]
    assert len(lines) == 1, life.text
    manifest = saved.commits(1)[-1]
    needed = sum(each["size"] for each in manifest["files"])
    for word in ("checkpoint-1", str(root), f"{needed} bytes", "are free", "make room"):
        assert word in lines[0]
    assert "Traceback" not in life.text
    assert [path.name for path in root.iterdir()] == [".syncd"]
    assert sum(path.stat().st_size for path in (root / ".syncd" / "staging").rglob("*") if path.is_file()) == 0
    assert [key for key in saved.listing() if "attempt-0001" in key] == [key for key in before if "attempt-0001" in key]
    enlarge(root, "20m")
    again = node.start(words)
    assert again.code(60) == 0, again.text
    assert (root / "checkpoint-1" / "weights.bin").stat().st_size == 2_000_000
    saved.verify()


@campaign
def test_a_disk_that_fills_in_the_midst_of_a_restore_ends_it_with_one_line(
    tmp_path: Path, tmpfs: Mount, saved: Task, new_node: NewNode
) -> None:
    """A quota on a network file system is known only when the file is synced: here by libfiu's word."""
    node = new_node(saved)
    life = node.start([*fiu("posix/io/sync/fsync", errno.EDQUOT), SYNCD, "restore"])
    assert life.code(30) == 78, life.text
    assert "Traceback" not in life.text
    lines = [line for line in life.text.splitlines() if "Disk quota exceeded" in line]
    assert len(lines) == 1, life.text
    assert "checkpoint-1" in lines[0]
    assert [path.name for path in node.root.iterdir()] == [".syncd"]
    again = node.start([SYNCD, "restore"])
    assert again.code(30) == 0
    saved.verify()


# ---- read-only, failing, gone


def test_a_checkpoint_that_cannot_be_read_is_said_once_and_the_next_one_is_pushed(
    tmp_path: Path, file_task: Task, new_node: NewNode
) -> None:
    node, gate = new_node(file_task), tmp_path / "gate"
    held = [*FAKE, "--steps", "8", "--hold", f"3:{gate}", "--hold", f"5:{tmp_path / 'second'}"]
    life = node.start([*fiu_controlled(tmp_path), SYNCD, "run", "--", *held, "--trace", str(tmp_path / "trace")])
    node.until_committed(life, lambda steps: 3 in steps, "step 3")
    make_fail(tmp_path, life.pid, f"enable name=posix/io/rw/pread,failinfo={errno.EIO}")
    gate.touch()
    until(lambda: len(told(life, "checkpoint_unreadable")) == 2, "both saves cannot be read", 20)
    time.sleep(2.5)
    node.alive(life, "a disk that fails is waited out")
    for number, line in zip((4, 5), told(life, "checkpoint_unreadable"), strict=True):
        one([line], "Input/output error", f"checkpoint-{number}", "dmesg")
    assert len(told(life)) == 2, told(life)
    make_fail(tmp_path, life.pid, "disable name=posix/io/rw/pread")
    (tmp_path / "second").touch()
    assert life.code(60) == 0
    assert node.committed()[-1] == 8
    assert len(trace(tmp_path / "trace", "begin")) == 1
    file_task.verify()


@campaign
@pytest.mark.parametrize(("point", "where"), some(("posix/io/sync/fsync", "both"), ("posix/io/rw/pwrite", "store")))
def test_writes_and_syncs_that_fail_are_waited_out(
    tmp_path: Path, file_task: Task, new_node: NewNode, point: str, where: str
) -> None:
    node, gate = new_node(file_task), tmp_path / "gate"
    held = [*FAKE, "--steps", "6", "--hold", f"3:{gate}", "--no-final", "--trace", str(tmp_path / "trace")]
    life = node.start([*fiu_controlled(tmp_path), SYNCD, "run", "--", *held])
    node.until_committed(life, lambda steps: 3 in steps, "step 3")
    make_fail(tmp_path, life.pid, f"enable name={point},failinfo={errno.EIO}")
    gate.touch()
    until(lambda: trace(tmp_path / "trace", "step")[-1]["step"] == 6, "the trainer goes on to its end", 20)
    until(lambda: told(life, "store_away" if where == "store" else "disk_error"), "syncd says what fails", 20)
    time.sleep(2.5)
    node.alive(life, "a disk that fails is waited out")
    assert 1 <= len(told(life)) <= 2, told(life)
    assert all("Input/output error" in line["why"] for line in told(life))
    make_fail(tmp_path, life.pid, f"disable name={point}")
    assert life.code(60) == 0
    assert node.committed()[-1] == 6
    file_task.verify()


@campaign
def test_a_root_that_is_unmounted_is_said_once_and_what_is_saved_after_its_return_is_pushed(
    tmp_path: Path, tmpfs: Mount, file_task: Task, new_node: NewNode
) -> None:
    root, kept = tmpfs(tmp_path / "node-1" / "disk", "size=8m"), tmp_path / "kept"
    node = new_node(file_task)
    trainer = Held(node, tmp_path)
    stored = [key for key in file_task.listing() if "checkpoint" in key]
    kept.mkdir()
    subprocess.run(["mount", "--bind", str(root), str(kept)], check=True)
    try:
        subprocess.run(["umount", "-l", str(root)], check=True)
        until(lambda: told(trainer.life, "disk_error"), "syncd says that the root is gone", 20)
        trainer.still(2)
        one(told(trainer.life), str(root), "unmounted or removed", "end syncd and start anew")
        assert [key for key in file_task.listing() if "checkpoint" in key] == stored, "nothing is deleted in the store"
        assert not (root / ".syncd").exists(), "nothing of ours is put where the root is not"
        subprocess.run(["mount", "--bind", str(kept), str(root)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(kept)], check=True)
    trainer.finish(file_task)


def test_a_root_that_is_emptied_is_taken_anew(tmp_path: Path, file_task: Task, new_node: NewNode) -> None:
    node = new_node(file_task)
    trainer = Held(node, tmp_path)
    stored = [key for key in file_task.listing() if "checkpoint" in key]
    away = tmp_path / "away"
    node.root.rename(away)
    node.root.mkdir()
    until(lambda: told(trainer.life, "root_renewed"), "syncd takes the root anew", 20)
    trainer.still(1)
    assert [key for key in file_task.listing() if "checkpoint" in key] == stored, "nothing is deleted in the store"
    assert len(told(trainer.life)) <= 1, "at most that it was gone"
    trainer.gate.touch()
    assert trainer.life.code(60) == 0, trainer.life.text
    assert node.committed()[-1] == 6
    assert file_task.attempts == 1
    file_task.verify()
    assert node.own("attempt.json"), "its note is there again"


# ---- the trainer's room (I8)


@pytest.mark.parametrize("reserve", some("auto", "0"))
def test_pins_leave_the_trainer_its_room_while_the_store_is_away_I8_(
    tmp_path: Path, tmpfs: Mount, new_node: NewNode, reserve: str
) -> None:
    """Room for three saves and a half, of which the trainer keeps two: a pin of a rotated one is one too many."""
    size = 2_000_000
    store = tmp_path / "store"
    task = Task("run", {"SYNCD_STORE": store.as_uri()}, Directory(store), tmp_path / "operator")
    root = tmpfs(tmp_path / "node-1" / "disk", f"size={round(size * 3.6)}")
    node, gate = new_node(task, SYNCD_DISK_RESERVE=reserve, SYNCD_KEEP="2"), tmp_path / "gate"
    fake = [*FAKE, "--steps", "12", "--pause", "0.4", "--keep", "2", "--size", str(size), "--no-final"]
    holds = ["--hold", f"4:{gate}", "--hold", f"10:{tmp_path / 'back'}"]
    life = node.run([*fake, *holds, "--trace", str(tmp_path / "trace")])
    node.until_committed(life, lambda steps: 4 in steps, "step 4")
    until(lambda: node.events()[-1]["event"] == "deleted", "the clean-up after it is over", 10)
    store.rename(tmp_path / "away")
    gate.touch()
    if reserve == "0":  # what the reserve is for
        until(lambda: told(life, "trainer_failed"), "a save finds no room", 30)
        return
    until(lambda: trace(tmp_path / "trace", "saved")[-1]["step"] == 10, "the trainer goes on", 40)
    assert [line["step"] for line in trace(tmp_path / "trace", "saved")] == list(range(1, 11)), "each save had its room"
    assert len(trace(tmp_path / "trace", "begin")) == 1
    one(told(life, "disk_low"), str(root), "held free for the trainer's next save", "a larger disk")
    (tmp_path / "away").rename(store)
    (tmp_path / "back").touch()
    assert life.code(60) == 0
    assert node.committed()[-1] == 12
    task.verify()
