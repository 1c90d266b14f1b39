"""A fake S3 server that keeps small objects and throws large bodies away: what it is sent costs next to nothing.

For what MinIO's own work or disk would hide or not bear: terabytes, and what an upload takes from a trainer beside it.
It checks nothing and believes every checksum. `python -m tests.s3.sink PORT`; `Sink` runs it as a process.
"""

import contextlib
import hashlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from syncd.testing.servers import Server

KEPT = 4 << 20
"""Bytes up to which a body is kept."""
PIECE = 1 << 20

_lock = threading.Lock()
_objects: dict[str, tuple[bytes, int, str]] = {}
"""Body, if it was kept, size and CRC by key."""
_uploads: dict[str, int] = {}
"""Bytes of the parts that came, by key."""
_counts = {"parts": 0, "bytes": 0, "largest_part_number": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def handle_expect_100(self) -> bool:
        said = super().handle_expect_100()
        self.wfile.flush()
        return said

    def do_PUT(self) -> None:
        query, key = self._asked()
        length, crc = int(self.headers["Content-Length"] or 0), self.headers.get("x-amz-checksum-crc64nvme", "")
        body = self.rfile.read(length) if length <= KEPT else self._discard(length)
        with _lock:
            _counts["bytes"] += length
            if "partNumber" in query:
                _counts["parts"] += 1
                _uploads[key] += length
                _counts["largest_part_number"] = max(_counts["largest_part_number"], int(query["partNumber"]))
            elif self.headers.get("If-None-Match") and key in _objects:
                return self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            else:
                _objects[key] = (body, length, crc)
        return self._say(200, b"", {"ETag": f'"{hashlib.sha256(crc.encode()).hexdigest()[:32]}"', **self._sum(crc)})

    def do_POST(self) -> None:
        query, key = self._asked()
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "uploads" in query:
            _uploads[key] = 0
            said = f"<Bucket>b</Bucket><Key>{key}</Key><UploadId>1</UploadId>"
            return self._say(200, f"<InitiateMultipartUploadResult>{said}</InitiateMultipartUploadResult>".encode())
        crc = self.headers.get("x-amz-checksum-crc64nvme", "")
        with _lock:
            _objects[key] = (b"", _uploads.pop(key), crc)
        said = f"<ETag>1</ETag><ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>"
        return self._say(200, f"<CompleteMultipartUploadResult>{said}</CompleteMultipartUploadResult>".encode())

    def do_GET(self) -> None:
        query, key = self._asked()
        if key == "_counts":
            return self._say(200, json.dumps(_counts).encode())
        if "uploads" in query:
            return self._say(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        if not key:
            return self._say(200, self._listing(query))
        if key not in _objects:
            return self._say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self._say(200, _objects[key][0])

    def do_HEAD(self) -> None:
        self._say(404, b"")

    def do_DELETE(self) -> None:
        _, key = self._asked()
        with _lock:
            _objects.pop(key, None)
        self._say(204, b"")

    def _asked(self) -> tuple[dict[str, str], str]:
        parts = urlsplit(self.path)
        return dict(parse_qsl(parts.query, keep_blank_values=True)), unquote(parts.path[1:]).partition("/")[2]

    def _listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        objects, folders = [], set()
        for key, (_, size, _) in sorted(_objects.items()):
            below = key.removeprefix(prefix)
            if key.startswith(prefix):
                if delimiter and delimiter in below:
                    folders.add(prefix + below.partition(delimiter)[0] + delimiter)
                else:
                    objects.append(f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>")
        folded = [f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        return f"<ListBucketResult>{''.join(objects + folded)}</ListBucketResult>".encode()

    def _discard(self, length: int) -> bytes:
        """Take a body that nobody looks at: past the reader's buffer the kernel drops it uncopied."""
        left = length - len(self.rfile.read1(PIECE) if self.rfile.peek(1) else b"")  # type: ignore[attr-defined]
        window = bytearray(PIECE)
        while left:
            got = self.connection.recv_into(window, min(left, PIECE), socket.MSG_TRUNC)
            if not got:
                raise ConnectionResetError
            left -= got
        return b""

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    @staticmethod
    def _sum(crc: str) -> dict[str, str]:
        return {"x-amz-checksum-crc64nvme": crc, "x-amz-checksum-type": "FULL_OBJECT"} if crc else {}


class Sink(Server):
    """The fake as a process."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "sink")

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        keys = {"AWS_ACCESS_KEY_ID": "sink", "AWS_SECRET_ACCESS_KEY": "sinksink"}
        return keys | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}", "NO_PROXY": "127.0.0.1"}

    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__)), str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(Path(__file__).parents[2])}

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def counts(self) -> dict[str, int]:
        """What it was sent: `parts`, `bytes`, `largest_part_number`."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as asking:
            asking.sendall(b"GET /b/_counts HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: asking.recv(4096), b""))
        return dict(json.loads(said.partition(b"\r\n\r\n")[2]))


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
