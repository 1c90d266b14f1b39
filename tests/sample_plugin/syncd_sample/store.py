"""A store in a directory: one file an object, its key percent-encoded to be one name."""

import asyncio
import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from syncd.errors import ConfigError, Denied, Exists, NotFound, Torn
from syncd.local.digest import matches
from syncd.model.checkpoint import ranges
from syncd.store import Entry, Fetched, Gate, Source, fetch_by_get


class SampleStore:
    """Enough for a sample: small, not fast, and nothing is fsynced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def open(cls, url: str) -> "SampleStore":
        """The store of `sample:///directory`. Raises `ConfigError`."""
        directory = Path(unquote(urlsplit(url).path))
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"SYNCD_STORE={url}: {error.strerror}; name a directory that you may write") from None
        return cls(directory)

    async def put(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, key, data)

    async def create(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._create, key, data)

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        temp = await asyncio.to_thread(self._write, key, b"")
        try:
            digests = source.sum.ranges or (source.sum.digest,)
            for (offset, length), digest in zip(ranges(source.size), digests, strict=True):
                async with gate(length):
                    await asyncio.to_thread(_append, temp, source, offset, length, digest)
            temp.replace(self._path(key))
        finally:
            temp.unlink(missing_ok=True)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            data = await asyncio.to_thread(self._path(key).read_bytes)
        except FileNotFoundError:
            raise NotFound(f"{key}: no such object") from None
        return data[offset:] if length is None else data[offset : offset + length]

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        return await fetch_by_get(self, key, offset, length, fd)

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        found = {}
        for path in await asyncio.to_thread(lambda: list(self.directory.iterdir())):
            key = unquote(path.name)
            below = key.removeprefix(prefix)
            if path.name.startswith(".") or not key.startswith(prefix):
                continue
            if shallow and "/" in below:
                folder = prefix + below.partition("/")[0] + "/"
                found[folder] = Entry(folder, 0)
            else:
                found[key] = Entry(key, path.stat().st_size)
        return [found[key] for key in sorted(found)]

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def aclose(self) -> None:
        return None

    def _path(self, key: str) -> Path:
        name = quote(key, safe="")
        if len(name) > 255 or name.startswith("."):
            raise Denied(f"{key!r} cannot be a key here")
        return self.directory / name

    def _put(self, key: str, data: bytes) -> None:
        temp = self._write(key, data)
        temp.replace(self._path(key))

    def _create(self, key: str, data: bytes) -> None:
        temp = self._write(key, data)
        try:
            os.link(temp, self._path(key))
        except FileExistsError:
            raise Exists(f"{key} exists already") from None
        finally:
            temp.unlink()

    def _write(self, key: str, data: bytes) -> Path:
        """Under another name first: an object appears whole or not at all."""
        self._path(key)
        temp = self.directory / f".{os.urandom(8).hex()}"
        temp.write_bytes(data)
        return temp


def _append(temp: Path, source: Source, offset: int, length: int, digest: str) -> None:
    data = source.read(offset, length)
    if not matches(data, digest):
        raise Torn(f"{temp}: the bytes read at {offset} are not those that were summed")
    with temp.open("ab") as file:
        file.write(data)
