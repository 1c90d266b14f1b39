"""Looking at directories without ever leaving them: every name is opened relative to its parent, links are not followed.

`openat2(RESOLVE_BENEATH)` would do it in one call, but is refused by older seccomp profiles of container runtimes;
one `openat(O_NOFOLLOW)` per component needs nothing new.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import Torn

OWN = ".syncd"
"""The daemon's own directory below the root."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # without NONBLOCK the open of a FIFO hangs


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells that a file is the same and untouched. `ctime_ns` moves with links and modes too: see `same_content`."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Identity":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    def same_content(self, other: "Identity") -> bool:
        """Same inode, size and time of writing. The change time is left out: a rotation that unlinks moves it."""
        mine = (self.dev, self.ino, self.size, self.mtime_ns)
        return mine == (other.dev, other.ino, other.size, other.mtime_ns)


Files = Mapping[str, Identity]
Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(files: Files) -> Fingerprint:
    """What a directory's content looks like from outside: path, inode, size, time of writing of every file."""
    return tuple(sorted((path, each.ino, each.size, each.mtime_ns) for path, each in files.items()))


def mark(content: Fingerprint) -> str:
    """A fingerprint in a few characters."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def open_beneath(base: int, path: str, flags: int = REGULAR) -> int:
    """Open `path` relative to the directory `base`, following no link in any component. Raises OSError."""
    *parents, last = path.split("/")
    at = base
    try:
        for name in parents:
            below = os.open(name, DIRECTORY, dir_fd=at)
            if at != base:
                os.close(at)
            at = below
        return os.open(last, flags, dir_fd=at)
    finally:
        if at != base:
            os.close(at)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A directory's descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_below(base: int, path: str) -> Iterator[int]:
    """The descriptor of a directory below another, no link followed. Raises `Torn` when it is gone."""
    try:
        fd = open_beneath(base, path, DIRECTORY)
    except OSError as error:
        raise Torn(f"{path}: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def files_below(base: int) -> dict[str, Identity]:
    """Everything below a directory that is not a directory, by relative path: also links and devices, as themselves."""
    return look_below(base)[0]


def look_below(base: int, path: str = "", *, skip_hidden: bool = False) -> tuple[dict[str, Identity], set[str]]:
    """`files_below`, and the relative paths of all directories.

    `skip_hidden` passes over the direct children whose names begin with a dot: `.syncd`, `.git`, `.venv`.
    What vanishes while we look is left out: whoever compares two looks will see the difference.
    """
    found: dict[str, Identity] = {}
    directories: set[str] = set()
    try:
        fd = open_beneath(base, path, DIRECTORY) if path else os.dup(base)
    except FileNotFoundError:
        return found, directories
    except PermissionError:  # as itself, which is no regular file: nothing around it is ever committed (lost+found)
        found[path] = Identity.of(os.stat(path, dir_fd=base, follow_symlinks=False))
        return found, directories
    try:
        with os.scandir(fd) as children:
            for child in children:
                below = f"{path}/{child.name}" if path else child.name
                if child.is_dir(follow_symlinks=False):
                    if skip_hidden and child.name.startswith("."):
                        continue
                    directories.add(below)
                    deeper, more = look_below(base, below)
                    found.update(deeper)
                    directories |= more
                    continue
                try:
                    found[below] = Identity.of(os.stat(child.name, dir_fd=fd, follow_symlinks=False))
                except FileNotFoundError:
                    continue
    finally:
        os.close(fd)
    return found, directories


def read_small(base: int, path: str, limit: int) -> bytes:
    """Up to `limit` bytes of a regular file. Raises OSError, or `Torn` when it is no regular file."""
    fd = open_beneath(base, path)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Torn(f"{path} is no regular file")
        return file.read(limit) or b""


def sync_tree(path: Path) -> None:
    """fsync every file and directory below `path`, and `path` itself."""
    for directory, _, files in os.walk(path):
        for name in (*files, "."):
            fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def sync_dir(path: Path) -> None:
    """fsync a directory: the names in it are on disk."""
    with opened(path) as fd:
        os.fsync(fd)
