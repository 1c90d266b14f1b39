"""I10: credentials appear in nothing that anybody but syncd reads."""

import secrets
from pathlib import Path

import pytest

from syncd.testing.servers import Mosquitto

from .conftest import NewNode
from .helpers import FAKE, SYNCD, Node, Process, Task, until

pytestmark = pytest.mark.slow


def command_lines(node: Node) -> list[bytes]:
    found = []
    for pid in node.pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue
    return found


def everything_on(disk: Path) -> list[bytes]:
    return [path.read_bytes() for path in disk.rglob("*") if path.is_file()]


def test_I10_secrets_are_in_no_output_event_status_object_or_process_listing(
    s3_task: Task, new_node: NewNode, tmp_path: Path
) -> None:
    canaries = {name: f"canary{secrets.token_hex(8)}" for name in ("url", "password", "wrong key")}
    canaries["key"] = s3_task.env["AWS_SECRET_ACCESS_KEY"]
    shown: list[tuple[str, bytes]] = []

    with Mosquitto(tmp_path / "mosquitto") as broker:
        mqtt = {"MQTT_URL": f"mqtt://somebody:{canaries['url']}@{broker.host}:{broker.port}"}
        node = new_node(s3_task, **mqtt, MQTT_PASSWORD=canaries["password"], SYNCD_LOG_LEVEL="debug")
        gate = tmp_path / "gate"
        life = node.run([*FAKE, "--steps", "12", "--every", "4", "--pause", "0.1", "--hold", f"9:{gate}"])

        def look() -> None:
            shown.extend(("process listing", line) for line in command_lines(node))
            shown.extend((path.name, read(path)) for path in (node.root / ".syncd").glob("*.json*"))

        for what in ('"mqtt_connected"', '"checkpoint_committed"', '"mqtt_away"'):
            if "away" in what:
                broker.stop()  # errors that name the broker are told too
            until(lambda what=what: look() or what in life.text, f"{what} is told", 30)
        gate.touch()
        assert life.code() == 0
    shown += [("disk", data) for data in everything_on(node.root)]
    shown += [("store", s3_task.get(key)) for key in s3_task.listing()]

    def said(process: Process, code: int, what: str) -> None:
        assert process.code(30) == code, process.text
        shown.append((what, process.text.encode()))

    said(life, 0, "output")
    said(node.run(FAKE, AWS_SECRET_ACCESS_KEY=canaries["wrong key"]), 78, "refused by the store")
    said(node.run(FAKE, MQTT_URL=f"mqtt://x:{canaries['url']}@:broken"), 78, "a broken URL")
    said(node.run(FAKE, SYNCD_STORE=f"s3://key:{canaries['url']}@bucket/x"), 78, "credentials in the store's URL")
    for verb in (
        ["config"],
        ["config", "--json"],
        ["status", "--json"],
        ["ls"],
        ["verify"],
        ["plugins"],
        ["doctor", "--bytes", "0"],
    ):
        process = node.start([SYNCD, *verb])
        process.code(30)
        shown.append((" ".join(verb), process.text.encode()))

    print(f"looked at {len(shown)} texts, {sum(len(data) for _, data in shown)} bytes")
    assert any(what == "process listing" for what, _ in shown)
    assert any(what == "store" for what, _ in shown)
    leaks = {(what, name) for what, data in shown for name, value in canaries.items() if value.encode() in data}
    assert leaks == set()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
