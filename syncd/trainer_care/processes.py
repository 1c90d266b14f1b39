"""Which processes belong to a trainer, and how all of them are ended, read from /proc.

A trainer's process is one of its group, or one that carries its life's mark in the environment: launchers such as
torchrun give each worker a session of its own, and a worker that outlives its launcher keeps the GPU.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "_SYNCD_LIFE"
"""Environment variable that names the life. Not SYNCD_*: these are settings, and unknown ones are refused."""
POLL = 0.05
KILL_PATIENCE = 10.0
"""Seconds that SIGKILL may take; a process in an uninterruptible call (a hung GPU, NFS) takes for ever."""

log = logging.getLogger(__name__)


def boot_id() -> str:
    """The kernel's id of this boot: process numbers and start times mean nothing in another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid: int) -> int | None:
    """When a process started, clock ticks after boot; None where there is no such process."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def members(pgid: int, life: str) -> list[int]:
    """The living processes of the group (0: of none), or marked with `life` and ours; without this process."""
    mark = f"{MARK}={life}".encode()
    return [pid for pid, fields in _living() if (pgid and int(fields[2]) == pgid) or _is_marked(pid, mark)]


def marked(name: str, value: str) -> list[int]:
    """The living processes of ours that have this environment variable; without this process."""
    mark = f"{name}={value}".encode()
    return [pid for pid, _ in _living() if _is_marked(pid, mark)]


def send(pids: list[int], number: signal.Signals) -> None:
    """Signal each process that is still there and ours; one that became another user's is reported by `kill`."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


async def end(pgid: int, life: str, patience: float) -> bool:
    """SIGTERM to all members, SIGKILL `patience` seconds later to those that are left; returns whether all are gone."""
    left = members(pgid, life)
    send(left, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        await asyncio.sleep(POLL)
        left = members(pgid, life)
    return not left or await kill(pgid, life)


async def kill(pgid: int, life: str) -> bool:
    """SIGKILL to all members until none is left, up to `KILL_PATIENCE` seconds; returns whether all are gone."""
    deadline = time.monotonic() + KILL_PATIENCE
    while left := members(pgid, life):
        if time.monotonic() >= deadline:
            log.warning("processes %s survive SIGKILL: a driver or a disk hangs, or they run as another user", left)
            return False
        send(left, signal.SIGKILL)
        await asyncio.sleep(POLL)
    return True


def _living() -> Iterator[tuple[int, list[str]]]:
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        fields = _stat(pid)
        if fields and fields[0] not in "ZX" and pid != os.getpid():
            yield pid, fields


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: [0] state, [2] group, [19] start."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the name may hold blanks and parentheses


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # gone, or another user's: not one that we started
