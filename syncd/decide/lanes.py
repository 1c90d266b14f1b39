"""How many large pieces at once a link is worth: as few as bring as much, since each of them is lost at a kill."""

LARGE = 1 << 20
"""Bytes below which a piece's time says more of latency than of the link."""
FAST = 8 << 20
"""Bytes a second from which on nothing is tried: what a kill costs is sent again within seconds."""
GAIN = 1.1
"""Times the goodput that one more must bring to be worth it."""
REST = 8
"""Measurements between two trials of another number, once one has failed."""


class Lanes:
    """Measures goodput while all lanes are taken, and tries one fewer, or one more, where the link is slow.

    One number is measured for as many pieces as there are lanes, after as many that were begun before it was tried.
    """

    def __init__(self, most: int) -> None:
        self.most = self.at_once = most
        self._step, self._rest = -1, 0
        self._before: tuple[int, float] | None = None
        self.begin()

    def begin(self) -> None:
        """Measure anew: what went through so far says nothing of what comes."""
        self._since: float | None = None
        self._passed = self._bytes = 0

    def finished(self, nbytes: int, now: float, *, full: bool) -> None:
        """A piece went through at `now`, in seconds; `full`: as many were under way as may be."""
        if nbytes < LARGE or not full:
            self.begin()
            return
        self._passed += 1
        if self._since is None:
            if self._passed >= self.at_once:
                self._since, self._passed = now, 0
            return
        self._bytes += nbytes
        if self._passed >= self.at_once and now > self._since:
            self._measured(self._bytes / (now - self._since))
            self.begin()

    def _measured(self, rate: float) -> None:
        before, self._before = self._before, None
        if rate >= FAST:
            self.at_once, self._step, self._rest = self.most, -1, 0
        elif before and not self._is_better(rate, *before):
            self.at_once, self._step, self._rest = before[0], -self._step, REST
        elif before or not self._rest:
            self._try(rate)
        else:
            self._rest -= 1

    def _is_better(self, rate: float, lanes: int, was: float) -> bool:
        return rate > was * GAIN if self.at_once > lanes else rate * GAIN >= was

    def _try(self, rate: float) -> None:
        if not 1 <= self.at_once + self._step <= self.most:
            self._step, self._rest = -self._step, REST
        else:
            self._before = (self.at_once, rate)
            self.at_once += self._step
