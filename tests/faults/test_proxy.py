"""The proxy does to a connection what its fault says, and nothing else."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import pytest

from syncd.testing import Fault, FaultProxy, first, s3_error


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A service that says what it hears; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def say(proxy: FaultProxy, data: bytes) -> bytes:
    """Everything that comes back for `data`; raises what the connection ends in."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with contextlib.closing(writer):
        async with asyncio.timeout(10):
            writer.write(data)
            writer.write_eof()
            return await reader.read()


async def test_without_a_fault_all_passes(echo: int) -> None:
    data = os.urandom(300_000)
    async with FaultProxy(echo) as proxy:
        assert await say(proxy, data) == data
        assert (proxy.connections, proxy.bytes) == (1, {"there": len(data), "back": len(data)})


async def test_of_the_next_connections_so_many_have_the_fault(echo: int) -> None:
    async with FaultProxy(echo, first(2, Fault(corrupt=0))) as proxy:
        assert [await say(proxy, b"abc") for _ in range(4)] == [b"`bc", b"`bc", b"abc", b"abc"]
        proxy.choose = first(1, Fault(corrupt=1))
        assert [await say(proxy, b"abc") for _ in range(2)] == [b"acc", b"abc"]


@pytest.mark.parametrize("way", ["there", "back"])
async def test_one_byte_is_another(echo: int, way: str) -> None:
    data = bytes(200_000)
    async with FaultProxy(echo, first(1, Fault(way=way, corrupt=150_000))) as proxy:  # type: ignore[arg-type]
        heard = await say(proxy, data)
    assert [at for at, byte in enumerate(heard) if byte] == [150_000]
    assert len(heard) == len(data)


async def test_a_cut_ends_in_good_order_after_so_many_bytes(echo: int) -> None:
    async with FaultProxy(echo, first(1, Fault(way="back", cut=100_000))) as proxy:
        assert await say(proxy, bytes(200_000)) == bytes(100_000)


async def test_a_reset_is_heard_as_one(echo: int) -> None:
    for fault in (Fault(refuse=True), Fault(reset=1000), Fault(way="back", reset=1000)):
        async with FaultProxy(echo, first(1, fault)) as proxy:
            with pytest.raises(ConnectionResetError):
                await say(proxy, bytes(200_000))
            assert proxy.bytes[fault.way] == (0 if fault.refuse else 1000)


@pytest.mark.parametrize("fault", [Fault(hole=True), Fault(still=500), Fault(way="back", still=500)])
async def test_what_stands_still_stays_open(echo: int, fault: Fault) -> None:
    async with FaultProxy(echo, first(1, fault)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with contextlib.closing(writer):
            writer.write(bytes(1000))
            heard = b"" if fault.hole else await reader.readexactly(500)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(1)
        assert heard == (b"" if fault.hole else bytes(500))


async def test_what_is_late_or_slow_takes_its_time(echo: int) -> None:
    for fault, least in ((Fault(latency=0.2), 0.2), (Fault(way="back", bandwidth=100_000), 0.3)):
        async with FaultProxy(echo, first(1, fault)) as proxy:
            began = time.monotonic()
            assert await say(proxy, bytes(30_000)) == bytes(30_000)
            assert time.monotonic() - began >= least


async def test_an_answer_stands_in_for_the_service_after_the_whole_request(echo: int) -> None:
    said = s3_error(503, "SlowDown")
    async with FaultProxy(echo, first(1, Fault(answer=said))) as proxy:
        request = b"PUT /x HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)
        assert await say(proxy, request) == said
        assert proxy.bytes == {"there": 0, "back": 0}
