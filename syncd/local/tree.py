"""Looking at directories without ever leaving them: every name is opened relative to its parent, links are not followed.

`openat2(RESOLVE_BENEATH)` would do it in one call, but is refused by older seccomp profiles of container runtimes;
one `openat(O_NOFOLLOW)` per component needs nothing new.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import Torn
from syncd.model.names import MAX_PATH

OWN = ".syncd"
"""The daemon's own directory below the root."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # without NONBLOCK the open of a FIFO hangs

_OUR_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What says nothing of the directory that was asked for."""


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


UNREADABLE = Identity(0, 0, 0, 0, 0, stat.S_IFDIR)
"""What stands for a directory that cannot be looked into (lost+found)."""
TOO_DEEP = Identity(0, 0, 0, 0, 0, 0)
"""What stands for a directory that lies deeper than any name that is carried."""
Files = Mapping[str, Identity]
Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(files: Files) -> Fingerprint:
    """What a directory's content looks like from outside: path, inode, size, time of writing of every file."""
    return tuple((path, files[path].ino, files[path].size, files[path].mtime_ns) for path in sorted(files))


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
    """A directory's descriptor; of no link."""
    fd = os.open(path, DIRECTORY)
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
    What vanishes while we look is left out: whoever compares two looks will see the difference. A directory that cannot be
    read is given as `UNREADABLE`, one that lies deeper than any name that is carried as `TOO_DEEP`: as they are no regular
    files, nothing around them is ever committed, and nothing else waits for it.
    """
    found: dict[str, Identity] = {}
    directories: set[str] = set()
    todo = [path]
    while todo:
        at = todo.pop()
        try:
            deeper = _look_into(base, at, found, skip_hidden=skip_hidden and at == path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if at == path == "" or error.errno in _OUR_OWN:
                raise
            found[at] = UNREADABLE
            continue
        for below in deeper:
            directories.add(below)
            if len(os.fsencode(below)) <= MAX_PATH:
                todo.append(below)
            else:
                found[below] = TOO_DEEP
    return found, directories


def _look_into(base: int, path: str, found: dict[str, Identity], *, skip_hidden: bool) -> list[str]:
    """Add what is in one directory to `found`; the paths of the directories in it."""
    directories = []
    fd = open_beneath(base, path, DIRECTORY) if path else os.dup(base)
    try:
        with os.scandir(fd) as children:
            for child in children:
                below = f"{path}/{child.name}" if path else child.name
                if child.is_dir(follow_symlinks=False):
                    if not (skip_hidden and child.name.startswith(".")):
                        directories.append(below)
                    continue
                with suppress(FileNotFoundError):
                    found[below] = Identity.of(os.stat(child.name, dir_fd=fd, follow_symlinks=False))
    finally:
        os.close(fd)
    return directories


def read_small(base: int, path: str, limit: int) -> bytes:
    """Up to `limit` bytes of a regular file. Raises OSError, or `Torn` when it is no regular file."""
    fd = open_beneath(base, path)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Torn(f"{path} is no regular file")
        return file.read(limit) or b""


def sync_tree(base: int) -> None:
    """fsync every regular file and directory below an open one, and that itself."""
    files, directories = look_below(base)
    regular = [path for path, each in files.items() if each.regular]
    for paths, flags in ((regular, REGULAR), (directories, DIRECTORY)):
        for path in paths:
            fd = open_beneath(base, path, flags)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    os.fsync(base)


def lstat_beneath(base: int, path: str) -> os.stat_result:
    """What is at `path` below a directory, no link followed. Raises OSError."""
    parent, _, last = path.rpartition("/")
    fd = open_beneath(base, parent, DIRECTORY) if parent else os.dup(base)
    try:
        return os.stat(last, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)


def sync_dir(path: Path) -> None:
    """fsync a directory: the names in it are on disk."""
    with opened(path) as fd:
        os.fsync(fd)


def make_beneath(base: int, path: str) -> int:
    """The descriptor of a directory below another, made where it is missing, with all above it; no link is followed.

    Raises OSError."""
    at = os.dup(base)
    for name in filter(None, path.split("/")):
        try:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=at)
            below = os.open(name, DIRECTORY, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def remove_tree(path: Path | str, *, dir_fd: int | None = None, strict: bool = False) -> None:
    """Remove a directory and all below it, as far as it can be, however deep it is. `strict`: raises OSError where
    something stays. Blocks."""
    try:
        shutil.rmtree(path, ignore_errors=not strict, dir_fd=dir_fd)
    except RecursionError:
        with suppress(OSError):
            top = os.open(path, DIRECTORY, dir_fd=dir_fd)
            try:
                _flatten(top)
            finally:
                os.close(top)
        shutil.rmtree(path, ignore_errors=not strict, dir_fd=dir_fd)


def _flatten(top: int) -> None:
    """Move every directory below one up into it, so that none lies deep."""
    with suppress(OSError):
        todo, number = [name.name for name in os.scandir(top) if name.is_dir(follow_symlinks=False)], 0
        while todo:
            fd = open_beneath(top, todo.pop(), DIRECTORY)
            try:
                for child in [each.name for each in os.scandir(fd) if each.is_dir(follow_symlinks=False)]:
                    number += 1
                    new = f".flat-{number}"
                    os.rename(child, new, src_dir_fd=fd, dst_dir_fd=top)
                    todo.append(new)
            finally:
                os.close(fd)
