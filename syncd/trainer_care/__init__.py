"""The trainer's process behind one interface, whether it is our child or lives in another container."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Exit:
    """How a life of the trainer ended.

    `code`: 0..255, 128+n for signal n. `requested`: it had been asked to stop before it ended, by us or, in another
    container, by the platform. `time`: seconds since the epoch. `seen`: False where nobody saw it end: its container
    vanished or never came, or not even SIGKILL ended it; `code` is a guess then (137, 143).
    """

    code: int
    requested: bool
    time: float
    seen: bool = True


class Trainer(Protocol):
    """One trainer; at most one life at a time."""

    async def start(self, env: Mapping[str, str]) -> None:
        """Begin a new life, with `env` as its whole environment where we start it ourselves.

        Returns when it was started or, for another container, ordered: such a container may come minutes later.
        Raises `UsageError` when the command cannot be executed, `RuntimeError` while a life goes on, `OSError`.
        """

    async def wait(self) -> Exit:
        """Wait until this life ends and everything it left behind is gone; the same answer again when called again.

        Never returns before the first `start` has a result. Cancel-safe; several callers may wait at once.
        """

    async def stop(self, grace: float) -> Exit:
        """Ask the main process to save and leave (SIGTERM, once), and after `grace` seconds kill all of it.

        Returns how it ended, in at most `grace` and about 25 seconds. Idempotent: a stopped trainer gives its last
        `Exit`; a later call with a shorter grace shortens it. Where no life ever began, `Exit(143, requested, unseen)`.
        """

    async def kill(self) -> None:
        """End it at once, with SIGKILL; returns when it is gone or after about 10 seconds."""

    @property
    def alive(self) -> bool:
        """Whether a life goes on, as far as can be seen now."""
