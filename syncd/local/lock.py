"""One daemon a root: the lock whose holder may go on with the disk's attempt."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syncd.errors import ConfigError, UsageError
from syncd.local.tree import OWN


def identity(root: Path) -> str:
    """Tells this disk's `.syncd` from a copy of it (rsync, image): a copy must not go on with the attempt."""
    found = (root / OWN).stat()
    return f"{found.st_ino}"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold `.syncd/lock`. Raises `UsageError` when another daemon has it, `ConfigError` when it cannot be taken."""
    path = root / OWN / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; syncd needs to write there") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
                raise UsageError(
                    f"another syncd ({holder}) works on {root}; end it first, or use another SYNCD_ROOT"
                ) from None
            raise ConfigError(f"{path}: {error.strerror}; use a file system with flock") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
