"""Heartbeats reach a real broker when there is one, and delay nothing when there is none."""

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from syncd_mqtt import Mqtt, link
from syncd_mqtt.link import Link
from syncd_mqtt.settings import Broker, MqttSettings, parse

from syncd.config import Settings, knobs, load, make_table
from syncd.errors import ConfigError
from syncd.hooks import Attach, Heartbeat
from syncd.hooks.emit import attached, emit
from syncd.hooks.loading import Plugins
from syncd.hooks.loading import load as load_plugins
from syncd.testing.servers import Mosquitto

CANARY = "c4nary-s3cret"
TOPIC = "syncd/v1/default/run/node-1/heartbeat"
TABLE = make_table([("mqtt", MqttSettings)])


def read(tmp_path: Path, **environ: str) -> Settings:
    return load(TABLE, environ=environ, directory=tmp_path)


@asynccontextmanager
async def running(tmp_path: Path, **environ: str) -> AsyncIterator[Plugins]:
    """The plugin as the daemon runs it, with these settings."""
    plugins = load_plugins(extra={"mqtt": Mqtt}, entry_points=False)
    async with attached(plugins, Attach(read(tmp_path, **environ), "run", 1, "node-1")):
        yield plugins
    assert not plugins.failures


async def beat(plugins: Plugins, **body: object) -> None:
    await emit(plugins, "heartbeat", Heartbeat(body))


@asynccontextmanager
async def linked(port: int, *, tls: bool = False) -> AsyncIterator[Link]:
    """A link that tries again quickly."""
    async with Link(Broker("127.0.0.1", port, tls), TOPIC, "node-1", first=0.05, longest=0.2) as made:
        yield made


# ---- with a broker


async def test_a_heartbeat_arrives_under_project_task_and_node(
    tmp_path: Path, broker: Mosquitto, listening: Any
) -> None:
    broker.start()
    async with listening(broker) as listener, running(tmp_path, MQTT_URL=broker.url) as plugins:
        await beat(plugins, seq=1, state="training")
        message = await listener.next()
    assert str(message.topic) == TOPIC
    assert json.loads(message.payload) == {"seq": 1, "state": "training"}
    assert (message.qos, message.retain) == (0, False)


async def test_a_heartbeat_is_not_retained(tmp_path: Path, broker: Mosquitto, listening: Any) -> None:
    broker.start()
    async with listening(broker) as listener, running(tmp_path, SYNCD_MQTT_URL=broker.url) as plugins:
        await beat(plugins, seq=1)
        await listener.next()
    async with listening(broker) as late:
        with pytest.raises(TimeoutError):
            await late.next(0.2)


async def test_the_last_heartbeat_before_the_stop_arrives(tmp_path: Path, broker: Mosquitto, listening: Any) -> None:
    broker.start()
    async with listening(broker) as listener:
        async with running(tmp_path, MQTT_URL=broker.url) as plugins:
            await beat(plugins, seq=1)
            await listener.next()
            await beat(plugins, seq=2, state="done")
        assert json.loads((await listener.next()).payload)["seq"] == 2


async def test_a_broker_that_comes_later_gets_the_newest_heartbeat_only(broker: Mosquitto, listening: Any) -> None:
    async with linked(broker.port) as made:
        for seq in range(5):
            made.offer({"seq": seq})
            await asyncio.sleep(0.02)
        await asyncio.to_thread(broker.start)
        async with listening(broker) as listener:
            made.offer({"seq": 5})
            seen = json.loads((await listener.next()).payload)["seq"]
            if seen == 4:  # the link was there before the listener: what it left is retained
                seen = json.loads((await listener.next()).payload)["seq"]
            assert seen == 5


