"""What a root's disk can do: asked of a real one, of memory, of places that cannot be; nothing is left."""

import os
import sys
from pathlib import Path

import pytest

from syncd.local import ground, watch
from syncd.local.lock import locked
from syncd.local.place import Place
from syncd.model.answer import Answer


async def answers(root: Path, *, watch_events: bool = True) -> dict[str, Answer]:
    asked = ground.ask(root, watch_events=watch_events, budget=64 << 20)
    return {key: answer async for key, answer in asked}


async def test_a_root_on_a_real_disk_has_all_that_is_asked_and_is_as_it_was(tmp_path: Path) -> None:
    found = await answers(tmp_path)
    for key in ("root", "lock", "links", "events", "times", "alone"):
        assert found[key].yes is True, (key, found[key])
    assert found["room"].value == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.2)
    assert list(tmp_path.iterdir()) == []


async def test_a_root_that_a_start_would_make_is_judged_by_its_parent_and_not_made(tmp_path: Path) -> None:
    found = await answers(tmp_path / "out")
    assert found["root"].yes is True
    assert "a start makes" in found["root"].said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a file", "no parent"])
async def test_a_place_that_cannot_be_a_root_is_the_only_answer(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("x")
    root = tmp_path / "file" if what == "a file" else tmp_path / "no" / "where"
    assert set(found := await answers(root)) == {"root"}
    assert found["root"].yes is False
    assert str(tmp_path) in found["root"].said


async def test_a_daemon_at_work_is_told(tmp_path: Path) -> None:
    Place(tmp_path).make()
    with locked(tmp_path):
        found = await answers(tmp_path)
    assert found["alone"] == Answer(False, f"pid {os.getpid()}")
    assert found["root"].yes is True


async def test_a_file_system_without_links_and_locks_says_no_and_the_others_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ground.os, "link", refuse)
    monkeypatch.setattr(ground.fcntl, "flock", lambda *args: None)  # as a file system that locks nothing
    found = await answers(tmp_path)
    assert found["links"] == Answer(False, "Operation not permitted")
    assert found["lock"].yes is False
    assert found["times"].yes is True


async def test_events_that_are_not_to_be_had_and_those_that_are_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await answers(tmp_path, watch_events=False))["events"].yes is None

    class Full(watch.Observer):  # type: ignore[valid-type, misc]
        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "Observer", Full)
    assert (await answers(tmp_path))["events"].yes is False


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    parts = [Part("/", "overlay"), Part("/proc", "proc"), Part("/pro", "ext4"), Part("/", "xfs")]
    monkeypatch.setattr(ground.psutil, "disk_partitions", lambda all: parts)
    assert ground.file_system(Path("/proc/self")) == "proc"
    assert ground.file_system(Path("/usr")) == "xfs", "of two on one place the later is seen"
    monkeypatch.setattr(ground.psutil, "disk_partitions", lambda all: [])
    assert ground.file_system(Path("/usr")) == ""


def test_the_memory_limit_is_the_least_of_the_groups_around_this_process(tmp_path: Path) -> None:
    def limit() -> int:
        return ground.memory_limit(tmp_path, tmp_path / "own")

    assert limit() == sys.maxsize
    (tmp_path / "own").write_text("0::/pod/container\n")
    (tmp_path / "pod" / "container").mkdir(parents=True)
    (tmp_path / "pod" / "container" / "memory.max").write_text("max\n")
    assert limit() == sys.maxsize
    (tmp_path / "pod" / "memory.max").write_text("268435456\n")
    assert limit() == 256 << 20
    (tmp_path / "own").write_text("0::/../unseen\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert limit() == 1000, "a container whose group is the root of what it sees"
    (tmp_path / "own").write_text("4:memory:/docker/1\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2000\n")
    assert limit() == 2000, "the first version of control groups"


def test_a_store_beside_the_root_goes_with_it(tmp_path: Path) -> None:
    assert ground.apart(tmp_path, str(tmp_path)).yes is False
    assert ground.apart(tmp_path, str(tmp_path / "none")).yes is None
    if os.stat("/dev/shm").st_dev != tmp_path.stat().st_dev:
        assert ground.apart(tmp_path, "/dev/shm").yes is True
