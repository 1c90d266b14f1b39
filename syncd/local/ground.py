"""What the root's disk can do, tried in a directory of its own there that is gone afterwards. Knows no store."""

import asyncio
import errno
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from syncd.decide.doctor import ROOM, disk, memory
from syncd.local.lock import lock_holder
from syncd.local.tree import OWN, sync_dir
from syncd.local.watch import Nudge, watching
from syncd.model.answer import Answer, clocks

ARRIVES = 2.0
"""Seconds within which a file event comes, or never."""
TICK = 1.0
"""Seconds by which a file's time may lag behind the clock: file systems count in ticks, or in whole seconds."""


async def ask(root: Path, *, watch_events: bool, budget: int) -> AsyncIterator[tuple[str, Answer]]:
    """The answers about a root, by the questions' keys. One that is not there is judged by the place where a start makes
    it; nothing is left there. `budget`: bytes of memory that transfers may have."""
    place = root if root.exists() else root.parent
    with _trial(place) as (trial, why):
        if trial is None:
            yield "root", Answer(False, why)
            return
        yield "root", _root(root, trial)
        for key, question in (("lock", _locks), ("links", _links)):
            yield key, await asyncio.to_thread(_tried, question, trial)
        yield "events", await _events(trial, wanted=watch_events)
        yield "disk", disk(file_system(place))
        free = psutil.disk_usage(str(place)).free
        yield "room", Answer(free >= ROOM, f"{free / (1 << 30):.1f} GiB", free)
        yield "memory", memory(min(psutil.virtual_memory().available, memory_limit()), budget)
        yield "times", await asyncio.to_thread(_times, trial)
    holder = lock_holder(root)
    yield "alone", Answer(holder is None, holder or "")


@contextmanager
def _trial(place: Path) -> Iterator[tuple[Path | None, str]]:
    """A directory to try things in, or None and why there can be none."""
    try:
        os.listdir(place)
        made = Path(tempfile.mkdtemp(prefix=".syncd-doctor-", dir=place))
    except OSError as error:
        yield None, f"{place}: {error.strerror}"
        return
    try:
        yield made, ""
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _tried(question: Callable[[Path], Answer], trial: Path) -> Answer:
    try:
        return question(trial)
    except OSError as error:
        return Answer(False, error.strerror or str(error))


def _root(root: Path, trial: Path) -> Answer:
    """Whether files and directories can be written, synced and renamed there, as pins and restores do."""
    own = root / OWN
    if own.exists() and not os.access(own, os.R_OK | os.W_OK | os.X_OK):
        return Answer(False, f"{own}: {os.strerror(errno.EACCES)}")

    def write(trial: Path) -> Answer:
        (trial / "staged").mkdir()
        with (trial / "staged" / "file").open("wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        (trial / "staged").rename(trial / "in-place")
        sync_dir(trial)
        read = (trial / "in-place" / "file").read_bytes()
        return Answer(read == b"x" * 4096, str(root) if root.is_dir() else f"{root}, which a start makes")

    return _tried(write, trial)


def _locks(trial: Path) -> Answer:
    """flock, seen by another open file of this process as it would be by another process."""
    with (trial / "lock").open("wb") as first, (trial / "lock").open("rb") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Answer(True)
    return Answer(False, "a lock that is held is given to another")


def _links(trial: Path) -> Answer:
    (trial / "original").write_bytes(b"x")
    os.link(trial / "original", trial / "pinned")
    (trial / "original").unlink()
    return Answer((trial / "pinned").read_bytes() == b"x")


async def _events(trial: Path, *, wanted: bool) -> Answer:
    """Whether the daemon's own way of watching notices a file in a new directory."""
    if not wanted:
        return Answer(None, "SYNCD_WATCH_EVENTS=0")
    root = trial / "watched"
    (root / "checkpoint").mkdir(parents=True)
    nudge = Nudge()
    with watching(root, nudge, enabled=True) as to_be_had:
        if not to_be_had:
            return Answer(False, "the kernel gives no more of them to this user; see fs.inotify in sysctl")
        (root / "checkpoint" / "file").write_bytes(b"x")
        return Answer(await nudge.wait(ARRIVES))


def _times(trial: Path) -> Answer:
    before = time.time()
    (trial / "now").write_bytes(b"x")
    skew = (trial / "now").stat().st_mtime - before
    return clocks(skew, TICK)


def memory_limit(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The least limit of the control groups that this process is in, in bytes; without any, more than there can be."""
    limits = [sys.maxsize]
    try:
        paths = [
            line.partition("::")[2].strip("/\n") for line in own.read_text().splitlines() if line.startswith("0::")
        ]
    except OSError:
        paths = []
    for path in paths:
        # A container sees its own group as the root, or the host's path to a group that it does not see.
        for group in [groups / path, *(groups / path).parents]:
            if group.is_relative_to(groups):
                limits += _number(group / "memory.max")
    return min([*limits, *_number(groups / "memory" / "memory.limit_in_bytes")])


def _number(path: Path) -> list[int]:
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []


def apart(root: Path, store: str) -> Answer:
    """Whether a store in a directory is on another disk than the root."""
    try:
        same = root.stat().st_dev == Path(store).stat().st_dev
    except OSError as error:
        return Answer(None, error.strerror or str(error))
    return Answer(not same, store)


def file_system(path: Path) -> str:
    """The kernel's name of the file system that a path is on; empty where it tells none."""
    try:
        parts = psutil.disk_partitions(all=True)
    except OSError:
        return ""
    there = path.resolve()
    on = [each for each in parts if there.is_relative_to(each.mountpoint)]
    # Of two on one mount point the later hides the earlier.
    return max(enumerate(on), key=lambda each: (len(Path(each[1].mountpoint).parts), each[0]))[1].fstype if on else ""
