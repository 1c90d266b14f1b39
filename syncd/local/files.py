"""Small files of our own, and those that two containers share: replaced atomically, read without trust."""

import os
import stat
import tempfile
from pathlib import Path
from typing import TypeVar

from syncd.errors import Corrupt
from syncd.model import canonical

T = TypeVar("T")
MAX_SMALL = 1 << 20
"""Bytes; a larger file under one of these names is somebody's mistake and is not read."""


def write_small(path: Path, data: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Replace `path` by `data`: a reader sees the old bytes or the new ones, `durable`: also after a power cut.

    Blocks, durable for an fsync of file and directory. Raises `OSError`; the old file is as it was then.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_noun(path: Path, noun: object) -> None:
    """Replace `path` by the canonical line of `noun`; raises `OSError`."""
    write_small(path, canonical.encode(noun))


def read_stamped(path: Path, limit: int = MAX_SMALL) -> tuple[bytes, int] | None:
    """The bytes of a small regular file and its mtime in ns; None for whatever else is, or is not, at `path`.

    None also where it cannot be read: the other side may still be mounting, chmodding or replacing it, and every
    reader here asks again soon. O_NONBLOCK: opening a FIFO must not hang the daemon.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return (data, found.st_mtime_ns) if len(data) <= limit else None


def read_small(path: Path, limit: int = MAX_SMALL) -> bytes | None:
    """`read_stamped` without the stamp."""
    found = read_stamped(path, limit)
    return found[0] if found else None


def read_noun(path: Path, kind: type[T]) -> T | None:
    """The noun in a small file; None where there is none or it is not a valid one."""
    data = read_small(path)
    return parse_noun(data, kind, path) if data is not None else None


def parse_noun(data: bytes, kind: type[T], path: Path) -> T | None:
    """The noun that `data` spells; None where it spells none."""
    try:
        return canonical.decode(data, kind, str(path))
    except Corrupt:
        return None
