"""The S3 store passes the suite of all stores, by each path of large bodies, over HTTP and TLS."""

import asyncio
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.store import Store
from syncd.testing import StoreSuite
from syncd.testing.servers import Minio


class TestS3Store(StoreSuite):
    """On MinIO; the fixture `store` is conftest's."""

    @pytest.fixture(params=["fast", "signed", "sdk"])
    def path(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.mark.slow
    async def test_list_of_more_than_one_page(self, store: Store) -> None:
        await super().test_list_of_more_than_one_page(store)


@pytest.fixture(scope="module")
def secure_minio(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("secure"), certificates=certificates) as server:
        yield server


class TestS3StoreOverTls(TestS3Store):
    """The same, every byte encrypted."""

    @pytest.fixture
    async def store(
        self, secure_minio: Minio, certificates: Path, bucket: str, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[S3Store]:
        for name, value in secure_minio.env.items():
            monkeypatch.setenv(name, value)
        secure_minio.make_bucket(bucket)
        settings = S3Settings.model_validate({"s3_ca_bundle": certificates / "public.crt", "s3_path": path})
        opened = await S3Store.open(f"s3://{bucket}/p", settings)
        yield opened
        await opened.aclose()
        # aiohttp closes a cancelled request's connection and does not wait for the server's farewell; the loop ends here.
        left = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
        for transport in list(left.values()):
            if isinstance(transport.get_protocol(), SSLProtocol):
                transport.abort()
