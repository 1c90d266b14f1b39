"""The server's time, by which requests are signed: a signature counts for a quarter of an hour, and clocks are wrong.

A machine whose clock is an hour off still saves its checkpoints: the refusal says what time the server has.
"""

import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth

log = logging.getLogger("syncd.s3")
TOLERATED = 240.0
"""Seconds that are no reason for a refusal by any server: those allow 300 at least."""


class Clock:
    """How far the server's clock is ahead of ours, in seconds. One for the process, which speaks to one store."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> datetime:
        """The server's time, with a zone: what credentials' ends are compared with."""
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def __str__(self) -> str:
        return (
            f"this machine's clock is {abs(self.ahead):.0f} s {'behind' if self.ahead > 0 else 'ahead of'} the server's"
        )

    def correct(self, date: str | None, ahead: float) -> bool:
        """Whether a request that was signed when we took the server to be `ahead` is to be signed anew: its refusal
        bears a `date` that is too far from that. From then on we go by it."""
        try:
            said = parsedate_to_datetime(str(date)).timestamp()
        except ValueError:
            return False
        found = said - time.time()
        if abs(found - ahead) <= TOLERATED:
            return False
        if abs(found - self.ahead) > TOLERATED:  # else a sibling's refusal has told us
            self.ahead = found
            log.warning("s3.clock", extra={"fields": {"why": f"{self}; set it (NTP)", "now": "signed by the server's"}})
        return True


CLOCK = Clock()


class _ByClock:
    """Signs at the server's time."""

    def _modify_request_before_signing(self, request: Any) -> None:
        if CLOCK.ahead:
            at = datetime.strptime(request.context["timestamp"], SIGV4_TIMESTAMP) + timedelta(seconds=CLOCK.ahead)
            request.context["timestamp"] = at.strftime(SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)  # type: ignore[misc]


class V4(_ByClock, SigV4Auth):  # type: ignore[misc]  # botocore has no types
    pass


class V4Query(_ByClock, SigV4QueryAuth):  # type: ignore[misc]
    pass


class S3V4(_ByClock, S3SigV4Auth):  # type: ignore[misc]
    pass


class S3V4Query(_ByClock, S3SigV4QueryAuth):  # type: ignore[misc]
    pass


AUTHS = {"v4": V4, "v4-query": V4Query, "s3v4": S3V4, "s3v4-query": S3V4Query}
"""By botocore's names."""
