"""File systems that are made small, full, read-only or failing, and what syncd says of them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.helpers import Process
from tests.faults.scale import ALL

Mount = Callable[[Path, str], Path]


def enlarge(at: Path, size: str) -> None:
    """Give a tmpfs another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(at)], check=True, capture_output=True)


def make_read_only(at: Path) -> None:
    """As a kernel does to a disk that fails, whoever has files open there: a read-only view lies over it."""
    subprocess.run(["mount", "--bind", str(at), str(at)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(at)], check=True, capture_output=True)


def make_writable(at: Path) -> None:
    """Take the read-only view away. Somebody may be looking through it now: lazily."""
    subprocess.run(["umount", "-l", str(at)], check=True, capture_output=True)


def fill(directory: Path) -> Path:
    """A foreign file that takes every byte that is left; it."""
    path = directory / "foreign"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def fill_inodes(directory: Path) -> Path:
    """A foreign directory that takes every inode that is left; it."""
    path = directory / "foreign"
    path.mkdir()
    number = 0
    try:
        while True:
            (path / str(number)).touch()
            number += 1
    except OSError:
        return path


def fiu(point: str, number: int) -> list[str]:
    """The words before a command whose every such call fails with this errno; skips where libfiu is not."""
    return [*_fiu_run(), "-c", f"enable name={point},failinfo={number}"]


def fiu_controlled(home: Path) -> list[str]:
    """The words before a command whose calls can be made to fail while it runs, by `make_fail`."""
    return [*_fiu_run(), "-f", str(home / "fiu")]


def make_fail(home: Path, pid: int, command: str) -> None:
    """Tell a process begun with `fiu_controlled` what is to fail: `enable name=…,failinfo=5`, `disable name=…`."""
    subprocess.run(["fiu-ctrl", "-c", command, "-f", str(home / "fiu"), str(pid)], check=True, capture_output=True)


def _fiu_run() -> list[str]:
    if shutil.which("fiu-run") is None:
        pytest.skip("libfiu is not here: apt-get install fiu-utils")
    return ["fiu-run", "-x"]


def told(process: Process, *events: str) -> list[dict[str, Any]]:
    """syncd's own lines on stderr: warnings and worse, or those of some events."""
    found = [json.loads(line) for line in process.text.splitlines() if line.startswith('{"time"')]
    return [line for line in found if (line["event"] in events if events else line["level"] in ("warning", "error"))]


def one(lines: list[dict[str, Any]], *words: str) -> None:
    """There is one line, and it has these words."""
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]["why"], (word, lines[0]["why"])


def some(*cases: Any) -> tuple[Any, ...]:
    """The cases of a test: the first in `make test`, all in `make faults`."""
    return cases if ALL else cases[:1]
