"""Empty stores for one kill point each: a directory, and a prefix of a bucket of a MinIO."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.store import Store
from syncd.store.file import FileStore
from syncd.testing.servers import Minio

Opened = tuple[Store, str, dict[str, str]]
Place = Callable[[Path], AbstractAsyncContextManager[Opened]]
"""`place(home)`: a store, its URL, and the variables that a process needs for it."""


@asynccontextmanager
async def directory(home: Path) -> AsyncIterator[Opened]:
    home.mkdir(parents=True)
    yield FileStore.open(home / "store", create=True), (home / "store").as_uri(), {}


def bucket(server: Minio, name: str) -> Place:
    @asynccontextmanager
    async def prefix(home: Path) -> AsyncIterator[Opened]:
        home.mkdir(parents=True)
        url = f"s3://{name}/{home.name}"
        store = await S3Store.open(url, S3Settings())
        try:
            yield store, url, server.env
        finally:
            await store.aclose()

    return prefix
