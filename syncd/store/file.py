"""A store in a directory: the embedded default, and any shared file system with atomic rename and hard links."""

import errno
import os
import stat
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from syncd.errors import ConfigError, Denied, Exists, NotFound, SyncdError, Torn, Transient
from syncd.local.digest import WINDOW, matches
from syncd.local.threads import descriptor, to_its_end
from syncd.local.trouble import FULL, RIGHTS, whose
from syncd.model.answer import Answer, clocks
from syncd.model.checkpoint import ranges
from syncd.store import Entry, Fetched, Gate, Source, write_at

T = TypeVar("T")
TEMP = ".tmp"
"""Where unfinished files lie, in the store's own file system so that a rename or link is atomic."""
STALE = 24 * 3600.0
"""Age in seconds after which an unfinished file is somebody's who died."""

_MISSING = {errno.ENOENT, errno.ENOTDIR}


class FileStore:
    """Objects as files below `root`. What is written is fsynced, with its directories, before a call returns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nameless = _has_nameless(root / TEMP)

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> "FileStore":
        """Check that the place can be written. Raises `ConfigError`. `create`: make all of it (the default place).

        Otherwise only the last component is made: a mount that is absent must not turn into a folder on the system disk.
        """
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            elif not root.parent.is_dir():
                raise ConfigError(f"SYNCD_STORE=file://{root}: {root.parent} does not exist; create or mount it first")
            else:
                root.mkdir(exist_ok=True)
            (root / TEMP).mkdir(exist_ok=True)
            for left in (root / TEMP).iterdir():
                with suppress(FileNotFoundError):  # another node cleans up too
                    if time.time() - left.lstat().st_mtime > STALE:
                        left.unlink(missing_ok=True)
        except OSError as error:
            why = f"{error.strerror}: {error.filename}"
            if error.errno in RIGHTS:
                why = whose(Path(error.filename))
            raise ConfigError(f"SYNCD_STORE=file://{root}: {why}; name a directory that you may write") from None
        return cls(root)

    @property
    def telling(self) -> "Telling":
        """What it knows of itself, for `syncd doctor`."""
        return Telling(self)

    async def put(self, key: str, data: bytes) -> None:
        await self._call(key, lambda: self._write(key, data, exclusive=False))

    async def create(self, key: str, data: bytes) -> None:
        await self._call(key, lambda: self._write(key, data, exclusive=True))

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        """A copy by ranges: each is compared with its sum as it is read, and all are on disk before the rename.

        Nothing is taken up again after a crash: a local copy is cheaper than proof that half of it is sound.
        """
        temp = await self._call(key, self._temp)
        try:
            async with descriptor(self._create, temp, key) as fd:
                digests = source.sum.ranges or (source.sum.digest,)
                for (offset, length), digest in zip(ranges(source.size), digests, strict=True):
                    async with gate(length):
                        await self._call(key, partial(_copy, source, fd, offset, length, digest))
                await self._call(key, lambda: os.fsync(fd))
                await self._call(key, lambda: self._publish(fd, temp, key, exclusive=False))
        finally:
            with suppress(OSError):  # a disk that failed: what is left there goes when the store is opened
                temp.unlink(missing_ok=True)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._call(key, lambda: self._read(key, offset, length))

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        async with descriptor(self._open, key) as file:
            return Fetched(await to_its_end(self._copy_into, key, file, fd, offset, length))

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        def look() -> list[Entry]:
            found = list(self._walk_shallow(prefix) if shallow else self._walk(prefix))
            if not found and not (self.root / TEMP).is_dir():
                raise FileNotFoundError(errno.ENOENT, "the store is gone")
            return sorted(found, key=lambda entry: entry.key)

        return await self._call(prefix, look)

    async def delete(self, key: str) -> None:
        await self._call(key, lambda: self._delete(key))

    async def aclose(self) -> None:
        return None

    async def _call(self, key: str, work: Callable[[], T]) -> T:
        def translated() -> T:
            with _translate(self.root, key):
                return work()

        return await to_its_end(translated)

    async def written(self, key: str) -> float:
        """When an object was written, in seconds since the epoch, by the clock of the file system."""
        return await self._call(key, lambda: self._path(key).stat().st_mtime)

    def _path(self, key: str) -> Path:
        if any(part in ("", ".", "..") for part in key.rstrip("/").split("/")) or "\0" in key or key.startswith(TEMP):
            raise Denied(f"{key!r} is not a key")
        return self.root / key

    def _temp(self) -> Path:
        return self.root / TEMP / uuid.uuid4().hex

    def _write(self, key: str, data: bytes, *, exclusive: bool) -> None:
        temp = self._temp()
        fd = self._create(temp, key)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
                self._publish(fd, temp, key, exclusive=exclusive)
            finally:
                os.close(fd)
        finally:
            temp.unlink(missing_ok=True)

    def _publish(self, fd: int, temp: Path, key: str, *, exclusive: bool) -> None:
        """Give a finished file its name. A link is the create-only rename that every POSIX file system has."""
        path = self._path(key)
        named = not self.nameless
        while True:
            try:
                self._make_parents(path.parent)
                if not named:
                    _name(fd, temp)
                    named = True
                if exclusive:
                    os.link(temp, path)
                    temp.unlink(missing_ok=True)
                else:
                    temp.replace(path)
            except FileNotFoundError:
                if not (temp.parent.is_dir() and (temp.exists() or not named)):
                    raise
                continue  # a delete of the last sibling removed a directory in between
            except OSError as error:
                if exclusive and error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise Denied(
                        f"{self.root}: this file system has no hard links, so no create-only put; use another"
                    ) from None
                raise
            break
        with suppress(FileNotFoundError):  # it was there, and another has deleted it already
            _fsync_dir(path.parent)

    def _make_parents(self, directory: Path) -> None:
        made = []
        while directory != self.root and not directory.is_dir():
            made.append(directory)
            directory = directory.parent
        for new in reversed(made):
            new.mkdir(exist_ok=True)
            _fsync_dir(new.parent)

    def _read(self, key: str, offset: int, length: int | None) -> bytes:
        fd = self._open(key)
        with os.fdopen(fd, "rb", buffering=0) as file:
            wanted = max(0, os.fstat(fd).st_size - offset) if length is None else length
            file.seek(offset)
            pieces = []
            while wanted and (piece := file.read(wanted)):
                pieces.append(piece)
                wanted -= len(piece)
            return b"".join(pieces)

    def _create(self, temp: Path, key: str) -> int:
        """An empty file to write into. Where it can be it has no name yet: what is killed then leaves nothing behind."""
        with _translate(self.root, key):
            if self.nameless:
                return os.open(temp.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o644)
            return os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def _open(self, key: str) -> int:
        """An object for reading. Raises the store's errors."""
        with _translate(self.root, key):
            # NONBLOCK: opening a pipe that somebody put there must not hang
            fd = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
            raise NotFound(f"{key}: not a file")

    def _copy_into(self, key: str, file: int, fd: int, offset: int, length: int) -> int:
        """Copy a range between two files at the same offset, within the kernel where it can; the bytes that were there."""
        copied = 0
        while copied < length:
            here = offset + copied
            try:
                done = os.copy_file_range(file, fd, length - copied, here, here)
            except OSError:  # it cannot, or one of the two failed: reading and writing by themselves tell which
                with _translate(self.root, key):
                    data = os.pread(file, min(length - copied, WINDOW), here)
                done = write_at(fd, data, here)
            if not done:
                break
            copied += done
        return copied

    def _walk(self, prefix: str) -> Iterator[Entry]:
        base = self._path(prefix)
        for directory, names, files in os.walk(base, onerror=_raise_unless_missing):
            if Path(directory) == self.root:
                names[:] = [name for name in names if name != TEMP]
            for name in filter(_is_name, files):
                path = Path(directory, name)
                try:
                    yield Entry(str(path.relative_to(self.root)), path.lstat().st_size)
                except FileNotFoundError:
                    continue  # deleted while we walked: a listing made a moment later would not have it

    def _walk_shallow(self, prefix: str) -> Iterator[Entry]:
        try:
            children = list(os.scandir(self._path(prefix)))
        except OSError as error:
            if error.errno in _MISSING:
                return
            raise
        for child in children:
            if not _is_name(child.name):
                continue
            if child.is_dir(follow_symlinks=False):
                # An empty directory is what is left between mkdir and link, or of a delete: no object, so no entry.
                if prefix + child.name != TEMP and next(self._walk(f"{prefix}{child.name}/"), None):
                    yield Entry(f"{prefix}{child.name}/", 0)
            else:
                yield Entry(prefix + child.name, child.stat(follow_symlinks=False).st_size)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
        except OSError as error:
            if error.errno not in _MISSING:
                raise
        for parent in path.parents:
            if parent == self.root or not _remove_empty(parent):
                break


