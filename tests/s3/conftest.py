"""One MinIO for the session; an empty bucket for each test."""

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import S3Settings, client, credentials
from syncd_s3.store import S3Store

from syncd.testing.servers import Minio

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(autouse=True)
def aws(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a client of that MinIO and nothing else of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions share what botocore's models say, which is most of the time that a client takes to make."""
    for module in (client, credentials):
        monkeypatch.setattr(module, "new_session", _quick_session)


_new_session = credentials.new_session
_loader = _new_session().get_component("data_loader")


def _quick_session() -> Any:
    session = _new_session()
    session.register_component("data_loader", _loader)
    return session


@pytest.fixture
def bucket(minio: Minio) -> str:
    return minio.make_bucket(f"test-{next(_numbers)}")


@pytest.fixture
def path() -> str:
    """How large bodies travel: the setting `s3_path`. Modules that try several give it parameters."""
    return "fast"


@pytest.fixture
async def store(bucket: str, path: str) -> AsyncIterator[S3Store]:
    opened = await S3Store.open(f"s3://{bucket}/some/prefix", S3Settings.model_validate({"s3_path": path}))
    yield opened
    await opened.aclose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    names = ["-keyout", f"{directory}/private.key", "-out", f"{directory}/public.crt"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run([*new, *names, *subject], check=True, capture_output=True)
    return directory


class Canned:
    """A server that answers every request alike, as no real one does on demand; `requests` are their first lines.

    `stall`: never answer. `short`: close the connection so many bytes before the promised end.
    """

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"", dict[str, str]()
        self.stall, self.short = False, 0
        self.requests: list[str] = []
        self.endpoint = ""

    def say(self, status: int, code: str = "", body: bytes = b"", **headers: str) -> None:
        """Answer with a status, and an S3 error document or a body."""
        if code:
            body = f"<Error><Code>{code}</Code><Message>as said\nhere</Message><Region>moon-1</Region></Error>".encode()
        self.status, self.body, self.headers = status, body, headers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            first = await reader.read(1)
            if first == b"\x16":  # a TLS handshake
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            if self.stall:
                await reader.read()
                return
            lines = [f"HTTP/1.1 {self.status} x", f"Content-Length: {len(self.body)}", "Connection: close"]
            lines += [f"{name.replace('_', '-')}: {value}" for name, value in self.headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + self.body[: len(self.body) - self.short])
            await writer.drain()


@pytest.fixture
async def canned() -> AsyncIterator[Canned]:
    answers = Canned()
    server = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
    answers.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield answers
