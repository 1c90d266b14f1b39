"""What a trainer's end means, when to start it again, how long to wait for it."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["finished", "left", "failed"]
LEAVE = 75
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


def verdict(code: int, *, requested: bool) -> Verdict:
    """What an exit means: 0 unasked is finished; 75 at any time, or anything after a stop request, is left."""
    if requested or code == LEAVE:
        return "left"
    return "finished" if code == 0 else "failed"


@dataclass(frozen=True, slots=True)
class Restarts:
    """Restarts since the last new checkpoint, against their budget."""

    budget: int
    used: int = 0

    def after_checkpoint(self) -> "Restarts":
        """Progress was made: the count begins anew."""
        return Restarts(self.budget)

    def after_failure(self) -> "Restarts | None":
        """One more is used, or None when the budget is spent."""
        return Restarts(self.budget, self.used + 1) if self.used < self.budget else None

    @property
    def pause(self) -> float:
        """Longest pause in seconds before this restart; the caller draws from the upper half of it (jitter)."""
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(10, max(0, self.used - 1)))


def stalled(now: float, last_progress: float, stall_after: float) -> bool:
    """Whether there was no progress for `stall_after` seconds (0: never a stall)."""
    return stall_after > 0 and now - last_progress >= stall_after


def trainer_share(grace: float, upload: float | None) -> float:
    """Seconds of `grace` that the trainer may use for its save, given the last upload's seconds (None: unknown).

    The rest, at least a quarter, is for the upload of what it saves; a fifth is added to its estimate.
    """
    reserve = max(grace * 0.25, min(grace * 0.75, (upload or 0.0) * 1.2))
    return grace - reserve
