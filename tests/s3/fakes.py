"""Fakes of S3 servers that cannot run here: each keeps the published contract where syncd could trip over it, no more.

They check no signature and hold a few objects in memory.
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

Headers = dict[str, str]


@dataclass
class Reply:
    """An answer's status, body and headers."""

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=dict)


def refusal(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code><Message>as the real one says</Message></Error>".encode())


class FakeS3:
    """What all have in common: put, get by ranges, head, list, delete, and multipart uploads."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str, Headers]] = []
        self.endpoint = ""

    # ---- what the kinds differ in

    def check(self, method: str, key: str, query: Headers, headers: Headers, body: bytes) -> Reply | None:
        """A refusal that only this kind gives, or None."""
        return None

    def stored(self, headers: Headers) -> Headers:
        """Headers of the answer to a put beside the ETag."""
        sum_ = headers.get("x-amz-checksum-crc64nvme")
        return {"x-amz-checksum-crc64nvme": sum_} if sum_ else {}

    # ---- HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                if headers.get("expect"):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = first.split(" ")
                reply = self.answer(method, target, headers, body)
                said = {"Content-Length": str(len(reply.body)), **reply.headers}
                head = [f"HTTP/1.1 {reply.status} x", *(f"{name}: {value}" for name, value in said.items()), "", ""]
                writer.write("\r\n".join(head).encode() + (b"" if method == "HEAD" else reply.body))
                await writer.drain()

    def answer(self, method: str, target: str, headers: Headers, body: bytes) -> Reply:
        parts = urlsplit(target)
        query, key = dict(parse_qsl(parts.query, keep_blank_values=True)), unquote(parts.path).partition("/")[2]
        key = key.partition("/")[2]
        self.requests.append((method, key, headers))
        md5 = headers.get("content-md5")
        if md5 and base64.b64decode(md5) != hashlib.md5(body).digest():
            return refusal(400, "BadDigest")
        if refused := self.check(method, key, query, headers, body):
            return refused
        if method == "PUT":
            return self._put(key, query, headers, body)
        if method == "POST":
            return self._post(key, query, headers)
        if method == "DELETE":
            self.parts.pop(query.get("uploadId", ""), None)
            self.objects.pop(key, None)
            return Reply(204)
        return self._read(method, key, query, headers)

    def _put(self, key: str, query: Headers, headers: Headers, body: bytes) -> Reply:
        etag = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', **self.stored(headers)}
        if "uploadId" in query:
            self.parts[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.objects[key] = body
        return Reply(headers=etag)

    def _post(self, key: str, query: Headers, headers: Headers) -> Reply:
        if "uploads" in query:
            name = f"upload-{len(self.parts)}"
            self.parts[name] = {}
            return Reply(body=f"<R><UploadId>{name}</UploadId></R>".encode())
        whole = self.parts.pop(query["uploadId"])
        self.objects[key] = b"".join(whole[number] for number in sorted(whole))
        sum_ = headers.get("x-amz-checksum-crc64nvme")
        named = f"<ChecksumCRC64NVME>{sum_}</ChecksumCRC64NVME>" if sum_ and self.stored(headers) else ""
        return Reply(body=f'<R><ETag>"x-2"</ETag>{named}</R>'.encode())

    def _read(self, method: str, key: str, query: Headers, headers: Headers) -> Reply:
        if "uploads" in query:
            return Reply(body=b"<R></R>")
        if "list-type" in query:
            return Reply(body=self._list(query.get("prefix", ""), query.get("delimiter")))
        if key not in self.objects:
            return refusal(404, "NoSuchKey")
        data, wanted = self.objects[key], headers.get("range")
        if not wanted:
            return Reply(body=data)
        begin, _, end = wanted.removeprefix("bytes=").partition("-")
        piece = data[int(begin) : int(end) + 1 if end else None]
        if not piece:
            return refusal(416, "InvalidRange")
        return Reply(206, piece, {"Content-Range": f"bytes {begin}-{int(begin) + len(piece) - 1}/{len(data)}"})

    def _list(self, prefix: str, delimiter: str | None) -> bytes:
        lines = set()
        for name, data in self.objects.items():
            head, slash, _ = name.removeprefix(prefix).partition("/")
            if not name.startswith(prefix):
                continue
            if delimiter and slash:
                lines.add(f"<CommonPrefixes><Prefix>{prefix}{head}/</Prefix></CommonPrefixes>")
            else:
                lines.add(f"<Contents><Key>{name}</Key><Size>{len(data)}</Size></Contents>")
        return f"<R>{''.join(sorted(lines))}</R>".encode()


class FakeR2(FakeS3):
    """A fake of Cloudflare R2: refuses aws-chunked bodies, knows If-None-Match and CRC-64/NVME of whole objects."""

    def check(self, method: str, key: str, query: Headers, headers: Headers, body: bytes) -> Reply | None:
        if "aws-chunked" in headers.get("content-encoding", "") or "x-amz-trailer" in headers:
            return refusal(401, "Unauthorized")
        if headers.get("if-none-match") == "*" and method == "PUT" and key in self.objects:
            return refusal(412, "PreconditionFailed")
        return None


class FakeGcs(FakeS3):
    """A fake of Google's XML API: If-None-Match is for reads alone, generations are for writes; no CRC-64/NVME."""

    def check(self, method: str, key: str, query: Headers, headers: Headers, body: bytes) -> Reply | None:
        if any(name.startswith("x-amz-checksum") or name == "x-amz-sdk-checksum-algorithm" for name in headers):
            return refusal(400, "InvalidArgument")
        if method == "PUT" and "if-none-match" in headers:
            return refusal(400, "InvalidArgument")
        if method == "PUT" and headers.get("x-goog-if-generation-match") == "0" and key in self.objects:
            return refusal(412, "PreconditionFailed")
        return None

    def stored(self, headers: Headers) -> Headers:
        return {}


class FakeOldRgw(FakeS3):
    """A fake of an older Ceph gateway: takes a put with If-None-Match as if nothing had been said."""

    def stored(self, headers: Headers) -> Headers:
        return {}


@asynccontextmanager
async def opened(fake: FakeS3, **settings: Any) -> AsyncIterator[S3Store]:
    """A store on a fake that serves as long as the context lasts."""
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, limit=1 << 20)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        store = await S3Store.open("s3://bucket/p", S3Settings(s3_endpoint_url=endpoint, **settings))
        try:
            yield store
        finally:
            await store.aclose()
