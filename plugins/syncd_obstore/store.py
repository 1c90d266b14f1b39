"""The verbs of a store over an obstore object store."""

import asyncio
import atexit
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as obs
from obstore.store import from_url

from syncd.errors import ConfigError, Denied, Exists, NotFound, Transient
from syncd.local.threads import to_its_end
from syncd.store import Entry, Fetched, Gate, Source
from syncd.store.landing import Landing, Unwritable
from syncd_obstore.errors import FAILURES, EmptyRange, translate
from syncd_obstore.telling import Telling
from syncd_obstore.upload import upload

SLOWEST = 16 << 10
"""Bytes per second below which a request counts as standing still."""
PIECE = 1 << 20
"""Bytes of an answer that are taken at a time, at least."""
LONGEST = 1024.0
"""Seconds that a request may take beyond the time-out: a part of 16 MiB at the slowest. The library's own limit."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL")

# Its threads still drop what belonged to a finished call when the interpreter ends, and abort the process when they meet
# one that is being torn down (PyO3/pyo3-async-runtimes#40; one exit in seven). They need a moment without the GIL held.
atexit.register(time.sleep, 0.1)


class Settings(Protocol):
    """The settings that matter here."""

    @property
    def obstore_ca_bundle(self) -> Path | None: ...
    @property
    def obstore_timeout(self) -> float: ...


class ObstoreStore:
    """Objects of any service that obstore knows. What a server received is checked by the means of the service:

    on S3 by CRC-64/NVME, elsewhere by TLS and the object's size; `fetch` leaves the proof to the digests of the manifest.
    """

    way = "obstore"

    def __init__(self, store: Any, place: str, timeout: float) -> None:
        self._store, self.place, self.timeout = store, place, timeout

    @property
    def telling(self) -> Telling:
        """What it knows of itself, for `syncd doctor`."""
        return Telling(self)

    @classmethod
    async def open(cls, url: str, settings: Settings) -> "ObstoreStore":
        """Connect, and check with one listing that the place is there and may be listed.

        Raises `ConfigError` for a URL or settings that cannot be, `Denied` for wrong keys, rights or names,
        `Transient` for a server that does not answer now.
        """
        inner, place = _parse(url)
        store = cls(_connect(inner, place, settings), place, settings.obstore_timeout)
        await store.list("", shallow=True)
        return store

    async def put(self, key: str, data: bytes) -> None:
        async with self._writing(key, len(data)):
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def create(self, key: str, data: bytes) -> None:
        async with self._writing(key, len(data), creates=True):
            await obstore.put_async(self._store, key, data, mode="create")

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        """Nothing is taken up again after a crash: the library does not say which parts are there."""
        async with self._writing(key, None) as progress:
            await upload(self._store, key, source, gate, progress)
            progress(0)
            stored = (await obstore.head_async(self._store, key))["size"]
        if stored != source.size:
            raise Transient(f"{self.place}: {key}: {stored} bytes were stored of {source.size}")

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        pieces: list[bytes] = []
        if length == 0:
            async with self._said(key, 0):
                await obstore.head_async(self._store, key)
            return b""

        async def keep(data: bytes) -> None:
            pieces.append(data)

        await self._stream(key, offset, length, keep)
        return b"".join(pieces)

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        landing = Landing(fd, offset, length)

        async def land(data: bytes) -> None:
            await to_its_end(landing.take, data[: length - landing.moved])

        try:
            await self._stream(key, offset, length, land)
        except Unwritable as disk:
            raise disk.error from None
        return landing.fetched

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        async with self._said(prefix, 0) as progress:
            if shallow:
                found = await obstore.list_with_delimiter_async(self._store, prefix or None)
                entries = [Entry(f"{name}/", 0) for name in found["common_prefixes"]]
                objects = list(found["objects"])
            else:
                entries, objects = [], []
                async for page in obstore.list(self._store, prefix or None):
                    progress(0)
                    objects += page
        entries += [Entry(item["path"], item["size"]) for item in objects]
        return sorted(entries, key=lambda entry: entry.key)

    async def delete(self, key: str) -> None:
        try:
            async with self._said(key, 0):
                await obstore.delete_async(self._store, key)
        except NotFound:
            return  # some services say so; for us it is no error
        except Exists as error:
            raise Transient(str(error)) from None

    async def aclose(self) -> None:
        return None

    async def written(self, key: str) -> float:
        """When an object was written, in seconds since the epoch, by the service's clock."""
        async with self._said(key, 0):
            return float((await obstore.head_async(self._store, key))["last_modified"].timestamp())

    async def _stream(self, key: str, offset: int, length: int | None, take: Callable[[bytes], Any]) -> None:
        """Pass an object's bytes, or a range of them, to `take` as they come; an empty range passes none."""
        if length == 0:
            return
        whole = not offset and length is None
        wanted: Any = {"offset": offset} if length is None else (offset, offset + length)
        try:
            async with self._said(key, PIECE) as progress:
                answer = await obstore.get_async(self._store, key, options=None if whole else {"range": wanted})
                if answer.range[0] != offset:
                    raise Denied(f"{self.place}: the server does not serve ranges of objects; use another")
                async for piece in answer.stream(min_chunk_size=PIECE):
                    progress(None)
                    await take(bytes(piece))
                    progress(PIECE)
        except EmptyRange:
            async with self._said(key, 0):
                size = (await obstore.head_async(self._store, key))["size"]
            if offset < size:
                raise

    @asynccontextmanager
    async def _said(self, what: str, nbytes: int | None) -> AsyncIterator[Callable[[int | None], None]]:
        """Say every failure in the store's words; end what stands still.

        Gives a function that allows time for so many more bytes, or, with None, any.
        """
        loop = asyncio.get_running_loop()

        def until(nbytes: int | None) -> float | None:
            return None if nbytes is None else loop.time() + self.timeout + nbytes / SLOWEST

        try:
            async with asyncio.timeout_at(until(nbytes)) as limit:
                yield lambda nbytes: limit.reschedule(until(nbytes))
        except TimeoutError:
            raise Transient(f"{self.place}: {what}: no answer or progress in time") from None
        except FAILURES as error:
            raise translate(error, self.place, what) from None

    @asynccontextmanager
    async def _writing(
        self, key: str, nbytes: int | None, *, creates: bool = False
    ) -> AsyncIterator[Callable[[int | None], None]]:
        try:
            async with self._said(key, nbytes) as progress:
                yield progress
        except (NotFound, Exists) as error:
            if creates and isinstance(error, Exists):
                raise
            # Only a reader may conclude from "not found", and a create from "exists", which the library makes of every
            # 409: a write that hears it (something else is done to the object at the same time) is repeated.
            raise Transient(str(error)) from None


