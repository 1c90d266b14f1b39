"""A real broker, and somebody who listens to it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from syncd.testing.servers import Mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto that is not started yet, and is stopped at the end."""
    server = Mosquitto(tmp_path / "mosquitto")
    yield server
    server.stop()


class Listener:
    """What arrived under syncd/."""

    def __init__(self, messages: "asyncio.Queue[aiomqtt.Message]") -> None:
        self._messages = messages

    async def next(self, seconds: float = 10.0) -> aiomqtt.Message:
        async with asyncio.timeout(seconds):
            return await self._messages.get()


@asynccontextmanager
async def listen(server: Mosquitto) -> AsyncIterator[Listener]:
    """Subscribed to everything under syncd/, for as long as the context lasts."""
    messages: asyncio.Queue[aiomqtt.Message] = asyncio.Queue()

    async def collect(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            messages.put_nowait(message)

    async with aiomqtt.Client(server.host, server.port) as client:
        await client.subscribe("syncd/#")
        task = asyncio.create_task(collect(client))
        try:
            yield Listener(messages)
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def listening():  # type: ignore[no-untyped-def]
    """`listen`."""
    return listen


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port whose queue is full: the kernel drops whoever knocks, as a firewall would."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        knocking = []
        try:
            for _ in range(4):
                knocking.append(socket.socket())
                knocking[-1].setblocking(False)
                knocking[-1].connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for knocker in knocking:
                knocker.close()
