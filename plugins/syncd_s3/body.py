"""A range of a file as the body of a request: by `sendfile` on plain HTTP, by windows under TLS."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import BinaryIO, cast

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from syncd.errors import Torn
from syncd.store import read_exactly

SPAN = 2 << 20
"""Bytes that one sendfile is asked for: the grain in which progress is seen."""
WINDOW = 1 << 20
"""Bytes read at a time where the kernel cannot send by itself."""


_UNREADABLE = {errno.EIO, errno.ESTALE, errno.EBADF}
"""What a disk or a file system that went away says, and no socket."""


class RangeBody(Payload):
    """`length` bytes of an open file from `offset` on; calls `progress` as they leave. Holds no more than a window.

    An aiohttp payload, so that aiohttp lets it write to the socket itself; for botocore it has what a file has: it asks
    for `read` when it validates, `len` for Content-Length, `seek` before it sends again. `torn` tells afterwards that
    the file had become shorter or could not be read: aiohttp reports any error of a body as one of the connection.
    """

    def __init__(self, fd: int, offset: int, length: int, progress: Callable[[], None]) -> None:
        super().__init__(fd, content_type="application/octet-stream")
        self.torn: Torn | None = None
        self._fd, self._offset, self._length, self._position = fd, offset, length, 0
        self._progress = progress

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> int:
        return self._length

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def read(self, amount: int = -1) -> bytes:
        """Only for a signer that wants the payload's hash."""
        left = self._length - self._position
        data = read_exactly(self._fd, self._offset + self._position, left if amount < 0 else min(amount, left))
        self._position += len(data)
        return data

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("the bytes of a file are no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send all of it. A file that ends early leaves the request unfinished, so that the server keeps nothing."""
        self._progress()
        whole, transport = False, writer.transport
        try:
            if transport is None or transport.get_extra_info("sslcontext") is not None:
                await self._by_windows(writer, 0)
            else:
                # What is cold is read ahead meanwhile: sendfile waits for the disk in the event loop's thread.
                ahead = self._fd, self._offset, self._length, os.POSIX_FADV_WILLNEED
                await asyncio.to_thread(os.posix_fadvise, *ahead)
                writer.send_headers()
                await self._by_kernel(writer, transport)
            whole = True
        except Torn as error:
            self.torn = error
            raise
        except ConnectionError:
            whole = True  # a server that refuses answers before it closes: whoever reads its answer tells what happened
        except OSError as error:
            if error.errno in _UNREADABLE:
                self.torn = Torn(f"the file cannot be read: {error.strerror}")
            raise
        finally:
            if not whole and transport:
                transport.abort()  # a closing under TLS would wait for a server that waits for our bytes

    async def _by_kernel(self, writer: AbstractStreamWriter, transport: asyncio.WriteTransport) -> None:
        loop, sent = asyncio.get_running_loop(), 0
        file = cast(BinaryIO, _Descriptor(self._fd))
        while sent < self._length:
            span = min(SPAN, self._length - sent)
            try:
                # fallback=False: asyncio's own fallback moves the descriptor's position, which several parts share.
                done = await loop.sendfile(transport, file, self._offset + sent, span, fallback=False)
            except asyncio.SendfileNotAvailableError:
                # A file system that cannot, or a connection that broke: the next write tells which.
                await self._by_windows(writer, sent)
                return
            if done < span:
                at, left = self._offset + sent + done, self._length - sent - done
                raise Torn(f"the file ended at byte {at}, expected {left} more")
            sent += done
            self._progress()

    async def _by_windows(self, writer: AbstractStreamWriter, sent: int) -> None:
        while sent < self._length:
            window = min(WINDOW, self._length - sent)
            await writer.write(await asyncio.to_thread(read_exactly, self._fd, self._offset + sent, window))
            sent += window
            self._progress()


class _Descriptor:
    """As much of a file object as `loop.sendfile` looks at."""

    mode = "rb"

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd
