"""Which broker, and who we are there."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, Secret, SecretStr

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class BrokerUrl(Secret[str]):
    """A URL that shows itself without its userinfo."""

    def _display(self) -> str:
        return re.sub(r"//.*@", "//********@", self.get_secret_value())


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's address and our name there; `tls`: its certificate is verified."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: SecretStr | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse(url: BrokerUrl) -> Broker:
    """`mqtt://[user[:password]@]host[:port]`, `mqtts://` with TLS. Raises ValueError without naming the userinfo."""
    wrong = ValueError("mqtt://host:1883 or mqtts://host:8883 is expected")
    try:
        parts = urlsplit(url.get_secret_value())
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong
    return Broker(
        parts.hostname,
        port or _PORTS[parts.scheme],
        parts.scheme == "mqtts",
        unquote(parts.username) if parts.username else None,
        SecretStr(unquote(parts.password)) if parts.password else None,
    )


def _check(url: BrokerUrl) -> BrokerUrl:
    parse(url)
    if not find_spec("aiomqtt"):
        raise ValueError("MQTT needs the mqtt extra: pip install 'syncd[mqtt]'")
    return url


def _named(name: str) -> AliasChoices:
    return AliasChoices(name, name.upper())


class MqttSettings(BaseModel):
    """The fields that join the settings table."""

    mqtt_url: Annotated[BrokerUrl, AfterValidator(_check)] | None = Field(
        default=None,
        validation_alias=_named("mqtt_url"),
        description="broker for heartbeats: mqtt://host:1883, or mqtts://host:8883 with TLS (SSL_CERT_FILE: own CA)",
    )
    mqtt_username: str | None = Field(
        default=None, validation_alias=_named("mqtt_username"), description="user name at the broker"
    )
    mqtt_password: SecretStr | None = Field(
        default=None, validation_alias=_named("mqtt_password"), description="password at the broker"
    )

    def broker(self) -> Broker | None:
        """The broker, None without MQTT_URL. Username and password of their own count before the URL's."""
        if self.mqtt_url is None:
            return None
        found = parse(self.mqtt_url)
        username, password = self.mqtt_username or found.username, self.mqtt_password or found.password
        return Broker(found.host, found.port, found.tls, username, password)
