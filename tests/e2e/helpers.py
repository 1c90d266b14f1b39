"""Nodes with disks of their own, tasks in real stores, and looking at both from outside, as an operator would."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import botocore.session
from botocore.config import Config

from syncd.testing.servers import Minio

REPOSITORY = Path(__file__).parents[2]
SYNCD = str(Path(sys.executable).with_name("syncd"))
FAKE = [sys.executable, "-S", str(Path(__file__).with_name("fake_trainer.py"))]
REAL = [sys.executable, "-m", "trainer.sft", "--max_steps", "120", "--save_steps", "20", "--no_eval"]
QUICK = {"SYNCD_HEARTBEAT": "1", "SYNCD_SCAN_INTERVAL": "1", "SYNCD_LOG_FORMAT": "json", "WITH_SYNCD_POLL": "0.2"}
MARK = "E2E_NODE"
"""Environment variable by which a node's processes are found, whatever group or session they moved to."""
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """Wait until `condition()` is true; its result. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return result


def environment(**more: str) -> dict[str, str]:
    """Ours without what is meant for syncd or its plugins, and with the trainer's package."""
    ours = ("SYNCD_", "AWS_", "MQTT_", MARK)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", **more}


# ---- stores, seen from outside


class View(Protocol):
    """A store's objects, read without syncd."""

    def listing(self) -> list[str]: ...

    def get(self, key: str) -> bytes: ...


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def listing(self) -> list[str]:
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return sorted(key.as_posix() for key in found if key.parts[0] != ".tmp")

    def get(self, key: str) -> bytes:
        return (self.path / key).read_bytes()


class Bucket:
    def __init__(self, server: Minio, name: str, prefix: str) -> None:
        self.server, self.name, self.prefix = server, name, prefix

    @cached_property
    def client(self) -> Any:
        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.server.endpoint,
            aws_access_key_id=self.server.key_id,
            aws_secret_access_key=self.server.secret,
            config=Config(proxies={}),
        )

    def listing(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix)
        return sorted(each["Key"].removeprefix(self.prefix) for page in pages for each in page.get("Contents", ()))

    def get(self, key: str) -> bytes:
        with self.client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"] as body:
            return bytes(body.read())

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


