"""Which way large bodies take: by the environment's proxy, by the setting, and by what the server refuses."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from syncd_s3 import S3Settings
from syncd_s3.paths import Paths
from syncd_s3.store import S3Store
from syncd_s3.wire import Span

from syncd.errors import Denied
from syncd.model.checkpoint import RANGE
from syncd.store import Fetched
from syncd.testing import open_gate, source_of
from syncd.testing.servers import Minio

from .fakes import FakeR2, Headers, Reply, refusal


@asynccontextmanager
async def forward_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP proxy, as a company has: its URL, and the request lines that it saw."""
    seen: list[str] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            method, target, version = line.decode().split(" ")
            seen.append(f"{method} {target.partition('?')[0]}")
            parts = urlsplit(target if "://" in target else f"//{target}")
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                where = f"{parts.path}{'?' if parts.query else ''}{parts.query}"
                back.write(f"{method} {where} {version}\r\nConnection: close\r\n".encode() + rest)
            await asyncio.gather(pipe(reader, back), pipe(there, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


async def up_and_down(store: S3Store, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    with source_of(tmp_path / "f", content) as source:
        await store.upload("x", source, open_gate)
    with (tmp_path / "into").open("w+b") as into:
        for offset in range(0, size, RANGE):
            await store.fetch("x", offset, min(RANGE, size - offset), into.fileno())
    assert (tmp_path / "into").read_bytes() == content


def behind(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)


@pytest.mark.parametrize("path", ["auto", "sdk"])
async def test_what_is_large_goes_through_the_environments_proxy(
    bucket: str, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with forward_proxy() as (url, seen):
        behind(url, monkeypatch)
        store = await S3Store.open(f"s3://{bucket}/p", S3Settings.model_validate({"s3_path": path}))
        assert store.way == ("signed" if path == "auto" else "sdk")
        await up_and_down(store, tmp_path, RANGE + 1000)
        await store.aclose()
    assert len([line for line in seen if line.startswith("PUT ")]) == 2
    assert [line for line in seen if line.startswith("GET ") and line.endswith("/p/x")]


async def test_under_tls_the_proxy_sees_a_tunnel_alone(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Minio(tmp_path / "minio", certificates=certificates) as server:
        server.make_bucket("bucket")
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        async with forward_proxy() as (url, seen):
            behind(url, monkeypatch)
            store = await S3Store.open("s3://bucket", S3Settings(s3_ca_bundle=certificates / "public.crt"))
            assert store.way == "signed"
            await up_and_down(store, tmp_path, 100_000)
            await store.aclose()
            await asyncio.sleep(0)
    assert set(seen) == {f"CONNECT 127.0.0.1:{server.port}"}


async def test_what_netrc_says_of_the_host_is_nothing_to_us(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with forward_proxy() as (url, _):
        behind(url, monkeypatch)
        store = await S3Store.open(f"s3://{bucket}/p", S3Settings())
        assert store.way == "signed"
        await up_and_down(store, tmp_path, 1000)
        await store.aclose()


@pytest.mark.parametrize("path", ["fast", "signed", "sdk"])
async def test_the_setting_names_the_way(bucket: str, path: str) -> None:
    store = await S3Store.open(f"s3://{bucket}", S3Settings.model_validate({"s3_path": path}))
    assert store.way == path
    await store.aclose()


class Picky(FakeR2):
    """Takes bodies from an SDK alone, as a gateway with its own idea of clients might."""

    def __init__(self, code: str, *, everybody: bool = False) -> None:
        super().__init__()
        self.code, self.everybody = code, everybody

    def check(self, method: str, key: str, query: Headers, headers: Headers, body: bytes) -> Reply | None:
        by_sdk = "botocore" in headers.get("user-agent", "").lower()
        if key and (self.everybody or not by_sdk):
            return refusal(403, self.code)
        return super().check(method, key, query, headers, body)


@asynccontextmanager
async def opened(fake: FakeR2) -> AsyncIterator[S3Store]:
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, limit=1 << 20)
    async with server:
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        store = await S3Store.open("s3://bucket/p", S3Settings(s3_endpoint_url=endpoint))
        yield store
        await store.aclose()


async def test_a_way_that_the_server_refuses_is_left_for_the_next_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Picky("SignatureDoesNotMatch")
    async with opened(fake) as store:
        assert store.way == "fast"
        await up_and_down(store, tmp_path, RANGE + 1000)
        assert store.way == "sdk"
        refused = [request for request in fake.requests if "botocore" not in request[2].get("user-agent", "").lower()]
        await up_and_down(store, tmp_path, 2 * RANGE)
        assert len(refused) == len(
            [request for request in fake.requests if "botocore" not in request[2].get("user-agent", "").lower()]
        ), "what was left is not tried again"
    lines = [record for record in caplog.records if record.message == "s3.path"]
    assert [(line.levelno, line.fields["left"], line.fields["path"]) for line in lines] == [  # type: ignore[attr-defined]
        (logging.WARNING, "fast", "sdk"),
        (logging.WARNING, "signed", "sdk"),
    ]


async def test_a_request_that_is_refused_on_every_way_is_refused_and_none_is_left(tmp_path: Path) -> None:
    async with opened(Picky("AccessDenied", everybody=True)) as store:
        with source_of(tmp_path / "f", b"x" * 1000) as source, pytest.raises(Denied, match="may not"):
            await store.upload("x", source, open_gate)
        assert store.way == "fast"


async def test_a_way_that_has_carried_something_is_not_left(tmp_path: Path) -> None:
    fake = Picky("AccessDenied")
    fake.code, fake.everybody = "AccessDenied", False
    async with opened(fake) as store:
        fake.check = lambda *_: None  # type: ignore[method-assign]
        await up_and_down(store, tmp_path, 1000)
        del fake.check
        with source_of(tmp_path / "f", b"x" * 1000) as source, pytest.raises(Denied):
            await store.upload("y", source, open_gate)
        assert store.way == "fast"


class Waits:
    """A way whose first request is refused once `go` is set, and whose others are carried."""

    def __init__(self) -> None:
        self.go, self.asked = asyncio.Event(), 0

    async def send(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:
            await self.go.wait()
            raise Denied("no")
        return {"by": "fast"}

    async def fetch(self, *_: Any) -> tuple[dict[str, Any], Fetched]:
        raise NotImplementedError

    async def aclose(self) -> None:
        return None


async def test_a_way_that_has_carried_a_siblings_request_meanwhile_is_not_left() -> None:
    fast, other = Waits(), Waits()
    other.asked = 1
    paths = Paths({"fast": fast, "signed": other})
    first = asyncio.create_task(paths.send("put_object", "x", Span(-1, 0, 1), True, {}))
    await asyncio.sleep(0)
    assert await paths.send("put_object", "y", Span(-1, 0, 1), True, {}) == {"by": "fast"}
    fast.go.set()
    with pytest.raises(Denied):
        await first
    assert paths.name == "fast"
