"""One aiobotocore client: its configuration, its time-outs, and its errors in the store's words."""

import asyncio
import http.client
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.config import AioConfig
from botocore.auth import AUTH_TYPE_MAPS
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError

from syncd.errors import ConfigError, StoreError, Transient
from syncd_s3 import options
from syncd_s3.clock import AUTHS, CLOCK
from syncd_s3.credentials import Credentials, new_session
from syncd_s3.errors import OUTDATED, Place, code_of, date_of, status_of, translate
from syncd_s3.options import Options
from syncd_s3.profiles import choose
from syncd_s3.unredirected import UnredirectedSession

# awscrt is installed for its checksums; botocore, which looks once when it is imported, takes it for a wish to sign by
# CRT, which is slow and refuses our bodies. Set here, whoever imported botocore first.
AUTH_TYPE_MAPS.update(AUTHS)
log = logging.getLogger("syncd.s3")

CONNECTIONS = 32
"""Connections of the pool. As many requests run at a time, so that none waits in the pool while its time-out runs."""
SLOWEST = 16 << 10
"""Bytes per second below which a small object's put counts as standing still."""
FAILURES = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, http.client.HTTPException, OSError)

Progress = Callable[[], None]


class Settings(options.Settings, Protocol):
    """The settings that matter here."""

    @property
    def s3_endpoint_url(self) -> str | None: ...
    @property
    def s3_region(self) -> str | None: ...
    @property
    def s3_profile(self) -> str: ...
    @property
    def s3_path(self) -> Literal["auto", "fast", "signed", "sdk"]: ...
    @property
    def s3_addressing(self) -> str: ...
    @property
    def s3_ca_bundle(self) -> Path | None: ...
    @property
    def s3_timeout(self) -> float: ...


