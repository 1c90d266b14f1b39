"""Heartbeats over MQTT: to `syncd/v1/{project}/{task}/{node}/heartbeat`, QoS 0, not retained.

This module is loaded by every command, so it imports neither pydantic nor the MQTT client.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from syncd import hookimpl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syncd.hooks import Attach, Heartbeat
    from syncd_mqtt.link import Link
    from syncd_mqtt.settings import MqttSettings

__all__ = ["Mqtt"]


class Mqtt:
    """The plugin. Without MQTT_URL it does nothing."""

    def __init__(self) -> None:
        self._link: Link | None = None

    @hookimpl
    def settings(self) -> type[MqttSettings]:
        from syncd_mqtt.settings import MqttSettings

        return MqttSettings

    @hookimpl
    def attach(self, event: Attach) -> AbstractAsyncContextManager[None] | None:
        from syncd_mqtt.settings import MqttSettings

        settings = event.settings
        assert isinstance(settings, MqttSettings)
        broker = settings.broker()
        if broker is None:
            return None
        from syncd_mqtt.link import Link

        topic = f"syncd/v1/{event.settings.project}/{event.task}/{event.node}/heartbeat"
        return self._attached(Link(broker, topic, event.node))

    @hookimpl
    def heartbeat(self, event: Heartbeat) -> None:
        if self._link:
            self._link.offer(event.body)

    @asynccontextmanager
    async def _attached(self, link: Link) -> AsyncIterator[None]:
        self._link = link
        try:
            async with link:
                yield
        finally:
            self._link = None
