"""A TCP proxy that misbehaves on purpose, between a client and any service on this machine."""

import asyncio
import contextlib
import re
import socket
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

CHUNK = 64 << 10
Way = Literal["there", "back"]
"""`there`: from the client to the service; `back`: what the service says."""
_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one connection; offsets and rates are of the bytes that go `way`.

    `refuse`: close it at once, by reset. `hole`: read everything, pass nothing on. `latency`: seconds by which each
    piece is late. `bandwidth`: bytes a second. `cut`, `reset`, `still`: after so many bytes end it in good order, by
    RST, or pass nothing on any more while both ends stay open (half-open). `corrupt`: the byte at this offset is
    another. `twice`: each piece passes twice. `answer`: read one HTTP request with its body, say these bytes instead of
    the service, and close.
    """

    way: Way = "there"
    refuse: bool = False
    hole: bool = False
    latency: float = 0.0
    bandwidth: float | None = None
    cut: int | None = None
    reset: int | None = None
    still: int | None = None
    corrupt: int | None = None
    twice: bool = False
    answer: bytes | None = None


Chooser = Callable[[int], Fault | None]
"""The fault of the connection with this number (from 0), None for one that passes unharmed."""


def first(count: int, fault: Fault) -> Chooser:
    """The next `count` connections have the fault; those after them pass."""
    left = count

    def choose(number: int) -> Fault | None:
        nonlocal left
        left -= 1
        return fault if left >= 0 else None

    return choose


def s3_error(status: int, code: str) -> bytes:
    """An S3 server's answer of an error, whole, after which it closes."""
    body = f"<Error><Code>{code}</Code><Message>as a test wanted</Message></Error>".encode()
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


class FaultProxy:
    """Listens on a loopback port, `port` (0: a free one), while its context lasts, and passes on to `host:to`.

    `choose` may be set at any time; it is asked once for each connection. `connections` counts them, `bytes` what was
    passed on each way; `watch`, where it is set, sees each piece before it passes. `judge` reads the head of each HTTP
    request, and answers in the service's place where it returns bytes. `closing`: each connection serves one HTTP request,
    by the header that asks for it, so that a fault by connection is one by request.
    """

    def __init__(self, to: int, choose: Chooser | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.to = host, to
        self.choose: Chooser = choose or (lambda number: None)
        self.connections = 0
        self.bytes: dict[Way, int] = {"there": 0, "back": 0}
        self.watch: Callable[[Way, bytes], None] | None = None
        self.judge: Callable[[bytes], bytes | None] | None = None
        self.closing = False
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()

    @property
    def endpoint(self) -> str:
        """The URL of a plain HTTP service behind it."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in list(self._transports):
            transport.abort()  # one that was closed waits until its peer has taken the rest
        await self._server.wait_closed()
        await asyncio.sleep(0)  # callbacks close their sockets

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._transports.add(writer.transport)
        number, self.connections = self.connections, self.connections + 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer, self.choose(number) or Fault())
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        if fault.refuse:
            _reset(writer)
        elif fault.hole:
            while await reader.read(CHUNK):
                pass
        elif fault.answer is not None:
            await _answer(reader, writer, fault.answer)
        else:
            out, into = await asyncio.open_connection(self.host, self.to, limit=CHUNK)
            self._transports.add(into.transport)
            try:
                there = self._pass(reader, into, "there", fault, (writer, into))
                back = self._pass(out, writer, "back", fault, (writer, into))
                await asyncio.gather(there, back)
            finally:
                into.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Way,
        fault: Fault,
        ends: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        """Pass one direction on until it ends, with the fault if it is this one's."""
        mine, passed = fault.way == way, 0
        stops = [at for at in (fault.cut, fault.reset, fault.still) if at is not None]
        stop = min(stops) if mine and stops else None
        while piece := await reader.read(CHUNK):
            if self.closing and way == "there" and not passed:
                piece = piece.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            if self.judge and way == "there" and _REQUEST.match(piece):
                piece = await _head(reader, piece)
                if (said := self.judge(piece)) is not None:
                    await _instead(reader, ends[0], piece, said)
                    _close(ends)
                    return
            if stop is not None:
                piece = piece[: stop - passed]
            if mine:
                piece = _damaged(piece, passed, fault.corrupt)
                await asyncio.sleep(fault.latency + (len(piece) / fault.bandwidth if fault.bandwidth else 0.0))
            if self.watch:
                self.watch(way, piece)
            writer.write(piece * 2 if mine and fault.twice else piece)
            await writer.drain()
            passed += len(piece)
            self.bytes[way] += len(piece)
            if stop is not None and passed >= stop:
                await _stop(fault, ends)
                return
        if writer.can_write_eof():
            writer.write_eof()


def _damaged(piece: bytes, passed: int, at: int | None) -> bytes:
    if at is None or not passed <= at < passed + len(piece):
        return piece
    here = at - passed
    return piece[:here] + bytes([piece[here] ^ 0x01]) + piece[here + 1 :]


async def _stop(fault: Fault, ends: tuple[asyncio.StreamWriter, ...]) -> None:
    if fault.still is not None:
        await asyncio.Event().wait()
    for writer in ends:
        if fault.reset is not None:
            _reset(writer)
        else:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, what is in its buffers is lost."""
    plain = writer.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _head(reader: asyncio.StreamReader, piece: bytes) -> bytes:
    """A request from its first piece to the end of its head, and what came with it."""
    while b"\r\n\r\n" not in piece and (more := await reader.read(CHUNK)):
        piece += more
    return piece


async def _instead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes, said: bytes) -> None:
    """Read the rest of a request, unless it waits to be asked for it, and say `said`."""
    head, _, body = begun.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    left = int(found[1]) - len(body) if found and b"100-continue" not in head.lower() else 0
    while left > 0 and (piece := await reader.read(min(left, CHUNK))):
        left -= len(piece)
    writer.write(said)
    await writer.drain()


def _close(ends: tuple[asyncio.StreamWriter, ...]) -> None:
    for writer in ends:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes) -> None:
    """Read one request; one that waits for `100 Continue` is answered before its body."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        await _instead(reader, writer, await reader.readuntil(b"\r\n\r\n"), said)
