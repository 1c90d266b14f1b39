"""A `FaultProxy` in a thread of its own, for tests that wait for processes."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from syncd.testing import FaultProxy


class Between:
    """Stands before `127.0.0.1:to` while its context lasts. `proxy.choose` and `proxy.watch` run in its thread."""

    def __init__(self, to: int, port: int = 0) -> None:
        self.proxy = FaultProxy(to, port=port)
        self._up, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.proxy:
            self._up.set()
            await self._end.wait()

    @property
    def endpoint(self) -> str:
        return self.proxy.endpoint

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
