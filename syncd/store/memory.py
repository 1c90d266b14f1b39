"""A store in this process's memory: the default of the tests, and a real store."""

from syncd.errors import Exists, NotFound, Torn
from syncd.local.digest import sum_bytes
from syncd.model.checkpoint import ranges
from syncd.store import Entry, Fetched, Gate, Source, fetch_by_get


class MemoryStore:
    """Objects in a dict; `objects` may be shared by several instances (nodes)."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects: dict[str, bytes] = {} if objects is None else objects

    async def put(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(data)

    async def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise Exists(f"{key} exists already")
        self.objects[key] = bytes(data)

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        pieces = []
        for offset, length in ranges(source.size):
            async with gate(length):
                pieces.append(source.read(offset, length))
        data = b"".join(pieces)
        if sum_bytes(data) != source.sum:
            raise Torn(f"{key}: the bytes read are not those that were summed")
        self.objects[key] = data

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            data = self.objects[key]
        except KeyError:
            raise NotFound(f"{key}: no such object") from None
        return data[offset:] if length is None else data[offset : offset + length]

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        return await fetch_by_get(self, key, offset, length, fd)

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        found: dict[str, int] = {}
        for key, data in self.objects.items():
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition("/")
                if shallow and slash:
                    found[prefix + head + "/"] = 0
                else:
                    found[key] = len(data)
        return [Entry(key, size) for key, size in sorted(found.items())]

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def aclose(self) -> None:
        return None
