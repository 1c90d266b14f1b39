"""What every client does: read its task, measure the transfer alone, print one line of JSON.

Of the standard library only: a command's peak memory is never less than that of the process that started it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Task:
    """What to move: the files in `source` to the keys below `key`, or (op `get`) those keys into the directory `path`."""

    op: str
    endpoint: str
    bucket: str
    key: str
    path: str
    source: str

    @classmethod
    def read(cls) -> "Task":
        """The task in the first argument."""
        return cls(**json.loads(sys.argv[1]))

    @property
    def names(self) -> list[str]:
        """The files' names."""
        return sorted(os.listdir(self.source))

    @property
    def tls(self) -> bool:
        return self.endpoint.startswith("https:")


def ca() -> str:
    """The file with the certificate that vouches for the server."""
    return os.environ["AWS_CA_BUNDLE"]


def credentials() -> tuple[str, str]:
    """Key id and secret, from the environment alone."""
    return os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


@contextmanager
def measured() -> Iterator[None]:
    """Print what the body cost this process; nothing when it fails."""
    before, began = _used(), time.perf_counter()
    yield
    wall, cpu = time.perf_counter() - began, _used() - before
    _say(wall, cpu, _peak())


def run_command(command: Sequence[str]) -> None:
    """Run a command-line tool and print what the whole of it cost. Raises RuntimeError when it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    _say(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak() -> float:
    # Not ru_maxrss: that remembers the process that forked this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _say(wall: float, cpu: float, rss: float) -> None:
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": rss}))
