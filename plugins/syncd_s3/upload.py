"""A file of any size into one object: found again where it stopped, each part and the whole vouched for by checksum."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from syncd.errors import Denied, Exists, NotFound, Torn, Transient
from syncd.local.digest import WINDOW, add_crc, crc_of, crc_range, matches
from syncd.local.threads import alone, to_its_end
from syncd.model.checkpoint import ranges
from syncd.store import Gate, Source
from syncd_s3.client import Client
from syncd_s3.errors import Damaged, NoKeys, NoRight, UploadGone
from syncd_s3.paths import Paths
from syncd_s3.wire import Span

AT_ONCE = 4
"""Parts of one file in flight at most; the caller's gate may allow fewer. Few connections reach the link's speed."""


def checksum(digest: str) -> str:
    """A digest as S3's headers spell it: base64 of eight bytes, big-endian."""
    return base64.b64encode(crc_of(digest).to_bytes(8, "big")).decode()


@dataclass(frozen=True, slots=True)
class Part:
    """One range of the file, and its checksum as S3 spells it."""

    number: int
    offset: int
    length: int
    digest: str

    @property
    def checksum(self) -> str:
        return checksum(self.digest)


class Upload:
    """One call of `upload` for one key. Its only memory between calls is the server's."""

    def __init__(self, client: Client, paths: Paths, key: str, source: Source, gate: Gate) -> None:
        self.paths = paths
        self.client, self.key, self.source, self.gate = client, key, source, gate
        digests = source.sum.ranges or (source.sum.digest,)
        self.parts = [
            Part(number, offset, length, digest)
            for number, ((offset, length), digest) in enumerate(zip(ranges(source.size), digests, strict=True), 1)
        ]
        self.whole = checksum(source.sum.digest)
        self.md5 = client.profile.checksum == "md5"

    async def run(self) -> None:
        """Raises `Torn` and `StoreError`s only."""
        try:
            if len(self.parts) == 1:
                await self._one_request()
            else:
                await self._multipart()
        except (NotFound, Exists) as error:
            # A server that lost an upload, or a delete at the same time; the bucket's own absence is `Denied`. No request
            # of ours had a condition.
            raise Transient(str(error)) from None

    async def _one_request(self) -> None:
        async with self.gate(self.source.size) as urgent:
            answer = await self._send("put_object", self.parts[0], urgent=bool(urgent))
        await self._vouched(answer)

    async def _multipart(self) -> None:
        upload_id, sent = await self._find()
        if upload_id is None:
            if await self._is_there():
                return  # the answer to an earlier completion was lost, or its commit was
            upload_id = await self._begin()
        try:
            await self._send_missing(upload_id, sent)
            answer = await self._complete_as_stored(upload_id, sent)
        except (Torn, UploadGone):
            await self._abort(upload_id)
            raise
        await self._vouched(answer)

    async def _find(self) -> tuple[str | None, dict[int, str]]:
        """The newest upload of this key that holds a part of this file, and the ETags of such parts by their numbers.

        All others of this key are aborted, since nobody else writes it: also one without parts, which saves nothing and
        may have been begun for other checksums (MinIO's listing does not say for which).
        """
        try:
            # The exact key as prefix: MinIO lists no other way. A real prefix match finds longer keys too.
            pages = await self.client.pages("list_multipart_uploads", self.key, Prefix=self.key)
        except NoRight as error:
            self.client.warn_once("s3.no_resume", error)
            return None, {}  # the right to list uploads is often withheld, and only a resumption needs it
        uploads = [item for page in pages for item in page.get("Uploads", ()) if item["Key"] == self.key]
        chosen, sent = None, {}
        for item in sorted(uploads, key=lambda item: item["Initiated"], reverse=True):
            if chosen is None and (sent := await self._sent(item["UploadId"])):
                chosen = str(item["UploadId"])
            else:
                await self._abort(item["UploadId"])
        return chosen, sent

    async def _sent(self, upload_id: str) -> dict[int, str]:
        """ETags by number of the parts that are there as the file has them."""
        wanted = {part.number: part for part in self.parts}
        found = {}
        try:
            pages = await self.client.pages("list_parts", self.key, Key=self.key, UploadId=upload_id)
        except NoRight as error:  # it is one of its own
            self.client.warn_once("s3.no_resume", error)
            return {}
        for page in pages:
            for item in page.get("Parts", ()):
                part = wanted.get(item["PartNumber"])
                if part and item["Size"] == part.length and await self._is_stored(part, item):
                    found[part.number] = str(item["ETag"])
        return found

    async def _is_stored(self, part: Part, item: dict[str, Any]) -> bool:
        """Whether a listed part holds the file's bytes: by its checksum, else by its ETag, which is its MD5 or unlike it."""
        if not self.md5:
            return bool(item.get("ChecksumCRC64NVME") == part.checksum)
        return bool(item["ETag"].strip('"') == (await to_its_end(self._md5_of, part)).hex())

    async def _is_there(self) -> bool:
        try:
            answer = await self.client.call("head_object", self.key, Key=self.key, ChecksumMode="ENABLED")
        except (NotFound, Denied):
            return False  # S3 says 403 for an absent object to whom may not list; the put will tell the truth
        return answer["ContentLength"] == self.source.size and answer.get("ChecksumCRC64NVME") == self.whole

    async def _begin(self) -> str:
        sums = {} if self.md5 else {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        answer = await self.client.call("create_multipart_upload", self.key, Key=self.key, **sums)
        return str(answer["UploadId"])

    async def _send_missing(self, upload_id: str, sent: dict[int, str]) -> None:
        """Send what is not in `sent` and add it there.

        What passes, and keys that have ended, end only the taking of further parts: those under way are worth waiting
        for, since the next call finds them stored. Any other failure stops them. One error is raised.
        """
        missing = iter([part for part in self.parts if part.number not in sent])
        failed: list[Transient | NoKeys] = []

        async def senders() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(self.parts) - len(sent))):
                    group.create_task(self._send_some(upload_id, missing, sent, failed))

        try:
            await alone(senders)
        except BaseExceptionGroup as errors:  # not except*: what that raises is a group again
            raise _first(errors) from None
        if failed:
            raise failed[0]

    async def _send_some(
        self, upload_id: str, missing: Iterator[Part], sent: dict[int, str], failed: list[Transient | NoKeys]
    ) -> None:
        for part in missing:
            try:
                async with self.gate(part.length) as urgent:
                    if failed:
                        raise failed[0]  # through the gate, which counts what comes back from it as sent
                    about = {"UploadId": upload_id, "PartNumber": part.number}
                    answer = await self._send("upload_part", part, urgent=bool(urgent), **about)
            except UploadGone:
                raise
            except (Transient, NoKeys) as error:
                failed.append(error)
                return
            sent[part.number] = answer["ETag"]

    async def _send(self, operation: str, part: Part, *, urgent: bool, **params: Any) -> dict[str, Any]:
        about = {"Key": self.key, **await self._sums(part), **params}
        try:
            span = Span(self.source.fd, part.offset, part.length)
            answer = await self.paths.send(operation, self.key, span, urgent, about)
        except Damaged:
            await self._tell_torn(part)
            raise
        if answer.get("ChecksumCRC64NVME", part.checksum) != part.checksum:
            raise Damaged(f"{self.client.place}: {self.key}: the server stored other bytes than were sent")
        return answer

    async def _sums(self, part: Part) -> dict[str, str]:
        """What the server compares the part with as it arrives."""
        if not self.md5:
            return {"ChecksumCRC64NVME": part.checksum}
        return {"ContentMD5": base64.b64encode(await to_its_end(self._md5_of, part)).decode()}

    def _md5_of(self, part: Part) -> bytes:
        """A part's MD5. Blocks. Raises `Torn` unless it is of the bytes that were summed: the server knows no other sum."""
        md5, crc = hashlib.md5(usedforsecurity=False), 0
        for offset in range(part.offset, part.offset + part.length, WINDOW):
            data = self.source.read(offset, min(WINDOW, part.offset + part.length - offset))
            md5.update(data)
            crc = add_crc(data, crc)
        if crc != crc_of(part.digest):
            raise self._torn(part)
        return md5.digest()

    async def _tell_torn(self, part: Part) -> None:
        """Raises `Torn` when it is the file and not the way that differs from the sum."""
        try:
            crc = await to_its_end(crc_range, self.source.fd, part.offset, part.length)
        except OSError as error:
            raise Torn(f"the file cannot be read: {error.strerror}") from None
        if crc != crc_of(part.digest):
            raise self._torn(part)

    @staticmethod
    def _torn(part: Part) -> Torn:
        return Torn(
            f"bytes {part.offset} to {part.offset + part.length} are not those that were summed: the file changed"
        )

    async def _complete_as_stored(self, upload_id: str, sent: dict[int, str]) -> dict[str, Any]:
        """A part that was sent twice may have been stored by the answer that nobody waited for, under another ETag."""
        try:
            return await self._complete(upload_id, sent)
        except UploadGone:
            stored = await self._sent(upload_id)
            if stored == sent or len(stored) != len(self.parts):
                raise
            return await self._complete(upload_id, stored)

    async def _complete(self, upload_id: str, sent: dict[int, str]) -> dict[str, Any]:
        """Make the parts an object. Unconditional: a conflict would mean to send every part again."""
        # MinIO wants each part's checksum repeated.
        sums = [{} if self.md5 else {"ChecksumCRC64NVME": part.checksum} for part in self.parts]
        parts = [{"PartNumber": p.number, "ETag": sent[p.number], **s} for p, s in zip(self.parts, sums, strict=True)]
        about = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        whole = {} if self.md5 else {"ChecksumCRC64NVME": self.whole, "ChecksumType": "FULL_OBJECT"}
        try:
            return await self.client.call("complete_multipart_upload", self.key, Key=self.key, **about, **whole)
        except Damaged as error:
            # Each part was right, so the next call would keep them all and fail again: begin anew instead.
            raise UploadGone(str(error)) from None

    async def _abort(self, upload_id: str) -> None:
        """Free an upload's parts. Without the right to, they are left to the bucket's lifecycle rule."""
        try:
            await self.client.call("abort_multipart_upload", self.key, Key=self.key, UploadId=upload_id)
        except (NotFound, UploadGone):
            return
        except Denied as error:
            self.client.warn_once("s3.abort_denied", error)

    async def _vouched(self, answer: dict[str, Any]) -> None:
        """The server's checksum of the whole is ours. One that names none has its object read back.

        With MD5 each part was compared as it arrived, and the parts are named by their ETags: nothing more is known.

        Raises `Damaged`, or `Torn` when it is the file that changed.
        """
        said = answer.get("ChecksumCRC64NVME")
        if said == self.whole or self.md5:
            return
        if said is None and not await self._reads_back():
            said = "other bytes"
        if said is not None:
            raise Damaged(f"{self.client.place}: {self.key}: the stored object has checksum {said}, not {self.whole}")

    async def _reads_back(self) -> bool:
        for part in self.parts:
            if part.length:
                async with self.gate(part.length):
                    _, data = await self.client.get(
                        self.key, Key=self.key, Range=f"bytes={part.offset}-{part.offset + part.length - 1}"
                    )
                if len(data) != part.length or not await asyncio.to_thread(matches, data, part.digest):
                    await self._tell_torn(part)
                    return False
        return True


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says most: a torn file is final, whatever else its siblings met."""
    leaves: list[BaseException] = []
    for error in errors.exceptions:
        leaves.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((leaf for leaf in leaves if isinstance(leaf, Torn)), leaves[0])
