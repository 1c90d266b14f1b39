"""What S3 tells of itself to `syncd doctor`: the server's kind and clock, its checksums, the rights of multipart uploads."""

import base64
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from syncd.errors import NotFound
from syncd.local.digest import sum_bytes
from syncd.model.answer import Answer, clocks
from syncd_s3.client import Client
from syncd_s3.errors import Damaged, NoRight, UploadGone
from syncd_s3.paths import Paths
from syncd_s3.session import proxy_of
from syncd_s3.upload import checksum

TIDIES = 3
"""Times that what is unfinished of one key is ended."""
_SUMS = {"crc64nvme": "CRC-64/NVME", "md5": "MD5"}
_CREATE = {"if-none-match": "If-None-Match", "generation": "x-goog-if-generation-match"}
_KINDS = {
    "env": "environment variables",
    "env-file": "files that AWS_…_FILE name",
    "shared-credentials-file": "the credentials file",
    "config-file": "the configuration file",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a role by web identity",
    "container-role": "the container's role",
    "iam-role": "the machine's role",
    "sso": "single sign-on",
    "custom-process": "a program",
}
"""botocore's names of the sources of keys, for people."""


class Telling:
    """Answers about one bucket, below one prefix. Each probe is a few small requests."""

    def __init__(self, client: Client, paths: Paths, prefix: str) -> None:
        self._client, self._paths, self._prefix = client, paths, prefix

    async def about(self) -> Mapping[str, str]:
        profile, place = self._client.profile, self._client.place
        said = {
            "kind": profile.name,
            "server": (await self._headers()).get("server", ""),
            "endpoint": place.endpoint,
            "region": str(self._client.api.meta.region_name),
            "credentials": _KINDS.get(self._client.credentials.source, self._client.credentials.source),
            "large bodies": self._paths.name,
            "proxy": _shown(proxy_of(self._client.api.meta.endpoint_url)),
            "sums": _SUMS[profile.checksum],
            "create-only by": _CREATE[profile.create],
            "lacks": profile.lacks,
        }
        return {name: text for name, text in said.items() if text}

    def probes(self) -> Mapping[str, Callable[[str], Awaitable[Answer]]]:
        return {
            "checksums": self._checksums,
            "clock": self._clock,
            "resume": self._resume,
            "keys": self._keys,
            "versions": self._versions,
        }

    async def tidy(self, key: str) -> bool:
        """Looks again afterwards: a part that was under way can outlive the end of its upload."""
        where = self._prefix + key
        for _ in range(TIDIES):
            uploads = await self._uploads(where)
            if not uploads:
                return True
            for item in uploads:
                with suppress(NotFound, UploadGone):  # ended by somebody else
                    await self._client.call("abort_multipart_upload", where, Key=where, UploadId=item["UploadId"])
        return not await self._uploads(where)

    async def _headers(self) -> Mapping[str, str]:
        """Those of any answer."""
        listed = await self._client.call("list_objects_v2", self._prefix, Prefix=self._prefix, MaxKeys=1)
        headers: Mapping[str, str] = listed["ResponseMetadata"]["HTTPHeaders"]
        return headers

    async def _checksums(self, key: str) -> Answer:
        """A put with a wrong sum must be refused; one with the right sum should be answered with it."""
        where, data = self._prefix + key, os.urandom(1000)
        kind = _SUMS[self._client.profile.checksum]
        try:
            await self._client.put(where, data, Key=where, **self._sums(os.urandom(1000)))
        except Damaged:
            pass
        else:
            return Answer(False, f"a wrong {kind} was taken")
        answer = await self._client.put(where, data, Key=where, **self._sums(data))
        if self._client.profile.checksum == "md5":
            return Answer(True, f"{kind}, of each part as it arrives")
        if answer.get("ChecksumCRC64NVME") is None:
            return Answer(True, f"{kind}, which no answer names: what is uploaded is read back once")
        return Answer(True, f"{kind}, of each part and of the whole")

    def _sums(self, data: bytes) -> dict[str, str]:
        if self._client.profile.checksum == "md5":
            return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
        return {"ChecksumCRC64NVME": checksum(sum_bytes(data).digest)}

    async def _clock(self, key: str) -> Answer:
        """The server's time is of whole seconds, and was some time ago when it is read."""
        before = time.time()
        date = (await self._headers()).get("date", "")
        after = time.time()
        try:
            skew = parsedate_to_datetime(date).timestamp() + 0.5 - (before + after) / 2
        except ValueError:
            return Answer(None, "the server's answers have no date")
        return clocks(skew, 1.0 + (after - before) / 2)

    async def _resume(self, key: str) -> Answer:
        """An upload of one small part that is found again, with its parts, and ended by its name."""
        where, data, sums = self._prefix + key, os.urandom(1000), {}
        if self._client.profile.checksum != "md5":
            sums = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        begun = await self._client.call("create_multipart_upload", where, Key=where, **sums)
        about = {"Key": where, "UploadId": begun["UploadId"]}
        lacking, unlisted = [], ""
        try:
            await self._client.call("upload_part", where, PartNumber=1, Body=data, **about, **self._sums(data))
            try:
                if begun["UploadId"] not in [item["UploadId"] for item in await self._uploads(where)]:
                    unlisted = "the server does not list it"
            except NoRight:
                lacking.append("s3:ListBucketMultipartUploads")
            try:
                if not any(page.get("Parts") for page in await self._client.pages("list_parts", where, **about)):
                    unlisted = "the server does not list its parts"
            except NoRight:
                lacking.append("s3:ListMultipartUploadParts")
        finally:
            try:
                await self._client.call("abort_multipart_upload", where, **about)
            except (NotFound, UploadGone):
                pass  # a server that dropped it by itself
            except NoRight:
                lacking.append("s3:AbortMultipartUpload")
        if not lacking:
            return Answer(not unlisted, unlisted)
        stays = "what it sent stays until a lifecycle rule ends it"
        return Answer(False, f"the keys lack {' and '.join(lacking)}; {stays}")

    async def _uploads(self, where: str) -> list[Any]:
        pages = await self._client.pages("list_multipart_uploads", where, Prefix=where)
        return [item for page in pages for item in page.get("Uploads", ()) if item["Key"] == where]

    async def _keys(self, key: str) -> Answer:
        keys = await self._client.credentials.get_frozen_credentials()
        if keys.token and self._client.credentials.source == "env":
            return Answer(False, "temporary keys in environment variables are renewed by nobody")
        return Answer(True)

    async def _versions(self, key: str) -> Answer:
        said = await self._client.call("get_bucket_versioning", "")
        return Answer(said.get("Status") != "Enabled")


def _shown(url: str | None) -> str:
    """A proxy's address without its user and password."""
    return urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl() if url else ""
