"""Every store passes the same suite."""

import errno
import os
from pathlib import Path

import pytest

from syncd.errors import Denied, Exists, Transient
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.testing import StoreSuite, open_gate, source_of


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestFileStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return FileStore.open(tmp_path / "store")


async def test_what_is_killed_in_a_write_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all of it is on disk it has no name, so that a process that is killed leaves nothing to be cleaned up."""
    store = FileStore.open(tmp_path / "store")
    if not store.nameless:
        pytest.skip("this file system has no files without a name (O_TMPFILE)")
    seen: list[list[Path]] = []
    real = os.fsync

    def look(fd: int) -> None:
        seen.append(list((tmp_path / "store" / ".tmp").iterdir()))
        real(fd)

    monkeypatch.setattr(os, "fsync", look)
    await store.put("t/x", b"1")
    await store.create("t/y", b"2")
    with source_of(tmp_path / "file", b"3" * 100) as source:
        await store.upload("t/z", source, open_gate)
    assert seen[0] == []
    assert [await store.get(f"t/{name}") for name in "xyz"] == [b"1", b"2", b"3" * 100]
    assert all(names == [] for names in seen)
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


@pytest.mark.parametrize("missing", [errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT])
async def test_a_file_system_without_nameless_files_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    real = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(missing, os.strerror(missing), str(path))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    store = FileStore.open(tmp_path / "store")
    await store.put("t/x", b"1")
    with pytest.raises(Exists):
        await store.create("t/x", b"2")
    assert await store.get("t/x") == b"1"
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


async def test_a_write_outlasts_a_delete_that_removes_its_directories_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes: one makes the directories of its first object, the other deletes the last one beside it."""
    store = FileStore.open(tmp_path / "store")
    real, left = Path.mkdir, [tmp_path / "store" / "t" / "a", tmp_path / "store" / "t"]

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        real(self, *args, **kwargs)  # type: ignore[arg-type]
        if left and self == left[-1]:
            left.pop().rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    for number, verb in enumerate((store.put, store.create)):
        left[:] = [tmp_path / "store" / "t" / "a", tmp_path / "store" / "t"]
        await verb(f"t/a/{number}", b"1")
        assert not left, "both directories went away once"
        assert await store.get(f"t/a/{number}") == b"1"
        await store.delete(f"t/a/{number}")


async def test_a_delete_takes_the_empty_directories_of_writers_who_died(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store")
    for key in ("t/a/x", "t/b/x"):
        await store.put(key, b"1")
    (tmp_path / "store" / "t" / "a" / "dead" / "deeper").mkdir(parents=True)
    await store.delete("t/a/x")
    assert [path.name for path in (tmp_path / "store" / "t").iterdir()] == ["b"]
    (tmp_path / "store" / "t" / "dead").mkdir()
    await store.delete("t/b/x")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".tmp"]


async def test_a_file_store_whose_mount_went_away_is_away_and_not_empty(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store")
    await store.put("t/x", b"1")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "store").mkdir()  # the mount point's own directory
    for call in (store.put("t/y", b"2"), store.create("t/z", b"3"), store.get("t/x"), store.list("t/")):
        with pytest.raises(Denied):
            await call
    assert not list((tmp_path / "store").iterdir())


async def test_a_directory_that_cannot_be_read_is_no_empty_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore.open(tmp_path / "store")
    await store.put("t/manifests/x", b"1")
    real = os.scandir

    def broken(path: str) -> object:
        if str(path).endswith("manifests"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(Transient):
        await store.list("t/")
