"""The whole daemon beside a real MinIO: memory, what a kill costs, latency, a slow link, the trainer's loss.

`python -m tests.bench.daemon`, or `make bench`, which runs it after the transfers. Asserts nothing about time: it prints
each row beside its target. Everything lies in a temporary directory (of `TMPDIR`) that is removed at the end.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ByteSize, TypeAdapter

from syncd.model.checkpoint import RANGE
from syncd.testing import FaultProxy
from syncd.testing.servers import Minio, find_minio
from tests.s3.sink import Sink

ROOT = Path(__file__).parents[2]
SYNCD = [sys.executable, "-m", "syncd"]
LINK = 20e6 / 8
"""Bytes a second of the slow link."""
MTU, HEADERS = 1500, 52 + 14
"""Bytes of an Ethernet packet's payload, and of TCP's, IP's (with time stamps) and Ethernet's headers around it."""
NEAR, FAR = "192.0.2.1", "192.0.2.2"
"""Its two ends (RFC 5737)."""
SAVES = 60
"""Checkpoints whose latency is measured: p99 is then the slowest."""


class Node:
    """One disk, one daemon, one bucket's prefix."""

    def __init__(self, home: Path, server: Mapping[str, str], **env: str) -> None:
        self.home, self.root = home, home / "root"
        self.root.mkdir(parents=True)
        base = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"}
        about = {"SYNCD_ROOT": str(self.root), "SYNCD_STORE": "s3://bench/runs", "SYNCD_LOG_FORMAT": "json"}
        self.env = base | dict(server) | about | {"SYNCD_TASK": "bench"} | env
        self.log = home / "log"

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """`syncd run -- command`, ended with the context."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*SYNCD, "run", "--", *command], env=self.env, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def events(self, name: str) -> list[dict[str, object]]:
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == name:
                    found.append(event)
        return found

    def until(self, name: str, count: int = 1) -> None:
        """Wait until an event has happened so often."""
        wait(lambda: len(self.events(name)) >= count, name)

    def save(self, step: int, size: int, fill: Callable[[int], bytes] = os.urandom) -> Path:
        """A checkpoint of one file, without its marker."""
        path = self.root / f"checkpoint-{step}"
        path.mkdir()
        with (path / "model.bin").open("wb") as file:
            for offset in range(0, size, RANGE):
                file.write(fill(min(RANGE, size - offset)))
        return path


def wait(condition: Callable[[], object], what: str, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def row(what: str, found: str, target: str) -> None:
    print(f"  {what}: {found} (target {target})", flush=True)


def peak(pid: int) -> float:
    """The most memory that a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def memory_and_kill(home: Path, minio: Minio, size: int) -> None:
    """RSS while a large file goes up and comes down; what a SIGKILL of the daemon in its midst costs."""
    with first_use(home, "a") as directory:
        node = Node(directory, minio.env)
        (node.save(1, size) / "_SUCCESS").touch()
        asyncio.run(_two_lives(node, minio, size))
    with first_use(home, "b") as directory:
        node = Node(directory, minio.env)
        highest = 0.0
        with node.running("sleep", "1") as process:
            deadline = time.monotonic() + 600
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(OSError, StopIteration):
                    highest = max(highest, peak(process.pid))
                time.sleep(0.05)
        restored = node.root / "checkpoint-1" / "model.bin"
        if not restored.exists() or restored.stat().st_size != size:
            raise SystemExit(f"nothing was restored: {node.log.read_text()[-500:]}")
        row(f"RSS of the daemon while {size >> 20} MiB come down", f"{highest:.0f} MiB", "at most 128")


