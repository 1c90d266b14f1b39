"""Copy the trainer's output to our own, without letting a blocked terminal or a dead pipe block the trainer."""

import asyncio
import os
import select
import threading
import time
from collections import deque

LIMIT = 4 << 20
"""Bytes held for a slow reader of our output, per stream."""


class Copier:
    """Writes chunks to a file descriptor in order, from a thread of its own: such a write may block for ever."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._written = 0
        self._dropped = 0
        self._dropping = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def written(self) -> int:
        """Bytes that went out, or went nowhere because nobody reads any more; grows while the reader lives."""
        return self._written

    @property
    def full(self) -> bool:
        """Whether there is no room: the reader is far behind."""
        return self._held >= LIMIT

    @property
    def dropping(self) -> bool:
        """Whether what is put now is lost."""
        return self._dropping and self.full

    def put(self, data: bytes) -> None:
        """Queue `data`; never blocks. After `drop`, and until there is room, data is counted and lost."""
        with self._changed:
            if self.dropping:
                self._dropped += len(data)
                return
            if self._dropped:
                data = b"\nsyncd: %d bytes of output not copied: its reader was blocked\n" % self._dropped + data
            self._dropping, self._dropped = False, 0
            self._chunks.append(data)
            self._held += len(data)
            self._changed.notify()
        if self._thread is None:
            # A daemon thread: a write that blocks for ever must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=f"copy-{self._descriptor}", daemon=True)
            self._thread.start()

    def drop(self) -> None:
        """The reader does not read: lose output from here until there is room again."""
        with self._changed:
            self._dropping = self.full

    async def flush(self, patience: float) -> None:
        """Wait until all is written, or until nothing was written for `patience` seconds."""
        written, deadline = self._written, time.monotonic() + patience
        while self._held and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            if self._written != written:
                written, deadline = self._written, time.monotonic() + patience

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks)
                data = self._chunks.popleft()
            self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = len(view) if self._closed else self._write_some(view)
            view = view[count:]
            with self._changed:
                self._held -= count
                self._written += count

    def _write_some(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view[:65536])
        except BlockingIOError:  # somebody else made our output non-blocking
            ready = select.poll()  # select() knows no descriptor above 1,023
            ready.register(self._descriptor, select.POLLOUT)
            ready.poll(1000)
            return 0
        except OSError:  # nobody reads any more (EPIPE, EBADF, EIO): the trainer goes on without a listener
            self._closed = True
            return 0