def _remove_empty(directory: Path) -> bool:
    """Remove a directory that holds no file; whether it is gone. Empty ones in it are of writers who died before the file."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            return error.errno in _MISSING  # another's rmdir was first
    else:
        return True
    try:
        with os.scandir(directory) as children:
            for child in children:
                if not child.is_dir(follow_symlinks=False) or not _remove_empty(Path(child.path)):
                    return False
        directory.rmdir()
    except OSError:
        return False  # somebody writes there again
    return True


def _name(fd: int, path: Path) -> None:
    """Link a nameless file. The directory's descriptor is there to have linkat called, which follows the link in /proc."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def _has_nameless(directory: Path) -> bool:
    """Whether files can be written here before they have a name: not on NFS, and not without /proc."""
    probe = directory / uuid.uuid4().hex
    try:
        fd = os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            _name(fd, probe)
        finally:
            os.close(fd)
        probe.unlink()
    except OSError:
        return False
    return True


class Telling:
    """A `syncd.store.Telling`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def about(self) -> Mapping[str, str]:
        root = self._store.root
        free = await to_its_end(os.statvfs, root)
        return {
            "kind": "directory",
            "directory": str(root),
            "free": f"{free.f_bavail * free.f_frsize / (1 << 30):.1f} GiB",
        }

    def probes(self) -> Mapping[str, Callable[[str], Awaitable[Answer]]]:
        return {"checksums": self._checksums, "clock": self._clock}

    async def tidy(self, key: str) -> bool:
        """A cancelled upload has removed its file. That of a dead process had no name, or goes when it is old."""
        return self._store.nameless

    async def _checksums(self, key: str) -> Answer:
        return Answer(False, "files are compared as they are read, and not again as they lie on the disk")

    async def _clock(self, key: str) -> Answer:
        before = time.time()
        await self._store.put(key, b"x")
        return clocks(await self._store.written(key) - before)


def _is_name(name: str) -> bool:
    """Whether a file of this name can be an object: no key is anything else than UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise_unless_missing(error: OSError) -> None:
    """For os.walk, which would take an unreadable directory for an empty one."""
    if error.errno not in _MISSING:
        raise error


