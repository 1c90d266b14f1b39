"""The requests of `wire` by aiohttp instead: for where a proxy of the environment stands between, which aiohttp knows."""

import asyncio
import ssl
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from syncd.local.threads import to_its_end
from syncd.store import Fetched
from syncd.store.landing import Landing
from syncd_s3.body import RangeBody
from syncd_s3.wire import MOST, THREADS, Answer, Request, Span

PIECE = 1 << 20
"""Bytes of an answer that are written at a time."""


def proxy_of(url: str) -> str | None:
    """The environment's proxy for this URL; None where there is none, or the host is excepted."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(str(parts.hostname)):
        return None
    return proxy if proxy.startswith(("http:", "https:")) else f"http://{proxy.removeprefix('//')}"  # as botocore does


class Session:
    """Carries requests as `wire.Wire` does, and raises as it does; aiohttp's errors beside."""

    def __init__(self, tls: ssl.SSLContext | None, timeout: float) -> None:
        self._tls, self._timeout = tls, timeout
        self._made: aiohttp.ClientSession | None = None

    async def exchange(self, request: Request) -> Answer:
        """Send one request and take its answer. Nothing is repeated but what a server's idle time-out broke."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout) as limit:

            def progress() -> None:
                limit.reschedule(loop.time() + self._timeout)

            span = request.body
            body = RangeBody(span.fd, span.offset, span.length, progress) if span and span.length else b""
            try:
                async with self._session().request(
                    request.method,
                    URL(request.url, encoded=True),
                    # What is between may compress, and a range that was compressed is another.
                    headers={**request.headers, "Accept-Encoding": "identity"},
                    proxy=proxy_of(request.url),
                    data=body if span else None,
                    allow_redirects=False,
                ) as answer:
                    progress()
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    if request.into and answer.status == 200 and (answer.content_length or 0) > request.into.length:
                        answer.close()  # the whole object, of a server without ranges: the headers tell
                        return Answer(200, headers, b"")
                    if request.into and answer.status in (200, 206):
                        fetched = await self._receive(answer, request.into, progress)
                        return Answer(answer.status, headers, b"", fetched)
                    return Answer(answer.status, headers, await _kept(answer))
            except aiohttp.ClientError:
                # aiohttp reports any error of a body as one of the connection.
                if isinstance(body, RangeBody) and body.torn:
                    raise body.torn from None
                raise

    async def aclose(self) -> None:
        if self._made:
            await self._made.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._made is None:  # made in the event loop that uses it
            self._made = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls or True, limit=THREADS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout),
                auto_decompress=False,  # and no trust_env: it looks into ~/.netrc too, for another Authorization
            )
        return self._made

    @staticmethod
    async def _receive(answer: aiohttp.ClientResponse, span: Span, progress: Callable[[], None]) -> Fetched:
        if answer.content_length is not None and answer.content_length > span.length:
            raise aiohttp.ClientPayloadError(f"{answer.content_length} bytes were promised of {span.length}")
        landing = Landing(span.fd, span.offset, span.length)
        async for piece in answer.content.iter_chunked(PIECE):
            await to_its_end(landing.take, memoryview(piece))
            progress()
        return landing.fetched


async def _kept(answer: aiohttp.ClientResponse) -> bytes:
    """A small body, or the beginning of one that is not."""
    body = b""
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MOST:
            answer.close()
            break
    return body