class Client:
    """Requests about one bucket. Repeats nothing: that is the wrapper's."""

    def __init__(self, api: Any, stack: AsyncExitStack, place: Place, credentials: Credentials, timeout: float) -> None:
        self._api, self._stack, self.credentials = api, stack, credentials
        self.place, self.timeout = place, timeout
        self.ca_bundle: str | None = None
        self.profile = choose(place.endpoint)
        self.options: Options | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._warned: set[str] = set()

    @classmethod
    async def connect(cls, bucket: str, settings: Settings) -> "Client":
        """Make the client; sends nothing yet. Raises `ConfigError` for settings that botocore cannot use."""
        added = Options(settings)
        credentials, stack = Credentials(), AsyncExitStack()
        try:
            session = new_session()
            session._credentials = credentials  # the session asks its own chain only when this is unset
            # Every other SDK reads AWS_REGION; botocore alone knows AWS_DEFAULT_REGION only.
            ca_bundle = _ca_bundle(settings.s3_ca_bundle or session.get_config_variable("ca_bundle"))
            region = settings.s3_region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
            api = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=region or "us-east-1",
                    endpoint_url=settings.s3_endpoint_url,
                    verify=ca_bundle,
                    config=_config(settings),
                )
            )
        except (BotoCoreError, ValueError) as error:
            await stack.aclose()
            raise ConfigError(f"s3://{bucket}: {error}; correct the S3 settings or the AWS profile") from None
        except BaseException:
            await stack.aclose()
            raise
        api.meta.events.register("response-received.s3", _refuse_page)
        place = Place(bucket, _without_user(api.meta.endpoint_url))
        client = cls(api, stack, place, credentials, settings.s3_timeout)
        client.ca_bundle, client.options = ca_bundle, added
        client.profile = choose(place.endpoint, settings.s3_profile)
        if client.profile.create == "generation":
            api.meta.events.register("before-call.s3.PutObject", _by_generation)
        return client

    async def aclose(self) -> None:
        await self._stack.aclose()

    @property
    def api(self) -> Any:
        """botocore's own client, for what signs and parses beside it."""
        return self._api

    def trust(self) -> ssl.SSLContext | None:
        """The certificates that the SDK trusts, for what speaks TLS beside it; None on plain HTTP."""
        if urlsplit(self._api.meta.endpoint_url).scheme != "https":
            return None
        return ssl.create_default_context(cafile=get_cert_path(self.ca_bundle or True))

    @property
    def events(self) -> Any:
        """botocore's event system, for tests and for counting."""
        return self._api.meta.events

    def warn_once(self, event: str, error: StoreError) -> None:
        """Log what makes us do less than we could, once in a client's life."""
        if event not in self._warned:
            self._warned.add(event)
            log.warning(event, extra={"fields": {"why": str(error)}})

    async def call(self, operation: str, what: str, /, **params: Any) -> dict[str, Any]:
        """One request without a large body. `what`: the key or prefix that an error names."""
        async with self.said(what):
            return await self._request(operation, params)

    async def put(self, what: str, data: bytes, **params: Any) -> dict[str, Any]:
        """One PutObject from memory."""
        async with self.said(what), asyncio.timeout(self.timeout + len(data) / SLOWEST):
            return await self._request("put_object", params | {"Body": data})

    async def send(
        self, operation: str, what: str, body: Callable[[Progress], Any], /, **params: Any
    ) -> dict[str, Any]:
        """One request with a large body, which is made by `body` and reports its progress.

        aiohttp's own time-outs begin when the body has been sent: a server that stops reading would hold us for ever.
        """
        loop = asyncio.get_running_loop()
        async with self.said(what), asyncio.timeout(self.timeout) as limit:
            return await self._request(
                operation, params | {"Body": body(lambda: limit.reschedule(loop.time() + self.timeout))}
            )

    async def get(self, what: str, /, **params: Any) -> tuple[dict[str, Any], bytes]:
        """GetObject's answer and its whole body; aiohttp's time-out watches each read."""
        async with self.said(what):
            answer = await self._request("get_object", params)
            body = answer["Body"]
            try:
                # Whatever has arrived, joined once: read() of everything copies more, by size made from 1 KiB pieces.
                data = b"".join([chunk async for chunk in body.raw_stream.content.iter_any()])
            except BaseException:
                body.close()  # what is left in the socket belongs to nobody: no keep-alive
                raise
            if len(data) != answer.get("ContentLength", len(data)):
                raise Transient(f"{self.place}: {what}: {len(data)} bytes came of {answer['ContentLength']}")
            return answer, data

    async def pages(self, operation: str, what: str, /, **params: Any) -> list[dict[str, Any]]:
        """All pages of a listing."""
        async with self.said(what):
            about = {"Bucket": self.place.bucket, **self.added(operation), **params}
            pages = self._api.get_paginator(operation).paginate(**about)
            return [Fields(page, self.place) async for page in pages]

    def added(self, operation: str) -> dict[str, Any]:
        """What the settings add to an operation's parameters."""
        return self.options.of(operation) if self.options else {}

    async def _request(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        about = {"Bucket": self.place.bucket, **self.added(operation), **params}
        return Fields(await getattr(self._api, operation)(**about), self.place)

    @asynccontextmanager
    async def said(self, what: str) -> AsyncIterator[ReadOnlyCredentials]:
        """Take a slot, and say every failure in the store's words. Gives the keys to sign with."""
        async with self._slots:
            used, ahead = None, CLOCK.ahead
            try:
                async with asyncio.timeout(self.timeout):  # it may ask a program, or a service
                    used = await self.credentials.get_frozen_credentials()
                ahead = CLOCK.ahead
                yield used
                self.credentials.worked()
            except FAILURES as error:
                raise await self._translate(error, what, used, ahead) from None
            except ValueError as error:
                # botocore's parser, for a date or number that is none: damaged on the way, since no server means it.
                raise Transient(f"{self.place}: {what}: the answer cannot be read ({error})") from None

    async def _translate(
        self, error: Exception, what: str, used: ReadOnlyCredentials | None, ahead: float
    ) -> StoreError:
        """`ahead`: what the request was signed by, like the keys `used`."""
        if isinstance(error, ClientError) and status_of(error) == 403 and CLOCK.correct(date_of(error), ahead):
            return Transient(f"{self.place}: {CLOCK}; once more, by the server's")
        if used and code_of(error) in OUTDATED:
            try:
                if await self.credentials.changed(used):
                    return Transient(f"{self.place}: the credentials were renewed; once more")
            except FAILURES as failure:
                return translate(failure, self.place, self.credentials.shown, what)
        return translate(error, self.place, self.credentials.shown, what)


class Fields(dict[str, Any]):
    """A parsed answer, or a part of one. What it lacks, no server meant to leave out: it was damaged on the way."""

    def __init__(self, items: dict[str, Any], place: Place) -> None:
        super().__init__((name, _fields(each, place)) for name, each in items.items())
        self._place = place

    def __missing__(self, name: str) -> Any:
        raise Transient(f"{self._place}: an answer came without {name}")


def _fields(value: Any, place: Place) -> Any:
    if isinstance(value, dict):
        return Fields(value, place)
    return [_fields(each, place) for each in value] if isinstance(value, list) else value


def _config(settings: Settings) -> Any:
    return AioConfig(
        connect_timeout=settings.s3_timeout,
        read_timeout=settings.s3_timeout,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Our own checksums go as plain headers: no CRC32 on top, no aws-chunked trailers (which R2 and others refuse).
        signature_version="s3v4",  # also in URLs, where the SDK would fall back to the second version
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Every body carries its CRC; a SHA-256 of it (a third of the CPU of an upload) would prove nothing new.
        s3={"payload_signing_enabled": False, "addressing_style": settings.s3_addressing},
        user_agent_extra="syncd",
        http_session_cls=UnredirectedSession,
    )


def _by_generation(params: dict[str, Any], **_: Any) -> None:
    """A create-only put as Google's XML API has it: the object's generation must be 0, that is, there is none."""
    if params["headers"].pop("If-None-Match", None):
        params["headers"]["x-goog-if-generation-match"] = "0"


def _refuse_page(response_dict: dict[str, Any] | None, **_: Any) -> None:
    """A page for people is no answer; botocore would take it for a failure of the server that passes."""
    if response_dict is None or response_dict["context"]["operation_name"] == "GetObject":
        return
    kind = str(response_dict["headers"].get("content-type", ""))
    if response_dict["status_code"] < 400 and kind.startswith("text/html"):
        raise ResponseParserError(f"a {kind} page")


def _ca_bundle(path: Path | str | None) -> str | None:
    """The path, once its certificates have been read: later, this would look like a connection that broke."""
    if path is None:
        return None
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"the CA bundle {path} cannot be read: {error.strerror or error}") from None
    return str(path)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
