"""What a service by obstore tells of itself to `syncd doctor`: little, since the library shows no answer's headers."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import obstore

from syncd.model.answer import Answer, clocks

_SERVICES = {
    "gs": "Google Cloud Storage", "az": "Azure Blob Storage", "azure": "Azure Blob Storage", "adl": "Azure Data Lake",
    "abfs": "Azure Data Lake", "abfss": "Azure Data Lake", "s3": "S3", "s3a": "S3",
}  # fmt: skip


class Store(Protocol):
    """As much of `store.ObstoreStore` as is used here."""

    place: str

    async def put(self, key: str, data: bytes) -> None: ...
    async def written(self, key: str) -> float: ...


class Telling:
    """A `syncd.store.Telling`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def about(self) -> Mapping[str, str]:
        scheme = self._store.place.partition(":")[0]
        return {"kind": _SERVICES.get(scheme, scheme), "library": f"obstore {obstore.__version__}"}

    def probes(self) -> Mapping[str, Callable[[str], Awaitable[Answer]]]:
        return {"checksums": self._checksums, "clock": self._clock}

    async def tidy(self, key: str) -> bool:
        """A cancelled upload has removed its parts. Those of a dead process the library does not show."""
        return False

    async def _checksums(self, key: str) -> Answer:
        if self._store.place.startswith(("s3:", "s3a:")):
            return Answer(None, "the library sends CRC-64/NVME, and lets nobody send a wrong one")
        return Answer(False, "TLS and the object's size vouch for it")

    async def _clock(self, key: str) -> Answer:
        """By the time of an object; services count in whole seconds."""
        before = time.time()
        await self._store.put(key, b"x")
        after = time.time()
        skew = await self._store.written(key) + 0.5 - (before + after) / 2
        return clocks(skew, 1.0 + (after - before) / 2)