async def test_a_heartbeat_waits_for_the_broker(broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    async with linked(broker.port) as made:
        made.offer({"seq": 1})
        await asyncio.sleep(0.3)
        await asyncio.to_thread(broker.start)
        async with asyncio.timeout(10):
            await made._idle.wait()
    told = [
        record.message for record in caplog.records if record.name == "syncd.mqtt" and record.levelname == "WARNING"
    ]
    assert told == ["mqtt_away"]  # once, not at each attempt


async def test_after_a_restart_of_the_broker_heartbeats_arrive_again(broker: Mosquitto, listening: Any) -> None:
    broker.start()
    async with linked(broker.port) as made:
        async with listening(broker) as listener:
            made.offer({"seq": 1})
            await listener.next()
        await asyncio.to_thread(broker.kill)
        made.offer({"seq": 2})
        await asyncio.sleep(0.1)
        await asyncio.to_thread(broker.start)
        async with listening(broker) as listener:
            async with asyncio.timeout(10):
                while True:
                    made.offer({"seq": 3})
                    try:
                        assert json.loads((await listener.next(0.2)).payload)["seq"] in (2, 3)
                        break
                    except TimeoutError:
                        continue


async def test_username_and_password_are_used(tmp_path: Path, listening: Any) -> None:
    password = tmp_path / "passwords"
    password.write_text(f"syncd:{CANARY}\n")
    password.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", str(password)], check=True)
    lines = ("allow_anonymous false", f"password_file {password}", "user root")
    (tmp_path / "secret").write_text(CANARY + "\n")
    with Mosquitto(tmp_path / "broker", lines=lines) as server:
        ways = (
            {"MQTT_URL": server.url.replace("//", f"//syncd:{CANARY}@")},
            {"MQTT_URL": server.url, "MQTT_USERNAME": "syncd", "MQTT_PASSWORD": CANARY},
            {"MQTT_URL": server.url, "MQTT_USERNAME": "syncd", "MQTT_PASSWORD_FILE": str(tmp_path / "secret")},
        )
        for way in ways:
            plugin = Mqtt()
            plugins = load_plugins(extra={"mqtt": plugin}, entry_points=False)
            async with attached(plugins, Attach(read(tmp_path, **way), "run", 1, "n")):
                assert plugin._link
                await beat(plugins, seq=1)
                async with asyncio.timeout(10):
                    await plugin._link._idle.wait()


async def test_a_certificate_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            *subject,
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    with Mosquitto(tmp_path / "broker", lines=(f"certfile {certificate}", f"keyfile {key}", "user root")) as server:
        async with linked(server.port, tls=True) as made:
            made.offer({"seq": 1})
            await asyncio.sleep(0.5)
            assert not made._idle.is_set()
        assert "certificate verify failed" in str([getattr(record, "fields", "") for record in caplog.records])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with linked(server.port, tls=True) as made:
            made.offer({"seq": 1})
            async with asyncio.timeout(10):
                await made._idle.wait()


# ---- without one


@pytest.mark.parametrize("kind", ["silent", "black_hole"])
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
async def test_a_broker_that_never_answers_delays_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, scheme: str
) -> None:
    port = request.getfixturevalue(kind)
    began = time.monotonic()
    async with running(tmp_path, MQTT_URL=f"{scheme}://127.0.0.1:{port}") as plugins:
        await asyncio.sleep(0.2)
        for seq in range(100):
            await beat(plugins, seq=seq)
        offered = time.monotonic()
    stopped = time.monotonic()
    assert offered - began < 1.0
    assert stopped - offered < 1.0


async def test_a_broker_that_falls_silent_delays_no_stop(tmp_path: Path, broker: Mosquitto, listening: Any) -> None:
    broker.start()
    async with running(tmp_path, MQTT_URL=broker.url) as plugins:
        async with listening(broker) as listener:
            await beat(plugins, seq=1)
            await listener.next()
        broker.pause()
        try:
            for seq in range(100):
                await beat(plugins, seq=seq, filler="x" * 100_000)
                await asyncio.sleep(0)
            began = time.monotonic()
        finally:
            asyncio.get_running_loop().call_later(3, broker.resume)
    assert time.monotonic() - began < 1.0


