"""One connection to a broker, kept up in the background; the newest heartbeat goes out, older unsent ones are dropped."""

import asyncio
import logging
import random
import secrets
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiomqtt
import msgspec

from syncd_mqtt.settings import Broker

log = logging.getLogger("syncd.mqtt")
_QUIET = logging.getLogger("syncd.mqtt.paho")
_QUIET.setLevel(logging.WARNING)

TIMEOUT = 10.0
"""Seconds for each step of connecting, and for a heartbeat to leave."""
FLUSH = 0.4
"""Seconds at the end for the last heartbeat to leave."""
LEAVE = 0.3
"""Seconds for a disconnect; then the socket is dropped. With `FLUSH` it makes the stop last less than a second."""


class Link:
    """`async with link:` keeps the connection up; `offer` may be called at any time and returns at once.

    No failure leaves it: the broker's absence is logged once, and once its return. `first` and `longest`: seconds of
    the pauses between attempts, doubled each time, with jitter.
    """

    def __init__(self, broker: Broker, topic: str, node: str, *, first: float = 1.0, longest: float = 60.0) -> None:
        self.topic = topic
        # Random: two clients of one id would push each other out for ever.
        self.identifier = f"syncd-{node}-{secrets.token_hex(4)}"
        self._broker = broker
        self._first, self._longest = first, longest
        self._newest: bytes | None = None
        self._offered = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._connected = False
        self._told: str | None = None

    def offer(self, body: Mapping[str, object]) -> None:
        """Send this next, instead of what may still wait."""
        self._newest = msgspec.json.encode(body)
        self._idle.clear()
        self._offered.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_up(), name="mqtt")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._connected:
                async with asyncio.timeout(FLUSH):
                    await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        """Cancel; again, if the client waits for a broker that does not answer its goodbye."""
        for _ in range(2):
            self._task.cancel()
            done, _late = await asyncio.wait({self._task}, timeout=LEAVE)
            if done:
                return

    async def _keep_up(self) -> None:
        pause = self._first
        context = await asyncio.to_thread(ssl.create_default_context) if self._broker.tls else None
        while True:
            try:
                await self._probe(context)
                async with self._client(context) as client:
                    self._note(None)
                    pause = self._first
                    await self._serve(client)
            except* Exception as errors:  # whatever the client raises: nothing of it may end the heartbeats for good
                error = _first(errors)
                self._note(str(error) or type(error).__name__)
            finally:
                self._connected = False
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(self._longest, pause * 2)

    async def _probe(self, context: ssl.SSLContext | None) -> None:
        """Connect and hang up. The client connects in a thread, where a silent broker would hold up our exit for as
        long as a minute; this can be cancelled."""
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(self._broker.host, self._broker.port, ssl=context)
        writer.transport.abort()

    def _client(self, context: ssl.SSLContext | None) -> aiomqtt.Client:
        password = self._broker.password
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=password.get_secret_value() if password else None,
            identifier=self.identifier,
            logger=_QUIET,
            timeout=TIMEOUT,
            max_queued_outgoing_messages=1,
            tls_context=context,
        )

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Send what is offered, until the connection fails."""
        self._connected = True
        if self._newest is not None:
            self._offered.set()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._send(client))
            both.create_task(_listen(client))

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            await self._offered.wait()
            self._offered.clear()
            body = self._newest
            await client.publish(self.topic, body, qos=0, retain=False)
            if self._newest is body:
                self._newest = None
                self._idle.set()

    def _note(self, error: str | None) -> None:
        """Tell a change of state, once."""
        if error and self._told is None:
            fields = {"broker": str(self._broker), "error": error}
            log.warning("mqtt_away", extra={"fields": fields})
        elif error is None:
            log.info("mqtt_connected", extra={"fields": {"broker": str(self._broker)}})
        self._told = error


async def _listen(client: aiomqtt.Client) -> None:
    """Nothing is subscribed: this is how the client tells that the connection is gone."""
    async for _ in client.messages:
        pass


def _first(errors: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
