"""The ways of large bodies: past the SDK by the kernel, past the SDK by aiohttp, by the SDK. One is chosen and shown.

`fast` is a third of the SDK's processor time and knows no proxy; `signed` does, and is the SDK's aiohttp without what
the SDK does around it; `sdk` is whatever botocore makes of its configuration.
"""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol, TypeVar

from syncd.errors import Denied
from syncd.store import Fetched
from syncd_s3.client import Client
from syncd_s3.direct import DirectPath
from syncd_s3.patience import Patience
from syncd_s3.sdk import SdkPath
from syncd_s3.session import Session, proxy_of
from syncd_s3.wire import Span, Wire

log = logging.getLogger("syncd.s3")
T = TypeVar("T")
Name = Literal["fast", "signed", "sdk"]


class Path(Protocol):
    """One way. Raises the store's errors, `Torn` for a file that is shorter than said or cannot be read,
    `landing.Unwritable` for one that takes no more."""

    async def send(
        self, operation: str, what: str, span: Span, urgent: bool, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One PutObject or UploadPart with a range of a file as its body; the parsed answer."""

    async def fetch(self, what: str, span: Span, about: Mapping[str, Any]) -> tuple[dict[str, Any], Fetched]:
        """GetObject of a range into a file; the parsed answer, and what came."""

    async def aclose(self) -> None:
        """Close its connections."""


class Paths:
    """The ways to one server, best first, and the one in use: the first that the server has not refused.

    Until a way has carried something, a refusal may be of the way and not of the request: the same request goes by the
    next one, and what carries it is used from then on. A refusal on all of them is the request's.
    """

    def __init__(self, ways: Mapping[Name, Path]) -> None:
        self._ways = dict(ways)
        self._left: list[Path] = []
        self._proven: set[Name] = set()
        self._upwards, self._downwards = Patience(), Patience()

    @classmethod
    def of(cls, client: Client, wanted: Literal["auto"] | Name) -> "Paths":
        """The ways to a client's server: that of the setting alone, else all that its proxies leave."""
        make: dict[Name, Callable[[], Path]] = {
            "fast": lambda: DirectPath(client, Wire(client.trust(), client.timeout)),
            "signed": lambda: DirectPath(client, Session(client.trust(), client.timeout)),
            "sdk": lambda: SdkPath(client),
        }
        if wanted != "auto":
            return cls({wanted: make[wanted]()})
        left = [name for name in make if name != "fast" or not proxy_of(client.api.meta.endpoint_url)]
        return cls({name: make[name]() for name in left})

    @property
    def ways(self) -> list[Path]:
        """Those that are left, best first."""
        return list(self._ways.values())

    @property
    def name(self) -> Name:
        """The way in use."""
        return next(iter(self._ways))

    async def send(
        self, operation: str, what: str, span: Span, urgent: bool, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        return await self._by(lambda path: path.send(operation, what, span, urgent, about), span.length, self._upwards)

    async def fetch(self, what: str, span: Span, about: Mapping[str, Any]) -> tuple[dict[str, Any], Fetched]:
        asked = 0

        def ask(path: Path) -> Coroutine[Any, Any, tuple[dict[str, Any], Fetched]]:
            nonlocal asked
            asked += 1
            return path.fetch(what, span, about)

        answer, fetched = await self._by(ask, span.length, self._downwards)
        # Two at once wrote to the same place, and the one that lost may have brought other bytes.
        return answer, fetched if asked == 1 else Fetched(fetched.nbytes)

    async def aclose(self) -> None:
        for path in [*self._ways.values(), *self._left]:
            await path.aclose()

    async def _by(self, ask: Callable[[Path], Coroutine[Any, Any, T]], nbytes: int, patience: Patience) -> T:
        refused: Denied | None = None
        for name, path in list(self._ways.items()):
            try:
                answer = await patience.ask(lambda path=path: ask(path), nbytes)  # type: ignore[misc]
            except Denied as error:
                if name in self._proven:
                    raise
                refused = refused or error
            else:
                self._proven.add(name)
                self._leave_those_before(name, refused)
                return answer
        assert refused
        raise refused

    def _leave_those_before(self, name: Name, refused: Denied | None) -> None:
        for other in list(self._ways):
            if other in self._proven or name not in self._ways:
                return
            log.warning("s3.path", extra={"fields": {"left": other, "path": name, "error": str(refused)}})
            self._left.append(self._ways.pop(other))  # closed at the end: siblings may be under way on it