async def test_a_process_ends_at_once_though_the_broker_never_answers(silent: int) -> None:
    script = f"""
import asyncio
from syncd_mqtt.link import Link
from syncd_mqtt.settings import Broker

async def main():
    async with Link(Broker("127.0.0.1", {silent}, True), "t", "n") as link:
        link.offer({{"seq": 1}})
        await asyncio.sleep(0.3)
    print("left", flush=True)

asyncio.run(main())
"""
    began = time.monotonic()
    told = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await told.communicate()
    assert (told.returncode, out, err) == (0, b"left\n", b"")
    assert time.monotonic() - began < 4.0


async def test_without_a_broker_nothing_is_done(tmp_path: Path) -> None:
    async with running(tmp_path) as plugins:
        await beat(plugins, seq=1)


async def test_whatever_the_client_raises_is_tried_again(monkeypatch: pytest.MonkeyPatch, broker: Mosquitto) -> None:
    broker.start()
    made = Link(Broker("127.0.0.1", broker.port, tls=False), TOPIC, "n", first=0.01, longest=0.02)
    tries = []
    real = made._client

    def client(context: ssl.SSLContext | None) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError("a mistake in the client")
        return real(context)

    monkeypatch.setattr(made, "_client", client)
    async with made:
        made.offer({"seq": 1})
        async with asyncio.timeout(10):
            await made._idle.wait()
    assert len(tries) == 3


# ---- settings


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://host", ("host", 1883, False)),
        ("mqtts://host", ("host", 8883, True)),
        ("mqtt://host:1/", ("host", 1, False)),
        ("mqtt://[::1]:2", ("::1", 2, False)),
        ("mqtt://u%40:p%3a@host", ("host", 1883, False)),
    ],
)
def test_a_broker_is_read_from_its_url(tmp_path: Path, url: str, broker: tuple[str, int, bool]) -> None:
    settings = read(tmp_path, MQTT_URL=url)
    assert isinstance(settings, MqttSettings)
    found = settings.broker()
    assert found
    assert (found.host, found.port, found.tls) == broker
    if "%" in url:
        assert (found.username, found.password and found.password.get_secret_value()) == ("u@", "p:")


def test_names_of_their_own_count_before_the_urls(tmp_path: Path) -> None:
    settings = read(tmp_path, MQTT_URL="mqtt://a:b@host", MQTT_USERNAME="c")
    assert isinstance(settings, MqttSettings)
    found = settings.broker()
    assert found
    assert found.username == "c"


@pytest.mark.parametrize(
    "url",
    [
        f"http://{CANARY}@host",
        "host:1883",
        f"mqtt://u:{CANARY}@host:port",
        "mqtt://",
        "mqtt://host/topic",
        f"mqtt://u:{CANARY}@[x",
        f"u:{CANARY}@host",
    ],
)
def test_a_wrong_url_is_told_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://host:1883 or mqtts://host:8883 is expected") as error:
        read(tmp_path, MQTT_URL=url)
    assert CANARY not in str(error.value)


def test_a_password_in_the_url_is_masked_everywhere(tmp_path: Path) -> None:
    settings = read(tmp_path, MQTT_URL=f"mqtts://user:{CANARY}@host:1")
    assert isinstance(settings, MqttSettings)
    assert settings.mqtt_url
    line = next(line for line in knobs(TABLE) if line.name == "mqtt_url")
    assert line.show(settings.mqtt_url) == line.plain(settings.mqtt_url) == "mqtts://********@host:1"
    for text in (
        repr(settings),
        settings.model_dump_json(),
        repr(settings.model_dump()),
        repr(parse(settings.mqtt_url)),
    ):
        assert CANARY not in text


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="everybody can read") as error:
        load(TABLE, environ={}, directory=tmp_path, flags={"mqtt_url": f"mqtt://u:{CANARY}@host"})
    assert CANARY not in str(error.value)
    load(TABLE, environ={}, directory=tmp_path, flags={"mqtt_url": "mqtt://host"})


def test_without_the_client_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd_mqtt.settings.find_spec", lambda name: None)
    read(tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'syncd\[mqtt\]'"):
        read(tmp_path, MQTT_URL="mqtt://host")


def test_the_stop_fits_into_a_second() -> None:
    assert link.FLUSH + 2 * link.LEAVE <= 1.0