def _copy(source: Source, fd: int, offset: int, length: int, digest: str) -> None:
    data = source.read(offset, length)
    if not matches(data, digest):
        raise Torn(f"bytes {offset} to {offset + length} are not those that were summed: the file changed")
    write_at(fd, data, offset)


def _fsync_dir(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _translate(root: Path, key: str) -> Iterator[None]:
    """Say an operating system's error in the store's words."""
    try:
        yield
    except SyncdError:
        raise
    except FileExistsError:
        raise Exists(f"{root}/{key} exists already") from None
    except OSError as error:
        said = f"{root}/{key}: {error.strerror or error}"
        if error.errno in _MISSING:
            if not (root / TEMP).is_dir():  # `open` made it: without it this is another directory
                raise Denied(f"{root} is not the store any more; was it unmounted?") from None
            raise NotFound(said) from None
        if error.errno in RIGHTS:
            where = whose(Path(error.filename) if isinstance(error.filename, str) else root / key)
            raise Denied(f"{said}: {where}; give syncd's user the right, or run as the other") from None
        if error.errno == errno.EROFS:
            raise Denied(f"{said}; mount it writable again, or name another SYNCD_STORE") from None
        if error.errno == errno.ELOOP:
            raise Denied(f"{said}; a link is in the way: remove it") from None
        if error.errno in FULL:
            raise Transient(f"{said}; make room there, or lower SYNCD_KEEP") from None
        raise Transient(said) from None
