"""How many large pieces at once a link is worth: as few as bring as much, since each of them is lost at a kill."""

LARGE = 1 << 20
"""Bytes below which a piece's time says more of latency than of the link."""
FAST = 8 << 20
"""Bytes a second from which on nothing is tried: what a kill costs is sent again within seconds."""
SHARE = 0.5
"""Part of a lane's even share of the goodput that one more must bring to be worth it."""
MOST_OF_IT = 0.9
"""Part of the best goodput that is never given up for fewer lanes."""
FADING = 0.999
"""What is left of the best goodput after each measurement: a link may have become another."""
REST = 8
"""Measurements between two trials of another number, once one has failed."""


class Lanes:
    """Measures goodput while all lanes are taken, and tries one fewer, or one more, where the link is slow.

    One number is measured for as many pieces as there are lanes, after as many that were begun before it was tried.
    """

    def __init__(self, most: int) -> None:
        self.most = self.at_once = most
        self._step, self._rest = -1, 0
        self._best = 0.0
        self._before: tuple[int, float] | None = None
        self.begin()

    def begin(self) -> None:
        """Measure anew: what went through so far says nothing of what comes."""
        self._since: float | None = None
        self._passed = self._bytes = 0

    def disturb(self) -> None:
        """Something else than the link decides for now: end a trial without a verdict."""
        if self._before:
            (self.at_once, _), self._before = self._before, None
        self.begin()

    def finished(self, nbytes: int, now: float, *, full: bool) -> None:
        """A piece went through at `now`, in seconds; `full`: as many were under way as may be, and nothing but the link
        held them up."""
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
        ratchet = before or self.at_once < self.most
        self._best = max(rate, self._best * FADING) if ratchet else rate
        if rate >= FAST:
            self.at_once, self._step, self._rest, self._best = self.most, -1, 0, 0.0
        elif before and not self._is_better(rate, *before):
            self.at_once, self._step, self._rest = before[0], -self._step, REST
        elif before or not self._rest:
            self._try(rate)
        else:
            self._rest -= 1

    def _is_better(self, rate: float, lanes: int, was: float) -> bool:
        if self.at_once > lanes:
            return rate > was * (1 + SHARE / lanes)
        return rate >= max(was * (1 - SHARE / lanes), self._best * MOST_OF_IT)  # small losses would add up

    def _try(self, rate: float) -> None:
        if not 1 <= self.at_once + self._step <= self.most:
            self._step, self._rest = -self._step, REST
        else:
            self._before = (self.at_once, rate)
            self.at_once += self._step
