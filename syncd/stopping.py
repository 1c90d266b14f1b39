"""Being asked to end: by signals, by a newer attempt, by a result; and what is raced against it."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["signal", "superseded", "done"]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass
class Stop:
    """Why the daemon is to end: the first reason stands."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    now: asyncio.Event = field(default_factory=asyncio.Event)
    reason: Reason | None = None
    text: str = ""
    number: int = 0
    overtaken: str | None = None
    """Set also where another reason came first: what is drained is then a zombie's."""

    def ask(self, reason: Reason, text: str) -> None:
        if reason == "superseded":
            self.overtaken = text
        if self.reason is None:
            self.reason, self.text = reason, text
        self.asked.set()

    @contextlib.contextmanager
    def on_signals(self, tell: Callable[[str], None]) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGUSR1 ask for the end; a second one wants it now. `tell` gets the signal's name."""
        loop = asyncio.get_running_loop()

        def heard(number: signal.Signals) -> None:
            self.number = int(number)
            if self.reason == "signal":
                self.now.set()
            self.ask("signal", number.name)
            tell(number.name)

        for number in SIGNALS:
            loop.add_signal_handler(number, heard, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def wait(self, seconds: float) -> None:
        """Sleep, but not longer than until somebody asks."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.asked.wait()


async def race(work: Coroutine[Any, Any, Any], event: asyncio.Event) -> Any:
    """The work's result, or None when the event came first; the work is then cancelled and awaited."""
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        return None
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)
