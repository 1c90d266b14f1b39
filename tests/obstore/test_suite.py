"""The store of obstore passes the suite of all stores: in memory, in a directory, on MinIO, on Azure's emulator."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from syncd_obstore import ObstoreSettings
from syncd_obstore.store import ObstoreStore

from syncd.store import Store
from syncd.testing import StoreSuite
from syncd.testing.servers import Minio
from tests.obstore.azurite import Azurite

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


class TestInMemory(StoreSuite):
    @pytest.fixture
    async def store(self) -> ObstoreStore:
        return await ObstoreStore.open("obstore+memory:///", ObstoreSettings())


class TestInADirectory(StoreSuite):
    @pytest.fixture
    async def store(self, ram_path: Path) -> ObstoreStore:
        return await ObstoreStore.open(f"obstore+file://{ram_path}/store", ObstoreSettings())


class TestOnMinio(StoreSuite):
    @pytest.fixture
    async def store(self, minio: Minio, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObstoreStore]:
        for name, value in minio.env.items():
            monkeypatch.setenv(name, value)
        bucket = minio.make_bucket(f"obstore-{next(_numbers)}")
        yield await ObstoreStore.open(f"obstore+s3://{bucket}/some/prefix", ObstoreSettings())

    @pytest.mark.slow
    async def test_list_of_more_than_one_page(self, store: Store) -> None:
        await super().test_list_of_more_than_one_page(store)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


class TestOnAzurite(StoreSuite):
    @pytest.fixture
    async def store(self, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> ObstoreStore:
        for name, value in azurite.env.items():
            monkeypatch.setenv(name, value)
        container = azurite.make_container(f"container{next(_numbers)}")
        return await ObstoreStore.open(f"az://{container}/some/prefix", ObstoreSettings())
