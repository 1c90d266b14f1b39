"""The verbs of a store over one bucket's keys below a prefix."""

import hashlib
import logging
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit

from syncd.errors import ConfigError, Denied, Exists, NotFound, Transient
from syncd.local.digest import sum_bytes
from syncd.store import Entry, Fetched, Gate, Source, fetch_by_get
from syncd.store.landing import Unwritable
from syncd_s3.client import Client, Settings
from syncd_s3.errors import EmptyRange
from syncd_s3.paths import Paths
from syncd_s3.telling import Telling
from syncd_s3.upload import Upload, checksum
from syncd_s3.wire import Span

log = logging.getLogger("syncd.s3")

MAX_KEY = 1024
"""Bytes of a key, prefix included: S3's limit."""


class S3Store:
    """Objects in a bucket. Every put carries a checksum that the server compares with what it received."""

    def __init__(self, client: Client, prefix: str, paths: Paths) -> None:
        self.client, self.prefix, self.paths = client, prefix, paths

    @property
    def way(self) -> str:
        """How large bodies travel: `fast`, `signed` or `sdk`."""
        return self.paths.name

    @property
    def telling(self) -> Telling:
        """What it knows of itself, for `syncd doctor`."""
        return Telling(self.client, self.paths, self.prefix)

    @classmethod
    async def open(cls, url: str, settings: Settings) -> "S3Store":
        """Connect, and check with one listing that the bucket is there and may be listed.

        Raises `ConfigError` for a URL or settings that cannot be, `Denied` for wrong keys, rights, bucket or host,
        `Transient` for a server that does not answer now.
        """
        bucket, prefix = _parse(url)
        client = await Client.connect(bucket, settings)
        store = cls(client, prefix, Paths.of(client, settings.s3_path))
        try:
            await store.client.call("list_objects_v2", prefix, Prefix=prefix, MaxKeys=1)
        except BaseException:
            await store.aclose()
            raise
        profile = client.profile
        log.info("s3.profile", extra={"fields": {"profile": profile.name, "lacks": profile.lacks, "way": store.way}})
        return store

    async def put(self, key: str, data: bytes) -> None:
        await self._put(key, data)

    async def create(self, key: str, data: bytes) -> None:
        """PutObject with `If-None-Match: *`. Tiny objects only: MinIO holds the key's lock for the whole body."""
        await self._put(key, data, IfNoneMatch="*")

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        """A multipart upload whose parts are the file's ranges, or one PutObject for a file of one range."""
        await Upload(self.client, self.paths, self._key(key), source, gate).run()

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        where = self._key(key)
        if length == 0:
            await self.client.call("head_object", where, Key=where)
            return b""
        if not offset and length is None:
            return (await self.client.get(where, Key=where))[1]
        last = "" if length is None else str(offset + length - 1)
        try:
            answer, data = await self.client.get(where, Key=where, Range=f"bytes={offset}-{last}")
        except EmptyRange:
            return b""
        self._ranged(answer, offset)
        return data

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        if not length:
            return await fetch_by_get(self, key, offset, length, fd)
        where = self._key(key)
        about = {"Key": where, "Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            answer, fetched = await self.paths.fetch(where, Span(fd, offset, length), about)
        except EmptyRange:
            return Fetched(0)
        except Unwritable as disk:
            raise disk.error from None
        self._ranged(answer, offset)
        return fetched

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        where = self.prefix + prefix
        delimiter = {"Delimiter": "/"} if shallow else {}
        pages = await self.client.pages("list_objects_v2", where, Prefix=where, **delimiter)
        objects = [item for page in pages for item in page.get("Contents", ())]
        # A console's "folder" is an object whose name ends in "/": none of ours.
        found = [self._entry(item["Key"], item["Size"]) for item in objects if not item["Key"].endswith("/")]
        found += [self._entry(item["Prefix"], 0) for page in pages for item in page.get("CommonPrefixes", ())]
        return sorted(found, key=lambda entry: entry.key)

    async def delete(self, key: str) -> None:
        where = self._key(key)
        try:
            await self.client.call("delete_object", where, Key=where)
        except NotFound:
            return  # some servers say so; for us it is no error

    async def aclose(self) -> None:
        await self.paths.aclose()
        await self.client.aclose()

    def _ranged(self, answer: dict[str, Any], offset: int) -> None:
        if not str(answer.get("ContentRange", "")).startswith(f"bytes {offset}-"):
            raise Denied(f"{self.client.place}: the server does not serve ranges of objects; use another")

    async def _put(self, key: str, data: bytes, **condition: Any) -> None:
        where = self._key(key)
        if self.client.profile.checksum == "md5":
            sums = {"ContentMD5": b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
        else:
            sums = {"ChecksumCRC64NVME": checksum(sum_bytes(data).digest)}
        try:
            await self.client.put(where, data, Key=where, **sums, **condition)
        except (NotFound, Exists) as error:
            if condition and isinstance(error, Exists):
                raise
            # Only a reader may conclude from "not found", and a create from "exists": another write is repeated.
            raise Transient(str(error)) from None

    def _key(self, key: str) -> str:
        where = self.prefix + key
        if len(where.encode()) > MAX_KEY:
            raise Denied(f"{where!r} is longer than {MAX_KEY} bytes; shorten the store's prefix or the file's path")
        return where

    def _entry(self, key: str, size: int) -> Entry:
        return Entry(key[len(self.prefix) :], size)


def _parse(url: str) -> tuple[str, str]:
    """Bucket and prefix (empty, or ending in `/`). Raises `ConfigError`, which never repeats a password."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError("s3://…@…: keys do not belong in the URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"{url}: say s3://bucket/prefix; the server's address goes into SYNCD_S3_ENDPOINT_URL")
    prefix = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise ConfigError(f"{url}: the prefix holds an empty name, '.' or '..'; servers differ in what they make of it")
    return parts.netloc, f"{prefix}/" if prefix else ""
