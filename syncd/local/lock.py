"""One daemon a root: the lock whose holder may go on with the disk's attempt."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syncd.errors import ConfigError, UsageError, brief
from syncd.local.tree import OWN

FS_IOC_GETVERSION = 0x80087601
"""linux/fs.h: the generation of an inode."""


def identity(root: Path) -> str:
    """Tells this disk's `.syncd` from a copy of its files: a copy must not go on with the attempt.

    The inode's number and, where the file system has one, its generation. A block image keeps both: of two machines
    that start from one image, the claim of the first restart after the copy decides no better than before.
    """
    fd = os.open(root / OWN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        generation = bytearray(8)
        try:
            fcntl.ioctl(fd, FS_IOC_GETVERSION, generation)
        except OSError:
            generation.clear()
        return f"{os.fstat(fd).st_ino}.{int.from_bytes(generation, 'little'):x}"
    finally:
        os.close(fd)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold `.syncd/lock`. Raises `UsageError` when another daemon has it, `ConfigError` when it cannot be taken."""
    path = root / OWN / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; syncd needs to write there") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"{path} is no regular file; remove it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                holder = _said(fd)
                raise UsageError(
                    f"another syncd ({holder}) works on {root}; end it first, or use another SYNCD_ROOT"
                ) from None
            raise ConfigError(f"{path}: {error.strerror}; use a file system with flock") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def lock_holder(root: Path) -> str | None:
    """Who holds the root's lock, None where nobody does."""
    try:
        fd = os.open(root / OWN / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _said(fd) or "another process"
    finally:
        os.close(fd)
    return None


def _said(fd: int) -> str:
    return brief(os.pread(fd, 100, 0).decode(errors="replace").strip())
