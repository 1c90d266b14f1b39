"""Pins: the source held still (I6), nothing outside the root (I9), whatever the trainer does meanwhile."""

import os
import shutil
from pathlib import Path

import pytest

from syncd.errors import Refused, Torn
from syncd.local.completion import CORE_RULES
from syncd.local.pins import Pin, Pins
from syncd.local.scan import scan
from syncd.local.tree import open_beneath, opened
from syncd.model.keys import Keys
from syncd.move.objects import Owner
from syncd.move.push import Pusher
from syncd.store.memory import MemoryStore
from syncd.testing import SlowStore, open_gate
from syncd.testing.stores import Around


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    found = Pins(tmp_path)
    found.load()
    return found


def checkpoint(root: Path, name: str = "checkpoint-1") -> Path:
    path = root / name
    (path / "sub").mkdir(parents=True)
    (path / "w.bin").write_bytes(os.urandom(5000))
    (path / "sub" / "x").write_text("x")
    (path / "_SUCCESS").write_text("")
    return path


def take(root: Path, pins: Pins) -> Pin:
    (seen,) = scan(root, CORE_RULES)
    return pins.take(seen)


def pusher(store: object) -> Pusher:
    return Pusher(store, Owner(Keys("t"), 1, "0" * 32), open_gate, number=0, used=set(), begun=set())  # type: ignore[arg-type]


async def test_I6_the_trainers_rotation_cannot_pull_files_from_under_an_upload(tmp_path: Path, pins: Pins) -> None:
    path = checkpoint(tmp_path)
    content = (path / "w.bin").read_bytes()
    pin = take(tmp_path, pins)

    class Rotates(Around):
        async def before(self, verb: str, key: str) -> None:
            shutil.rmtree(path, ignore_errors=True)  # moves the ctime of every pinned inode

    store = MemoryStore()
    await pusher(Rotates(store)).push(pin, pins.assign)
    assert store.objects["t/attempt-0001/checkpoint-1/w.bin"] == content
    assert "t/attempt-0001/manifests/checkpoint-1.json" in store.objects


@pytest.mark.parametrize("when", ["before", "upload", "check"])
@pytest.mark.parametrize("how", ["truncate in place", "same size", "same size, time put back"])
async def test_I6_a_file_rewritten_in_place_aborts_the_commit(tmp_path: Path, pins: Pins, when: str, how: str) -> None:
    path = checkpoint(tmp_path)
    pin = take(tmp_path, pins)

    def rewrite() -> None:
        found = (path / "w.bin").stat()
        with (path / "w.bin").open("r+b") as file:
            if how == "truncate in place":
                file.truncate(10)
            else:
                file.write(b"other bytes")
        if how == "same size, time put back":
            os.utime(path / "w.bin", ns=(found.st_atime_ns, found.st_mtime_ns))

    class Rewrites(Around):
        done = False

        async def before(self, verb: str, key: str) -> None:
            if not self.done and ((when == "upload" and key.endswith("w.bin")) or (when == "check" and verb == "list")):
                self.done = True
                rewrite()

    if when == "before":
        rewrite()
    store = MemoryStore()
    if (when, how) in (("before", "same size, time put back"), ("check", "same size, time put back")):
        # Before: what is summed is what is sent, whole and consistent. After the upload: what was sent is consistent.
        await pusher(Rewrites(store)).push(pin, pins.assign)
        return
    with pytest.raises(Torn):
        await pusher(Rewrites(store)).push(pin, pins.assign)
    assert not [key for key in store.objects if "/manifests/" in key]


async def test_I6_a_torn_name_is_not_used_again(tmp_path: Path, pins: Pins) -> None:
    path = checkpoint(tmp_path)
    pin = take(tmp_path, pins)
    (path / "w.bin").write_bytes(b"rewritten")
    store = MemoryStore()
    push = pusher(store)
    with pytest.raises(Torn):
        await push.push(pin, pins.assign)
    pins.drop(pin)
    await push.push(take(tmp_path, pins), pins.assign)
    assert "t/attempt-0001/manifests/checkpoint-1.2.json" in store.objects


@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "directory link", "newline", "backslash", "not utf-8"])
def test_I9_what_is_never_carried_refuses_the_checkpoint_in_one_clear_line(
    tmp_path: Path, pins: Pins, kind: str
) -> None:
    path = checkpoint(tmp_path)
    if kind == "symlink":
        (path / "link").symlink_to("/etc/passwd")
    elif kind == "dangling":
        (path / "link").symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path / "pipe")
    elif kind == "directory link":
        (path / "dir").symlink_to("/etc")
    elif kind == "newline":
        (path / "a\nb").write_text("")
    elif kind == "backslash":
        (path / "a\\b").write_text("")
    else:
        with open(os.fsencode(path) + b"/\xff", "w"):
            pass
    with pytest.raises(Refused) as caught:
        take(tmp_path, pins)
    assert "\n" not in str(caught.value)
    assert "checkpoint-1" in str(caught.value)
    assert not list(pins.home.iterdir())


def test_I9_a_name_swapped_for_a_link_is_not_followed(tmp_path: Path, pins: Pins) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "x").write_text("secret")
    path = checkpoint(tmp_path)
    (seen,) = scan(tmp_path, CORE_RULES)
    shutil.rmtree(path / "sub")
    (path / "sub").symlink_to(outside)
    (path / "w.bin").unlink()
    (path / "w.bin").symlink_to(outside / "x")
    with pytest.raises((Torn, Refused)):
        pins.take(seen)
    with opened(tmp_path) as base:
        for name in ("checkpoint-1/sub/x", "checkpoint-1/w.bin"):
            with pytest.raises(OSError):
                open_beneath(base, name)


@pytest.mark.parametrize("name", ["manifests", "events/x", "resume.json", "logs", "a.json/b"])
def test_a_checkpoint_cannot_take_the_stores_own_names(tmp_path: Path, pins: Pins, name: str) -> None:
    checkpoint(tmp_path, name)
    with pytest.raises(Refused):
        take(tmp_path, pins)


def test_pins_survive_the_daemon_and_changed_or_unfinished_ones_are_cleared(tmp_path: Path, pins: Pins) -> None:
    path = checkpoint(tmp_path)
    pin = pins.assign(take(tmp_path, pins), "checkpoint-1.2", 7)
    (pins.home / "000099").mkdir()
    (loaded,) = Pins(tmp_path).load()
    assert (loaded.name, loaded.commit, loaded.commit_number) == ("checkpoint-1", "checkpoint-1.2", 7)
    assert loaded.bytes == pin.bytes
    (path / "w.bin").write_bytes(b"in place")
    assert Pins(tmp_path).load() == []
    assert not list(pins.home.iterdir())


async def test_where_hard_links_are_refused_the_source_is_read_in_its_place(
    tmp_path: Path, pins: Pins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = checkpoint(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    pin = take(tmp_path, pins)
    assert pin.base == path
    (loaded,) = Pins(tmp_path).load()
    assert loaded.base == path
    store = MemoryStore()
    await pusher(store).push(pin, pins.assign)
    assert store.objects["t/attempt-0001/checkpoint-1/w.bin"] == (path / "w.bin").read_bytes()
    shutil.rmtree(path)
    with pytest.raises(Torn):
        await pusher(SlowStore(MemoryStore())).push(pin, pins.assign)
