"""Keys expire or are rotated while a checkpoint goes up: new ones are fetched from where they come from, and it goes on.

Real temporary keys of MinIO's STS; a proxy before it refuses those that a test has revoked, as S3 does.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

from syncd.model.checkpoint import RANGE
from syncd.testing import s3_error
from syncd.testing.servers import Minio
from tests.e2e.conftest import NewNode
from tests.e2e.fake_trainer import state_after, weights
from tests.e2e.helpers import FAKE, Node, Task, until
from tests.faults.between import Between
from tests.faults.scale import ALL, campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PARTS = 6
SIZE = PARTS * RANGE - 1000
UNDER_WAY = 4
_KEY = re.compile(rb"Credential=([^/]+)/")
_PART = re.compile(rb"PUT \S+partNumber=(\d+)")
Keys = dict[str, str]


class Bouncer:
    """Refuses keys that were revoked; `at` says after how many parts those in use are."""

    def __init__(self, proxy: Between) -> None:
        self.revoked: set[str] = set()
        self.at: int | None = None
        self.sent: list[int] = []
        self.refused: list[int] = []
        self.others_refused = 0
        self.on_revoked: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        proxy.proxy.judge = self._judge

    def _judge(self, head: bytes) -> bytes | None:
        key, part = _KEY.search(head), _PART.match(head)
        said = key[1].decode() if key else ""
        if part and self.at is not None and len(self.sent) == self.at:
            self.at = None
            self.revoked.add(said)
            self.on_revoked()
        if said in self.revoked:
            if part:
                self.refused.append(int(part[1]))
            else:
                self.others_refused += 1
            return s3_error(400, "ExpiredToken")
        if part:
            self.sent.append(int(part[1]))
        return None


@pytest.fixture
def bouncer(between: Between) -> Bouncer:
    return Bouncer(between)


@pytest.fixture
def mint(minio: Minio) -> Iterator[Callable[[], Keys]]:
    """Make temporary keys."""
    sts = botocore.session.Session().create_client(
        "sts",
        region_name="us-east-1",
        endpoint_url=minio.endpoint,
        aws_access_key_id=minio.key_id,
        aws_secret_access_key=minio.secret,
        config=Config(proxies={}),
    )

    def new() -> Keys:
        made = sts.assume_role(RoleArn="arn:aws:iam::1:role/x", RoleSessionName="syncd", DurationSeconds=900)
        return {name: made["Credentials"][name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")}

    yield new
    sts.close()


class Agent:
    """What a container's platform serves at `AWS_CONTAINER_CREDENTIALS_FULL_URI`; `lifetime`: seconds that it promises."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.lifetime, self.asked = keys, 3600.0, 0
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                agent.asked += 1
                data = json.dumps(agent.document()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{self._server.server_address[1]}/keys"}

    def document(self) -> dict[str, str]:
        end = datetime.now(UTC) + timedelta(seconds=self.lifetime)
        return {
            "AccessKeyId": self.keys["AccessKeyId"],
            "SecretAccessKey": self.keys["SecretAccessKey"],
            "Token": self.keys["SessionToken"],
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def __enter__(self) -> "Agent":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def profile(path: Path, keys: Keys) -> dict[str, str]:
    """A credentials file, replaced whole; the environment that names it."""
    names = {"aws_access_key_id": "AccessKeyId", "aws_secret_access_key": "SecretAccessKey"}
    lines = [f"{name} = {keys[of]}" for name, of in (names | {"aws_session_token": "SessionToken"}).items()]
    new = path.with_suffix(".new")
    new.write_text("\n".join(["[default]", *lines]) + "\n")
    new.replace(path)
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path)}


def files(directory: Path, keys: Keys) -> dict[str, str]:
    """One file for each of the three, as a mounted secret has them: replaced by one link. The environment."""
    generation = directory / f"..{time.monotonic_ns()}"
    generation.mkdir(parents=True)
    names = {
        "AWS_ACCESS_KEY_ID": "AccessKeyId",
        "AWS_SECRET_ACCESS_KEY": "SecretAccessKey",
        "AWS_SESSION_TOKEN": "SessionToken",
    }
    for name, of in names.items():
        (generation / name).write_text(keys[of])
    link = directory / "..new"
    link.symlink_to(generation.name)
    link.replace(directory / "..data")
    return {f"{name}_FILE": str(directory / "..data" / name) for name in names}


