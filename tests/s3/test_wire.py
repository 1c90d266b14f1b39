"""HTTP as servers really speak it: closed connections, early refusals, old versions, odd framings, cuts at each place."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from syncd_s3 import S3Settings
from syncd_s3.session import Session, proxy_of
from syncd_s3.store import S3Store
from syncd_s3.wire import Answer, Request, Span, Wire

from syncd.errors import Denied, Torn
from syncd.local.digest import sum_bytes
from syncd.store import Fetched
from syncd.testing import open_gate, source_of

BROKEN = (ConnectionError, aiohttp.ClientError)
"""What the two carriers raise for a connection that broke."""
Serve = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request, whose head is given; whether the connection stays."""


class Server:
    """A server of one connection after the other, each request answered by the test's own function."""

    def __init__(self) -> None:
        self.serve: Serve = plain_ok
        self.connections = 0
        self.heads: list[bytes] = []
        self.open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}
        self.url = ""

    async def on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open[asyncio.current_task()] = writer
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if not await self.serve(self.heads[-1], reader, writer):
                    return
                await writer.drain()


def length_of(head: bytes) -> int:
    return next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)


async def plain_ok(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    body = await reader.readexactly(length_of(head))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return True


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.on, "127.0.0.1", 0, limit=1 << 16)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/bucket/x?sig=1"
    async with listening:
        yield made
        for task, writer in made.open.items():
            assert task
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*filter(None, made.open), return_exceptions=True)


@pytest.fixture(params=[Wire, Session])
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire | Session]:
    made: Wire | Session = request.param(None, 2.0)
    yield made
    await made.aclose()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").write_bytes(b"")
    return tmp_path / "into"


async def put(wire: Wire, server: Server, file: Path, content: bytes) -> Answer:
    with source_of(file, content) as source:
        return await wire.exchange(Request("PUT", server.url, body=Span(source.fd, 0, source.size)))


async def get(wire: Wire, server: Server, into: Path, length: int) -> Answer:
    fd = os.open(into, os.O_RDWR)
    try:
        return await wire.exchange(Request("GET", server.url, into=Span(fd, 0, length)))
    finally:
        os.close(fd)


