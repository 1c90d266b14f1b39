"""What syncd costs while nothing happens: memory and processor time of real processes, printed and held to their bounds."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from syncd.testing.servers import Minio, Mosquitto

IDLE = 30.0
"""Seconds over which an idle daemon's processor time is measured: one heartbeat is within."""
TRIES = 3
"""A busy machine only ever adds to the figure (cold caches, migrations): the least of a few is the daemon's own."""


@contextmanager
def daemon(home: Path, **env: str) -> Iterator[psutil.Process]:
    """A daemon with default settings, one stored checkpoint of 200 files, and a trainer that sleeps."""
    root = home / "root"
    path = root / "checkpoint-1"
    path.mkdir(parents=True)
    for n in range(200):
        (path / f"{n}.bin").write_bytes(os.urandom(1000))
    (path / "_SUCCESS").write_text("")
    base = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "SYNCD_ROOT": str(root),
        "SYNCD_TASK": "idle",
        "SYNCD_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "syncd", "run", "--", "sleep", "600"]
    with (home / "log").open("wb") as log, subprocess.Popen(command, env=base | env, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while "checkpoint_committed" not in (home / "log").read_text():
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def measure(process: psutil.Process) -> tuple[float, float]:
    """RSS in MiB, and percent of one core over `IDLE` seconds."""
    time.sleep(2.0)  # the commit's own work is over
    least = 100.0
    for _ in range(TRIES):
        before, began = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(IDLE)
        used = sum(process.cpu_times()[:2]) - before
        least = min(least, 100 * used / (time.monotonic() - began))
        if least <= 0.5:
            break
    return process.memory_info().rss / (1 << 20), least


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_idle_daemon_with_the_file_store(tmp_path: Path) -> None:
    with daemon(tmp_path, SYNCD_STORE=(tmp_path / "store").as_uri()) as process:
        rss, percent = measure(process)
    print(f"idle, file store: {rss:.0f} MiB RSS, {percent:.2f} % of a core")
    assert rss <= 70
    assert percent <= 0.5


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_idle_daemon_with_s3_and_mqtt(tmp_path: Path) -> None:
    with Minio(tmp_path / "minio") as minio, Mosquitto(tmp_path / "mosquitto") as broker:
        minio.make_bucket("bucket")
        env = minio.env | {"SYNCD_STORE": "s3://bucket/x", "MQTT_URL": broker.url}
        with daemon(tmp_path, **env) as process:
            rss, percent = measure(process)
    print(f"idle, S3 and MQTT: {rss:.0f} MiB RSS, {percent:.2f} % of a core")
    assert rss <= 100
    assert percent <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("what", [["-c", "import syncd"], ["-m", "syncd", "--help"], ["-m", "syncd", "--version"]])
def test_a_start_costs_little_processor_time(what: list[str]) -> None:
    """The goal is 0.4 s; beside a yardstick from the same minute, since a shared processor's second is worth half at times."""
    starts, yardsticks = [], []
    for _ in range(5):
        yardsticks.append(_cpu_of(["-c", "import asyncio"]))
        starts.append(_cpu_of(what))
    ratio = min(starts) / min(yardsticks)
    print(json.dumps({"command": what, "cpu_seconds": round(min(starts), 3), "imports_of_asyncio": round(ratio, 2)}))
    assert ratio < 6


def _cpu_of(arguments: list[str]) -> float:
    """Seconds of processor time of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