def _parse(url: str) -> tuple[str, str]:
    """obstore's URL and the one for people. Raises `ConfigError`, which never repeats a password or signature."""
    scheme, colon, rest = url.partition(":")
    inner = f"{scheme.lower().removeprefix('obstore+')}{colon}{rest}"
    parts = urlsplit(inner)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if parts.password or parts.query or parts.fragment:
        raise ConfigError(f"{shown}: keys and signatures do not belong in the URL; set them by the service's variables")
    names = parts.path.strip("/").split("/")
    if any(name in ("", ".", "..") for name in names) and names != [""]:
        raise ConfigError(
            f"{shown}: the prefix holds an empty name, '.' or '..'; services differ in what they make of it"
        )
    return inner, shown


def _connect(url: str, place: str, settings: Settings) -> Any:
    scheme = url.partition(":")[0]
    try:
        if scheme == "file":
            return from_url(url, automatic_cleanup=True, mkdir=True)
        if scheme == "memory":
            return from_url(url)
        options: dict[str, Any] = {
            "user_agent": "syncd",
            "timeout": timedelta(seconds=settings.obstore_timeout + LONGEST),
            # Otherwise the library lets no endpoint be http://, which the operator has asked for by name.
            "allow_http": any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS),
        }
        if settings.obstore_ca_bundle:
            options["root_certificate"] = settings.obstore_ca_bundle.read_bytes()
        more: dict[str, Any] = {}
        if scheme in ("s3", "s3a"):
            more["checksum_algorithm"] = "CRC64NVME"
            if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3"):
                more["endpoint"] = endpoint
        # No repeats here: a put that is repeated within the library finds its own object and calls it another's.
        more |= {"client_options": options, "retry_config": {"max_retries": 0}}
        return from_url(url, **more)
    except OSError as error:
        raise ConfigError(f"SYNCD_OBSTORE_CA_BUNDLE: {settings.obstore_ca_bundle}: {error.strerror}") from None
    except (obs.BaseError, ValueError, TypeError) as error:
        raise ConfigError(f"SYNCD_STORE={translate(error, place, '')}; correct the URL or the settings") from None
