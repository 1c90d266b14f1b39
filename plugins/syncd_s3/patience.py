"""The slowest of many requests is asked once more: one bad connection or server holds a whole checkpoint up."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from statistics import median
from typing import Any, TypeVar

from syncd.errors import Transient

log = logging.getLogger("syncd.s3")
T = TypeVar("T")

REMEMBERED, ENOUGH = 32, 4
"""Requests whose pace is remembered, and how many it takes to know what is usual."""
SLOW = 4.0
"""Times the usual pace at which a request counts as slow."""
LEAST = 2.0
"""Seconds below which nothing is slow."""
SMALL = 1 << 20
"""Bytes below which a request's time says more of latency than of pace."""


class _Asked:
    """A request under way: when it began, and with how many others at most it shared the link since."""

    def __init__(self, began: float) -> None:
        self.began, self.sharing = began, 0


class Patience:
    """Knows the usual pace of requests with large bodies one way, and sends a slow one a second time.

    A pace is seconds a byte, and the same for each that shared the link: slow is what is slow by both, since it may be
    the link or each connection that limits. One at a time is sent again, beyond the caller's gate. The second runs on
    another connection, since the first one's is busy; whichever ends first with success counts, and the other is
    cancelled and has ended before the call does. Both move the same bytes to the same place: whoever fetches must look
    at what is there in the end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paces: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._under_way: list[_Asked] = []
        self.repeated = 0
        self._repeating = False

    async def ask(self, make: Callable[[], Coroutine[Any, Any, T]], nbytes: int) -> T:
        """The result of `make()`, or of a second call of it. Raises what the first failure was when both fail."""
        if nbytes < SMALL:
            return await make()
        this = _Asked(self._clock())
        self._under_way.append(this)
        for each in self._under_way:
            each.sharing = max(each.sharing, len(self._under_way))
        asked = [asyncio.ensure_future(make())]
        try:
            await self._while_usual(asked[0], this, nbytes)
            if not asked[0].done():
                self.repeated += 1
                self._repeating = True
                waited = round(self._clock() - this.began, 1)
                log.info("s3.slow", extra={"fields": {"waited": waited, "now": "asked once more"}})
                asked.append(asyncio.ensure_future(make()))
            answer = await _first_success(asked)
        finally:
            self._under_way.remove(this)
            self._repeating = self._repeating and len(asked) == 1
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        pace = (self._clock() - this.began) / nbytes
        self._paces.append((pace, pace / this.sharing))
        return answer

    async def _while_usual(self, asked: "asyncio.Future[Any]", this: _Asked, nbytes: int) -> None:
        """Wait as long as others took, by what is known of them meanwhile."""
        while True:
            limit = LEAST
            if len(self._paces) >= ENOUGH:
                alone, shared = (median(paces) for paces in zip(*self._paces, strict=True))
                usual = nbytes * max(alone, shared * this.sharing)
                limit = max(LEAST, SLOW * usual) - (self._clock() - this.began)
            if limit <= 0 and self._repeating:
                limit = LEAST  # when all are slow it is the link, and everything sent twice would make it slower
            if limit <= 0 or (await asyncio.wait({asked}, timeout=limit))[0]:
                return


async def _first_success(asked: Sequence["asyncio.Future[T]"]) -> T:
    failed: BaseException | None = None
    left = set(asked)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            error = one.exception()
            if error is None:
                return one.result()
            if not isinstance(error, Transient):
                raise error
            failed = failed or error
    assert failed
    raise failed