async def _two_lives(node: Node, minio: Minio, size: int) -> None:
    """Kill the daemon once half is through a proxy that counts; let the next one finish."""
    async with FaultProxy(minio.port) as proxy:
        node.env["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        highest = 0.0
        with node.running("sleep", "600") as process:
            half = lambda: proxy.bytes["there"] >= size // 2 or process.poll() is not None  # noqa: E731
            await asyncio.to_thread(wait, half, "half of the upload")
            highest = peak(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        with node.running("sleep", "600") as process:
            await asyncio.to_thread(node.until, "checkpoint_committed")
            highest = max(highest, peak(process.pid))
        again = (proxy.bytes["there"] - size) / (1 << 20)
    row(f"RSS of the daemon while {size >> 20} MiB go up", f"{highest:.0f} MiB", "at most 128")
    row(
        f"bytes sent again after SIGKILL in the midst of {size >> 20} MiB",
        f"{again:.1f} MiB",
        "at most 4 parts: 64 MiB",
    )


def latency(home: Path, minio: Minio, *, events: bool) -> None:
    """Seconds from the marker to the first byte of the checkpoint's first file on the wire."""
    asyncio.run(_latency(home, minio, events))


async def _latency(home: Path, minio: Minio, events: bool) -> None:
    seen: dict[str, float] = {}

    def watch(way: str, data: bytes) -> None:
        for line in data.split(b"\r\n") if way == "there" else ():
            if line.startswith(b"PUT ") and b"/checkpoint-" in line:
                seen.setdefault(line.split(b"/checkpoint-")[1].split(b"/")[0].decode(), time.monotonic())

    waited = []
    with first_use(home, f"latency-{events}") as directory:
        async with FaultProxy(minio.port) as proxy:
            proxy.watch = watch
            env = {
                "SYNCD_WATCH_EVENTS": str(int(events)),
                "AWS_ENDPOINT_URL_S3": proxy.endpoint,
                "SYNCD_SCAN_INTERVAL": "2",
            }
            node = Node(directory, minio.env, SYNCD_TASK=f"latency-{events}", **env)
            with node.running("sleep", "600"):
                await asyncio.to_thread(node.until, "trainer_started")
                for step in range(1, (SAVES if events else 10) + 1):
                    path = await asyncio.to_thread(node.save, step, 100_000)
                    await asyncio.sleep(0.15)
                    marked = time.monotonic()
                    (path / "_SUCCESS").touch()
                    while str(step) not in seen:
                        await asyncio.sleep(0.001)
                        if time.monotonic() > marked + 60:
                            raise SystemExit(f"checkpoint-{step} was not sent: {node.log.read_text()[-500:]}")
                    waited.append(seen[str(step)] - marked)
                    # Saves are minutes apart in life: the commit and its cleaning up are over before the next.
                    await asyncio.to_thread(node.until, "checkpoint_committed", step)
                    await asyncio.sleep(0.3)
    middle, worst = statistics.median(waited), sorted(waited)[min(len(waited) - 1, int(0.99 * len(waited)))]
    how, target = ("with events", "p99 under 100 ms") if events else ("without, scans every 2 s", "under one interval")
    row(
        f"marker to first byte {how}",
        f"median {middle * 1e3:.0f} ms, p99 {worst * 1e3:.0f} ms of {len(waited)}",
        target,
    )


def slow_link(size: int) -> None:
    """Goodput through 20 Mbit/s: over a cable between two network namespaces. Needs root."""
    command = ["unshare", "-n", sys.executable, "-m", "tests.bench.daemon", "--on-slow-link", str(size)]
    if os.geteuid() or not shutil.which("tc") or not shutil.which("unshare"):
        print("  goodput at 20 Mbit/s: not measured, needs root, unshare and tc")
        return
    try:
        subprocess.run(command, check=True, cwd=ROOT)
    except subprocess.CalledProcessError as error:  # root of a container that may not make namespaces, as a rule
        print(f"  goodput at 20 Mbit/s: not measured ({error})")


class Far(Minio):
    """A MinIO at the other end of a cable, in a network namespace that the process `holder` keeps."""

    def __init__(self, directory: Path, holder: int) -> None:
        super().__init__(directory)
        self.holder = holder

    @property
    def endpoint(self) -> str:
        return f"http://{FAR}:{self.port}"

    def command(self) -> list[str]:
        address = f"127.0.0.1:{self.port}"
        there = [f"{FAR}:{self.port}" if word == address else word for word in super().command()]
        return ["nsenter", "-t", str(self.holder), "-n", *there]


@contextmanager
def cable() -> Iterator[int]:
    """A pair of network interfaces, ours slow on its way out, the other in a namespace of its own; who holds that one.

    Not the loopback: there the answers' acknowledgements would take their part of the same 20 Mbit/s.
    """
    holder = subprocess.Popen(["unshare", "-n", "sleep", "3600"])
    try:
        mine = os.readlink("/proc/self/ns/net")
        wait(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != mine, "another network namespace")
        far = ["nsenter", "-t", str(holder.pid), "-n"]
        # No large segments: their headers would be counted once for many packets.
        up = ["mtu", str(MTU), "gso_max_segs", "1", "up"]
        for command in (
            ["ip", "link", "set", "dev", "lo", "up"],
            [*far, "ip", "link", "set", "dev", "lo", "up"],
            ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(holder.pid)],
            ["ip", "address", "add", f"{NEAR}/24", "dev", "near"],
            [*far, "ip", "address", "add", f"{FAR}/24", "dev", "far"],
            ["ip", "link", "set", "dev", "near", *up],
            [*far, "ip", "link", "set", "dev", "far", *up],
            ["tc", "qdisc", "add", "dev", "near", "root", "tbf", "rate", "20mbit", "burst", "16kb", "latency", "400ms"],
        ):
            subprocess.run(command, check=True)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def on_slow_link(size: int) -> None:
    """`slow_link`'s other half, within the namespace."""
    with (
        cable() as holder,
        tempfile.TemporaryDirectory(prefix="syncd-bench-") as made,
        Far(Path(made, "minio"), holder) as minio,
    ):
        minio.make_bucket("bench")
        node = Node(Path(made, "node"), minio.env)
        (node.save(1, size) / "_SUCCESS").touch()
        with node.running("sleep", "600"):
            node.until("checkpoint_committed")
        seconds = float(str(node.events("checkpoint_committed")[0]["seconds"]))
    possible = LINK * (MTU - 52) / (MTU + HEADERS - 52)
    reached = 100 * size / seconds / possible
    row("goodput at 20 Mbit/s, sums and commit included", f"{reached:.1f} % of what TCP/IP leaves", "at least 99 %")


TRAINER = """
import json, sys, time, torch
torch.set_num_threads(2)
a = torch.randn(600, 600)
def step():
    b = a
    for _ in range(8):
        b = torch.tanh(b @ a)
for _ in range(30): step()
ends = [time.monotonic()]
print("begun", flush=True)
import threading
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
while not stop.is_set():
    step()
    ends.append(time.monotonic())
print(json.dumps(ends))
"""
"""A trainer of two threads; says when each step ended, by the clock that all processes share."""
WINDOW = 4.0
"""Seconds of steps without an upload, before and after each with one: the machine's neighbours come and go."""


def interference(home: Path, size: int, rounds: int, limit: str) -> None:
    """Seconds that a trainer of two threads loses to the upload of a GiB; the server here takes it at next to no cost."""
    uploads: list[tuple[float, float]] = []
    with Sink(home / "sink") as sink, first_use(home, f"trainer-{limit}") as directory:
        node = Node(directory, sink.env, SYNCD_TASK=f"trainer-{limit}", SYNCD_UPLOAD_LIMIT=limit)
        with node.running("sleep", "600"):
            node.until("trainer_started")
            command = [sys.executable, "-c", TRAINER]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
                assert trainer.stdout
                trainer.stdout.readline()
                for step in range(1, rounds + 1):
                    path = node.save(step, size)
                    os.sync()  # the disk's work is the trainer's own, with or without us
                    time.sleep(WINDOW)
                    began = time.monotonic()
                    (path / "_SUCCESS").touch()
                    node.until("checkpoint_committed", step)
                    uploads.append((began, time.monotonic()))
                    time.sleep(WINDOW)
                ends = json.loads(trainer.communicate("")[0])
    steps = list(itertools.pairwise(ends))
    lost, worst = [], []
    for began, ended in uploads:
        idle = [e - s for s, e in steps if (began - WINDOW < s and e <= began) or (ended <= s and e < ended + WINDOW)]
        busy = [e - s for s, e in steps if began < e and s < ended]
        done = sum((min(e, ended) - max(s, began)) / (e - s) for s, e in steps if began < e and s < ended)
        lost.append((ended - began - done * statistics.mean(idle)) / (size / (1 << 30)))
        worst.append(max(busy) / max(idle))
    how = f"sent at {limit} a second" if limit != "0" else "sent as fast as it goes"
    found = f"median {statistics.median(lost):.2f} ({min(lost):.2f} to {max(lost):.2f}) of {rounds}"
    row(f"seconds that a trainer of two threads loses for a GiB, {how}", found, "at most 0.6")
    found = f"{statistics.median(worst):.1f} times ({min(worst):.1f} to {max(worst):.1f})"
    row("worst step beside the worst without an upload", found, "at most 3")


@contextmanager
def first_use(home: Path, name: str) -> Iterator[Path]:
    """A directory that is gone afterwards: a few of these are larger than all else."""
    path = home / name
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="daemon", description=__doc__)
    parser.add_argument("--size", default="4GiB", help="the large file (default 4GiB)")
    parser.add_argument("--rounds", type=int, default=9, help="of the trainer beside an upload (default 9)")
    parser.add_argument("--on-slow-link", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if asked.on_slow_link:
        on_slow_link(asked.on_slow_link)
        return
    if not find_minio():
        raise SystemExit("MinIO is not here: make minio")
    size = int(TypeAdapter(ByteSize).validate_python(asked.size))
    print("the daemon beside MinIO")
    with tempfile.TemporaryDirectory(prefix="syncd-bench-") as made, Minio(Path(made, "minio")) as minio:
        minio.make_bucket("bench")
        home = Path(made)
        memory_and_kill(home, minio, size)
        latency(home, minio, events=True)
        latency(home, minio, events=False)
        for limit in ("0", "100MB"):
            interference(home, min(size, 1 << 29), asked.rounds, limit)
    slow_link(128 << 20)


if __name__ == "__main__":
    main()
