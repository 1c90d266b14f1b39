"""Every store passes the same suite."""

from pathlib import Path

import pytest

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