class Task:
    """One training run in one store."""

    def __init__(self, name: str, env: Mapping[str, str], view: View, home: Path) -> None:
        self.name, self.view, self.home = name, view, home
        self.env = {**env, "SYNCD_TASK": name}

    def syncd(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """One command of the operator, in an empty directory of its own."""
        self.home.mkdir(exist_ok=True)
        return subprocess.run(
            [SYNCD, *args],
            env=environment(**self.env, **{"SYNCD_ROOT": str(self.home), **env}),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def verify(self) -> dict[str, Any]:
        """`syncd verify --deep`, which must find nothing wrong."""
        said = self.syncd("verify", "--deep", "--json")
        document: dict[str, Any] = json.loads(said.stdout)
        assert (said.returncode, document["clean"], document["problems"]) == (0, True, []), said
        return document

    def restore(self, what: str | None = None) -> Path:
        """`syncd restore`; the directory it made."""
        to = self.home / f"restored-{secrets.token_hex(4)}"
        to.mkdir(parents=True)
        said = self.syncd("restore", *([what] if what else []), "--to", str(to), "--json")
        assert said.returncode == 0, said
        return Path(json.loads(said.stdout)["path"])

    def listing(self) -> list[str]:
        top = f"{self.name}/"
        return [key.removeprefix(top) for key in self.view.listing() if key.startswith(top)]

    def get(self, key: str) -> bytes:
        return self.view.get(f"{self.name}/{key}")

    def read(self, key: str) -> Any:
        return json.loads(self.get(key))

    @property
    def attempts(self) -> int:
        return sum(key.endswith("/attempt.json") and key.count("/") == 1 for key in self.listing())

    def line(self, attempt: int) -> list[str]:
        """What an attempt recorded as its resume point and the fallbacks: `attempt-0001/checkpoint-20`."""
        return [item.split(" ")[0] for item in self.read(f"attempt-{attempt:04}/resume.json")["line"]]

    def commits(self, attempt: int) -> list[dict[str, Any]]:
        """The manifests of an attempt that are there, oldest first."""
        prefix = f"attempt-{attempt:04}/manifests/"
        found = [self.read(key) for key in self.listing() if key.startswith(prefix)]
        return sorted(found, key=lambda each: each["number"])

    def events(self, attempt: int) -> list[dict[str, Any]]:
        """The events that the store holds of an attempt."""
        prefix = f"attempt-{attempt:04}/events/"
        data = b"".join(self.get(key) for key in self.listing() if key.startswith(prefix))
        return [json.loads(line) for line in data.splitlines()]


# ---- nodes


class Process:
    """A process tree's head with its output in a file."""

    def __init__(self, head: subprocess.Popen[bytes], log: Path) -> None:
        self.head, self.log = head, log

    @property
    def pid(self) -> int:
        return self.head.pid

    @property
    def ended(self) -> bool:
        return self.head.poll() is not None

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def code(self, seconds: float = 60.0) -> int:
        """Its exit code, within so many seconds."""
        try:
            return self.head.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {seconds} s:\n{self.text[-3000:]}") from None


class Node:
    """A machine: a disk, and processes that die with it. Only processes started here are ever signalled."""

    def __init__(self, name: str, home: Path, task: Task | None = None, **settings: str) -> None:
        self.name, self.home, self.task = name, home, task
        self.root = home / "disk"
        self.root.mkdir(parents=True, exist_ok=True)  # a file system may be mounted there
        self.mark = secrets.token_hex(8)
        self.settings = {**QUICK, **(task.env if task else {}), "SYNCD_NODE": name, **settings}
        self.processes: list[Process] = []

    # what runs here

    def start(self, command: list[str], **env: str) -> Process:
        """Start a process tree of this node in its own session."""
        log = self.home / f"{len(self.processes)}.log"
        both = {**self.settings, "SYNCD_ROOT": str(self.root), **env, MARK: self.mark}
        with log.open("wb") as output:
            head = subprocess.Popen(
                command,
                env=environment(**both),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(Process(head, log))
        return self.processes[-1]

    def run(self, trainer: list[str], **env: str) -> Process:
        return self.start([SYNCD, "run", "--", *trainer], **env)

    def sidecar(self, **env: str) -> Process:
        return self.start([SYNCD, "sidecar"], **env)

    def with_syncd(self, trainer: list[str]) -> Process:
        """The other container: its platform starts it as soon as the script is on the volume; it has no credentials."""
        script = self.root / ".syncd" / "bin" / "with-syncd"
        waiting = f'until [ -x "{script}" ]; do sleep 0.1; done; exec "$@"'
        none = {name: "" for name in self.settings if name.startswith(("AWS_", "SYNCD_STORE"))}
        return self.start(["sh", "-c", waiting, "sh", str(script), *trainer], **none)

    def pids(self) -> list[int]:
        """Every living process of this node."""
        mark = f"{MARK}={self.mark}".encode()
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _marked(path, mark)]

    def tree(self, head: int) -> list[int]:
        """The living processes below `head`, and itself; `syncd run` gives its trainer a session of its own."""
        parents = {pid: _parent(pid) for pid in self.pids()}
        found = {head} & parents.keys()
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def signal(self, number: signal.Signals, pids: list[int] | None = None) -> None:
        """Send to all processes of this node, or to some of them."""
        ours = set(self.pids())
        for pid in ours if pids is None else ours & set(pids):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """As when the machine loses its power: all at once, nobody reacts to another's death."""
        self.freeze()
        while self.pids():
            self.signal(signal.SIGKILL)
            for process in self.processes:
                process.head.poll()
            time.sleep(0.01)
        for process in self.processes:
            process.head.wait(10)

    def vanish(self) -> None:
        """The machine is gone, with its disk."""
        self.kill()
        shutil.rmtree(self.root)

    # what is seen on its disk

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What syncd noted; of one name, or all."""
        try:
            text = (self.root / ".syncd" / "events.jsonl").read_text()
        except FileNotFoundError:
            return []
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if name in (None, line["event"])]

    def committed(self) -> list[int]:
        """The steps that were committed from this disk, in order; `final` has none."""
        return [line["step"] for line in self.events("checkpoint_committed") if line.get("step") is not None]

    def own(self, name: str) -> dict[str, Any] | None:
        """A file of `.syncd/`, None while it is not there."""
        try:
            document: dict[str, Any] = json.loads((self.root / ".syncd" / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return document

    def alive(self, process: Process, what: str) -> None:
        """Fail early, with its words, where a process ended that should be at work."""
        assert not process.ended, f"{what}, but it ended with {process.head.poll()}:\n{process.text[-3000:]}"

    def until_committed(self, process: Process, enough: Callable[[list[int]], bool], what: str) -> list[int]:
        """Wait until the committed steps are `enough`; they."""

        def look() -> list[int]:
            steps = self.committed()
            if enough(steps):
                return steps
            self.alive(process, f"waited until {what}, saw {steps}")
            return []

        return until(look, what, 90)


def _marked(process: Path, mark: bytes) -> bool:
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and mark in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def trace(path: Path, event: str | None = None) -> list[dict[str, Any]]:
    """What a fake trainer noted."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if event in (None, line["event"])]
