"""Every store passes the same suite."""

import errno
import os
from pathlib import Path

import pytest

from syncd.errors import Denied, Transient
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.testing import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestFileStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return FileStore.open(tmp_path / "store")


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
