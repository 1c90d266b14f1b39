"""HTTP/1.1 over kept-alive connections in threads, between files and sockets with as few copies as can be.

The standard library's `http.client` speaks HTTP. On plain HTTP a range of a file goes out by `sendfile` and never passes
through this process; under TLS, and on its way back, it goes through one window. `splice` into the file was tried: the
sums then need a second reading, and that costs more than it saves. So was an event loop: it waits for the disk when a
file is cold, and costs twice the processor time.
"""

import asyncio
import errno
import http.client
import os
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from syncd.errors import Torn
from syncd.local.threads import outlast
from syncd.store import Fetched
from syncd.store.landing import Landing

WINDOW = 256 << 10
"""Bytes that are moved at a time. Larger blocks make writers of one file spin on its lock."""
MOST = 1 << 20
"""Bytes of an answer that is kept in memory: error documents are far smaller."""
NEXT_ADDRESS = 0.25
"""Seconds after which another address of the host is tried too."""
THREADS = 32
NICE = 19
"""Niceness of the threads that carry what is not urgent: on a busy machine the trainer comes first."""
_UNREADABLE = {errno.EIO, errno.ESTALE, errno.EBADF}
"""What a disk or a file system that went away says, and no socket."""
_NO_KERNEL = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system says that cannot move bytes within the kernel."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes of an open file from `offset` on."""

    fd: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body`: what is sent; `into`: where the bytes of a 200 or 206 go; `polite`: the trainer comes first."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Span | None = None
    into: Span | None = None
    polite: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by their names in small letters, and the body; `fetched`: what went into the file instead."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    fetched: Fetched | None = None


class Wire:
    """Connections to one server. `tls`: the context that verifies it, None for plain HTTP; `timeout`: seconds without
    progress that end a request.

    A request raises OSError, `http.client.HTTPException`, or `Torn` for a file that is shorter than its span or cannot
    be read. Nothing is repeated but what a server's idle time-out broke; redirects are not followed.
    """

    def __init__(self, tls: ssl.SSLContext | None, timeout: float) -> None:
        self._tls, self._timeout = tls, timeout
        self._threads = ThreadPoolExecutor(THREADS, "syncd-s3")
        self._polite = ThreadPoolExecutor(THREADS, "syncd-s3-nice", initializer=_be_nice)
        self._idle: deque[_Connection] = deque()
        self._closed = False

    async def exchange(self, request: Request) -> Answer:
        """Send one request and take its answer. A cancelled call breaks the connection, and ends with its thread."""
        while self._idle:
            connection = self._idle.pop()  # the youngest: the others may end by their idle time-out
            if connection.answers_unasked():
                connection.close()
                continue
            try:
                return await self._on(connection, request)
            except (ConnectionError, http.client.BadStatusLine):
                if connection.answered:
                    raise
                # The server closed it while our request was under way: that says nothing of a fresh one.
        return await self._on(await self._connect(request.url), request)

    async def aclose(self) -> None:
        """Close what is idle; what is under way closes itself."""
        self._closed = True
        self.drop_idle()
        for threads in (self._threads, self._polite):
            threads.shutdown(wait=False)

    def drop_idle(self) -> None:
        """Close the connections that wait for their next request."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self, url: str) -> "_Connection":
        parts = urlsplit(url)
        host, usual = str(parts.hostname), 443 if parts.scheme == "https" else 80
        port = parts.port or usual
        async with asyncio.timeout(self._timeout):
            plain = await _open(host, port)
        # Signatures cover the Host header, in which a scheme's usual port has no place.
        return _Connection(plain, host, parts.netloc.removesuffix(f":{usual}"), self._tls, self._timeout)

    async def _on(self, connection: "_Connection", request: Request) -> Answer:
        threads = self._polite if request.polite else self._threads
        running = asyncio.get_running_loop().run_in_executor(threads, connection.exchange, request)
        try:
            answer = await asyncio.shield(running)
        except asyncio.CancelledError:
            connection.abort()
            await outlast(running)
            running.exception()  # looked at, as asyncio wants; what a broken connection says is no news
            connection.close()
            raise
        except BaseException:
            connection.close()
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return answer


def _be_nice() -> None:
    """Lower this thread alone (Linux counts niceness by thread); it could not be raised again without a privilege."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


async def _open(host: str, port: int) -> socket.socket:
    """A connected socket by the address that answers first, another being tried while one does not (RFC 8305)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    task = asyncio.current_task()
    assert task
    cancelled = task.cancelling()
    made = await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS, interleave=1)
    if task.cancelling() > cancelled:  # while it ended its other attempts, it takes that for their end
        made.close()
        raise asyncio.CancelledError
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(
        self, plain: socket.socket, host: str, netloc: str, tls: ssl.SSLContext | None, timeout: float
    ) -> None:
        self.answered, self.reusable = False, False
        self._plain, self._host, self._netloc, self._tls, self._timeout = plain, host, netloc, tls, timeout
        self._http = http.client.HTTPConnection(host)
        self._http.auto_open = 0  # a connection that broke is another's matter
        limit = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # for the calls that block in the kernel
            plain.setsockopt(socket.SOL_SOCKET, option, limit)

    def exchange(self, request: Request) -> Answer:
        """One request and its answer. Blocks."""
        self.answered = self.reusable = False
        if self._http.sock is None:
            self._http.sock = self._shake_hands()
        try:
            self._send(request)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            # A server that refuses answers before it has read the body, and closes.
            try:
                answer = self._receive(request)
            except (OSError, http.client.HTTPException):
                raise error from None
            self.reusable = False
            return answer
        return self._receive(request)

    def abort(self) -> None:
        """Make a thread that waits on the socket return. May be called from another thread."""
        with suppress(OSError):
            self._plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()
        self._plain.close()

    def answers_unasked(self) -> bool:
        """Whether an idle connection has something to say: its end, as a rule."""
        poll = select.poll()
        poll.register(self._plain, select.POLLIN)
        return bool(poll.poll(0))

    def _shake_hands(self) -> socket.socket:
        self._plain.settimeout(self._timeout)
        if self._tls is None:
            return self._plain
        # Known before the handshake, so that a cancelled call can break it.
        wrapped = self._tls.wrap_socket(self._plain, server_hostname=self._host, do_handshake_on_connect=False)
        self._plain = wrapped
        wrapped.do_handshake()
        return wrapped

    # ---- there

    def _send(self, request: Request) -> None:
        parts = urlsplit(request.url)
        connection = self._http
        connection.putrequest(
            request.method, f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", True, True
        )
        connection.putheader("Host", self._netloc)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        if request.body:
            connection.putheader("Content-Length", str(request.body.length))
        connection.endheaders()
        if request.body and request.body.length:
            self._send_span(request.body)

    def _send_span(self, span: Span) -> None:
        sent = 0
        if self._tls is None:
            self._plain.setblocking(True)
            try:
                sent = self._by_kernel(span)
            finally:
                self._plain.settimeout(self._timeout)
        window = memoryview(bytearray(min(WINDOW, span.length - sent)))
        while sent < span.length:
            got = _read(span.fd, window[: span.length - sent], span.offset + sent)
            if not got:
                raise _ended(span, sent)
            self._plain.sendall(window[:got])
            sent += got

    def _by_kernel(self, span: Span) -> int:
        """Bytes sent: all of the span, or none where the file system cannot."""
        sent, out = 0, self._plain.fileno()
        while sent < span.length:
            try:
                done = os.sendfile(out, span.fd, span.offset + sent, span.length - sent)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, "nothing could be sent in time") from None
            except OSError as error:
                if error.errno in _UNREADABLE:
                    raise Torn(f"the file cannot be read: {error.strerror}") from None
                if error.errno in _NO_KERNEL and not sent:
                    return 0
                raise
            if not done:
                raise _ended(span, sent)
            sent += done
        return sent

    # ---- back

    def _receive(self, request: Request) -> Answer:
        answer = self._http.getresponse()
        self.answered = True
        headers = {name.lower(): value for name, value in answer.getheaders()}
        fetched, body = None, b""
        if request.into and answer.status == 200 and (answer.length or 0) > request.into.length:
            return Answer(200, headers, b"")  # the whole object, of a server without ranges: the headers tell
        if request.into and answer.status in (200, 206):
            fetched = self._receive_span(answer, request.into)
            answer.close()
        else:
            body = answer.read(MOST)
        self.reusable = answer.isclosed() and not answer.will_close
        return Answer(answer.status, headers, body, fetched)

    def _receive_span(self, answer: http.client.HTTPResponse, span: Span) -> Fetched:
        """Move an answer's body into a file. Raises OSError when it ends early or is too long."""
        promised, landing = answer.length, Landing(span.fd, span.offset, span.length)
        if promised is not None and promised > span.length:
            raise ConnectionError(errno.EPROTO, f"{promised} bytes were promised of {span.length}")
        window = memoryview(bytearray(min(WINDOW, span.length)))
        if self._tls is None and promised:
            # What came along with the headers is in the reader's buffer; after that the socket is ours.
            landing.take(memoryview(answer.read1(WINDOW)))
            if landing.moved < promised:  # else the connection may be closed already
                self._plain.setblocking(True)
                try:
                    while landing.moved < promised and (got := self._fill(window[: promised - landing.moved])):
                        landing.take(window[:got])
                finally:
                    self._plain.settimeout(self._timeout)
        else:
            while got := answer.readinto(window):
                landing.take(window[:got])
        if promised is not None and landing.moved < promised:
            raise ConnectionResetError(errno.ECONNRESET, f"{landing.moved} bytes came of {promised}")
        return landing.fetched

    def _fill(self, window: memoryview) -> int:
        """A whole window in one call, or what came before the end or the time-out."""
        try:
            return self._plain.recv_into(window, len(window), socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError(errno.ETIMEDOUT, "nothing came in time") from None


def _read(fd: int, window: memoryview, offset: int) -> int:
    try:
        return os.preadv(fd, [window], offset)
    except OSError as error:
        raise Torn(f"the file cannot be read: {error.strerror}") from None


def _ended(span: Span, sent: int) -> Torn:
    return Torn(f"the file ended at byte {span.offset + sent}, expected {span.length - sent} more")
