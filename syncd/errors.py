"""What went wrong, sorted by who must act; every message says what, where, and what to do now."""

from typing import ClassVar

LONGEST = 200
"""Characters of somebody else's text in one of our lines."""


def brief(text: str, most: int = LONGEST) -> str:
    """Somebody else's text as a part of a message: one printable line of bounded length."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return shown if len(text) <= most and len(shown) <= most else f"{shown[:most]}…"


class SyncdError(Exception):
    """Base of all errors that are shown to a person as one line, never as a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(SyncdError):
    """The command line asks for something that cannot be: the caller must ask differently."""

    exit_code = 64


class ConfigError(SyncdError):
    """A setting, a right or a place is wrong: the operator must mend it; trying again does not help."""

    exit_code = 78


class Superseded(SyncdError):
    """A newer attempt owns the task: this process must stop its trainer and write nothing more."""

    exit_code = 77


class Torn(SyncdError):
    """A source file changed, or went away, between pin and commit: that commit is abandoned, the next scan sees anew."""


class Unreadable(Torn):
    """A source file cannot be read, by this user or from this disk: the operator must act, and the next checkpoint may do
    better."""


class Refused(SyncdError):
    """A checkpoint holds a name or a kind of file that is never carried (I9): the trainer's author must act."""


class StoreError(SyncdError):
    """Base of what a store may raise; a backend raises nothing else for what the store answers."""


class Transient(StoreError):
    """Time-out, refusal, reset, throttling, 5xx: the same call may work later."""

    exit_code = 75


class SlowDown(Transient):
    """The store asks for fewer requests: the same call may work later, with fewer beside it."""


class NotFound(StoreError):
    """No object has this key."""


class Exists(StoreError):
    """A create-only put found an object in its place."""


class Denied(StoreError):
    """Wrong keys, no right, unknown bucket or host: ends the start (78), is waited out once a trainer depends on us."""

    exit_code = 78


class Corrupt(StoreError):
    """Stored bytes are not what was committed; asking again gives the same."""

    exit_code = 78