def node_with(new_node: NewNode, task: Task, between: Between, env: dict[str, str]) -> Node:
    node = new_node(task, AWS_ENDPOINT_URL_S3=between.endpoint, SYNCD_MEMORY_BUDGET="128MiB", **env)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del node.settings[name]
    return node


def check(task: Task, node: Node, bouncer: Bouncer) -> None:
    """The upload went on where it was: nothing but what was under way had been sent in vain."""
    print(f"parts sent {bouncer.sent}, refused {bouncer.refused}, other requests refused {bouncer.others_refused}")
    assert sorted(bouncer.sent) == list(range(1, PARTS + 1)), "each part is sent once with keys that are good"
    assert 1 <= len(bouncer.refused) <= UNDER_WAY
    assert [event["step"] for event in node.events("checkpoint_committed")] == [1]
    assert not node.events("checkpoint_torn")
    assert (task.restore() / "weights.bin").read_bytes() == weights(state_after(1), SIZE)
    task.verify()


TRAINER = [*FAKE, "--steps", "1", "--size", f"{SIZE}", "--no-final"]


SOURCES = ["a container's agent", "a profile's file", "files of a mounted secret"]


@pytest.mark.parametrize("source", SOURCES if ALL else SOURCES[:1])
def test_keys_that_end_in_the_midst_of_a_file_are_replaced_and_it_goes_on(
    s3_task: Task, new_node: NewNode, between: Between, bouncer: Bouncer, mint: Callable[[], Keys], tmp_path: Path,
    source: str,
) -> None:  # fmt: skip
    old, new = mint(), mint()
    with Agent(old) as agent:
        place = tmp_path / "keys"
        give: Callable[[Keys], dict[str, str]] = {
            "a container's agent": lambda keys: (setattr(agent, "keys", keys), agent.env)[1],
            "a profile's file": lambda keys: profile(place, keys),
            "files of a mounted secret": lambda keys: files(place, keys),
        }[source]
        node = node_with(new_node, s3_task, between, give(old))
        bouncer.at, bouncer.on_revoked = 2, lambda: give(new) and None
        assert node.run(TRAINER).code(90) == 0
    check(s3_task, node, bouncer)


def test_keys_that_stay_expired_are_waited_for(
    s3_task: Task, new_node: NewNode, between: Between, bouncer: Bouncer, mint: Callable[[], Keys], tmp_path: Path
) -> None:
    old, place = mint(), tmp_path / "keys"
    node = node_with(new_node, s3_task, between, profile(place, old))
    bouncer.at = 2
    life = node.run(TRAINER)
    away = until(lambda: node.events("store_away"), "it says that its keys have ended")[0]
    until(lambda: bouncer.others_refused >= 3, "it asks again")
    node.alive(life, "it waits for keys")
    assert "has expired" in away["why"]
    assert old["SecretAccessKey"] not in life.text
    assert old["SessionToken"] not in life.text
    assert not node.events("checkpoint_committed")
    profile(place, mint())
    assert life.code(90) == 0
    assert node.events("store_back")
    check(s3_task, node, bouncer)


@campaign
def test_keys_that_are_always_about_to_end_do(
    s3_task: Task, new_node: NewNode, between: Between, bouncer: Bouncer, mint: Callable[[], Keys]
) -> None:
    """An agent that promises seconds is asked for each request, and what it gives is used."""
    with Agent(mint()) as agent:
        agent.lifetime = 5.0
        node = node_with(new_node, s3_task, between, agent.env)
        assert node.run(TRAINER).code(90) == 0
        print(f"the agent was asked {agent.asked} times")
    assert sorted(bouncer.sent) == list(range(1, PARTS + 1))
    assert not bouncer.refused
    s3_task.verify()