async def test_a_body_is_the_span_and_the_connection_is_used_again(wire: Wire, server: Server, file: Path) -> None:
    for content in (b"", b"x", os.urandom(300_000)):
        assert (await put(wire, server, file, content)).body == content
    assert server.connections == 1


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced(
    wire: Wire, server: Server, file: Path
) -> None:
    async def once(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await plain_ok(head, reader, writer)  # says nothing of closing, and closes
        return False

    server.serve = once
    for _ in range(5):
        assert (await put(wire, server, file, b"data")).status == 200
    assert server.connections == 5


async def test_a_server_that_closes_a_used_connection_on_the_next_request_is_asked_once_more(
    wire: Wire, server: Server, file: Path
) -> None:
    served = 0

    async def every_second(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal served
        served += 1
        return served % 2 == 1 and await plain_ok(head, reader, writer)

    server.serve = every_second
    for _ in range(3):
        assert (await put(wire, server, file, b"data")).body == b"data"


async def test_a_fresh_connection_that_breaks_is_told(wire: Wire, server: Server, file: Path) -> None:
    async def never(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return False

    server.serve = never
    with pytest.raises(BROKEN):
        await put(wire, server, file, b"data")
    assert server.connections <= 2, "aiohttp asks once more"


async def test_a_refusal_before_the_body_was_read_is_heard(wire: Wire, server: Server, file: Path) -> None:
    async def refuse(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\n\r\nbusy")
        await writer.drain()
        return False

    server.serve = refuse
    answer = await put(wire, server, file, os.urandom(24 << 20))
    assert (answer.status, answer.body) == (503, b"busy")


def summed(data: bytes) -> Fetched:
    return Fetched(len(data), sum_bytes(data).digest)


async def test_continue_that_nobody_asked_for_is_passed_over(wire: Wire, server: Server, file: Path) -> None:
    async def eager(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await plain_ok(head, reader, writer)

    server.serve = eager
    assert (await put(wire, server, file, b"data")).body == b"data"
    assert (await put(wire, server, file, b"more")).body == b"more"


async def test_an_answer_of_http_1_0_ends_with_its_connection(wire: Wire, server: Server, into: Path) -> None:
    async def old(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"y" * 100_000)
        return False

    server.serve = old
    for _ in range(2):
        assert (await get(wire, server, into, 100_000)).fetched == summed(b"y" * 100_000)
    assert into.read_bytes() == b"y" * 100_000
    assert server.connections == 2


async def test_a_chunked_answer_arrives_whole(wire: Wire, server: Server, into: Path) -> None:
    async def chunked(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"%x\r\n%s\r\n" % (50_000, b"z" * 50_000))
        writer.write(b"0\r\n\r\n")
        return True

    server.serve = chunked
    for _ in range(2):
        assert (await get(wire, server, into, 200_000)).fetched == summed(b"z" * 150_000)
    assert into.read_bytes() == b"z" * 150_000
    assert server.connections == 1


async def test_an_answer_that_is_whole_with_its_head_and_ends_the_connection(
    wire: Wire, server: Server, into: Path
) -> None:
    async def last(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 206 x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole")
        return False

    server.serve = last
    for _ in range(2):
        assert (await get(wire, server, into, 5)).fetched == summed(b"whole")


async def test_an_address_that_does_not_answer_costs_a_moment(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host of two addresses, one of which drops what comes, as an IPv6 route into nothing does."""
    dead = socket.create_server(("127.0.0.2", 0), backlog=0)
    full = [socket.socket() for _ in range(3)]
    for each in full:
        each.setblocking(False)
        each.connect_ex(dead.getsockname())
    loop, port = asyncio.get_running_loop(), urlsplit(server.url).port

    async def two(*_: object, **__: object) -> list[tuple[object, ...]]:
        about = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*about, dead.getsockname()), (*about, ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", two)
    wire = Wire(None, 30.0)
    try:
        async with asyncio.timeout(5):
            assert (await put(wire, server, file, b"data")).body == b"data"
    finally:
        await wire.aclose()
        for each in (*full, dead):
            each.close()


@pytest.mark.parametrize("sent", [0, 1, 100, 8_192, 70_000, 299_999])
async def test_an_answer_that_is_cut_anywhere_is_an_error(wire: Wire, server: Server, into: Path, sent: int) -> None:
    async def cut(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 206 x\r\nContent-Length: 300000\r\n\r\n" + b"c" * sent)
        await writer.drain()
        return False

    server.serve = cut
    with pytest.raises(BROKEN, match="of 300000"):
        await get(wire, server, into, 300_000)


async def test_more_than_was_asked_for_is_never_written(wire: Wire, server: Server, into: Path) -> None:
    async def much(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 1000\r\n\r\n%s" % (status, b"m" * 1000))
        return True

    status = 200
    server.serve = much
    assert (await get(wire, server, into, 999)).fetched is None, "a server without ranges, as its headers tell"
    status = 206
    with pytest.raises(BROKEN, match="promised"):
        await get(wire, server, into, 999)
    assert into.read_bytes() == b""


async def test_an_error_does_not_go_into_the_file(wire: Wire, server: Server, into: Path) -> None:
    async def missing(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 404 x\r\nContent-Length: 7\r\n\r\n<Error>")
        return True

    server.serve = missing
    answer = await get(wire, server, into, 100)
    assert (answer.status, answer.body, answer.fetched) == (404, b"<Error>", None)
    assert into.read_bytes() == b""


@pytest.mark.slow
async def test_a_server_that_stops_reading_or_answering_is_given_up(server: Server, file: Path, into: Path) -> None:
    async def stall(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 206 x\r\nContent-Length: 300000\r\n\r\n" + b"s" * 100_000)
            await writer.drain()
        await asyncio.Event().wait()
        return False

    server.serve = stall
    impatient = Wire(None, 0.2)
    for size in (10, 64 << 20):
        with pytest.raises(TimeoutError):
            await put(impatient, server, file, b"x" * size)
    with pytest.raises(TimeoutError):
        await get(impatient, server, into, 300_000)
    await impatient.aclose()


async def test_a_cancelled_request_ends_at_once_and_with_its_thread(wire: Wire, server: Server, file: Path) -> None:
    begun = asyncio.Event()

    async def stall(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return False

    server.serve = stall
    task = asyncio.create_task(put(wire, server, file, b"x" * (64 << 20)))
    await begun.wait()
    task.cancel()
    async with asyncio.timeout(1):  # less than the wire's own two seconds
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_I6_a_file_that_ends_early_leaves_its_request_unfinished(wire: Wire, server: Server, file: Path) -> None:
    with source_of(file, b"x" * 1000) as source, pytest.raises(Torn, match="ended at byte 1000"):
        await wire.exchange(Request("PUT", server.url, body=Span(source.fd, 0, 2000)))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_on_no_path(server: Server, file: Path, status: int, aws: None) -> None:
    async def listing(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readexactly(length_of(head))
        body = b"<ListBucketResult></ListBucketResult>"
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return True

    async def elsewhere(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(length_of(head))
        at = b"Location: http://127.0.0.1:9/other"
        writer.write(b"HTTP/1.1 %d x\r\n%s\r\nContent-Length: 0\r\n\r\n" % (status, at))
        return True

    server.serve = listing
    store = await S3Store.open("s3://bucket", S3Settings(s3_endpoint_url=server.url.partition("/bucket")[0]))
    server.serve = elsewhere
    with source_of(file, b"data") as source, pytest.raises(Denied):
        await store.upload("x", source, open_gate)
    await store.aclose()


@pytest.mark.parametrize(
    ("url", "through"),
    [("http://s3.example.org", True), ("http://127.0.0.1:9000", False), ("https://s3.example.org", False)],
)
def test_whether_a_proxy_stands_between(url: str, through: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert (proxy_of(url) is not None) is through


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("proxy.example.org:3128", "http://proxy.example.org:3128"),
        ("//proxy.example.org:3128", "http://proxy.example.org:3128"),
        ("https://proxy.example.org", "https://proxy.example.org"),
        ("", None),
    ],
)
def test_a_proxy_is_said_as_curl_takes_it(said: str, meant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", said)
    assert proxy_of("http://s3.example.org") == meant
