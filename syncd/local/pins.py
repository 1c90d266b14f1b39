"""Pins: hard-linked copies of finished checkpoints, which the trainer's own rotation cannot delete under an upload.

`.syncd/pins/000012/files/…` are the links, `pin.json` beside them is written last: a pin without it was never whole.
"""

import errno
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from syncd.errors import Corrupt, Refused, Torn, Unreadable, brief
from syncd.local.files import read_small
from syncd.local.scan import Seen
from syncd.local.tree import (
    OWN,
    UNREADABLE,
    Files,
    Identity,
    files_below,
    fingerprint,
    open_beneath,
    opened,
    opened_below,
    remove_tree,
    sync_dir,
)
from syncd.local.trouble import OWN_DISK, RIGHTS, hides, unreadable, whose
from syncd.model import canonical
from syncd.model.checkpoint import Number, Size, Step
from syncd.model.names import check_checkpoint_name, check_path

_CHANGED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE}
"""What says that a name leads to something else than it did."""
NO_LINKS = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class _Identity(Struct, frozen=True):
    dev: int
    ino: int
    size: Size
    mtime_ns: int
    mode: Annotated[int, Meta(ge=0, lt=1 << 32)]


class _Note(Struct, frozen=True, kw_only=True):
    """pin.json: what was pinned, and the name in the store once bytes were sent under it."""

    name: str
    step: Step | None
    rule: str
    written: int
    linked: bool
    commit: str | None = None
    commit_number: Number | None = None
    files: dict[str, _Identity]


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned checkpoint. `base` is where its files are opened: the links, or (no hard links here) the place itself."""

    number: int
    path: Path
    base: Path
    name: str
    step: int | None
    rule: str
    written: int
    files: Mapping[str, Identity]
    commit: str | None
    commit_number: int | None = None

    @property
    def bytes(self) -> int:
        return sum(each.size for each in self.files.values())

    @property
    def place(self) -> Path:
        """Where the trainer wrote it."""
        return self.path.parents[2] / self.name

    @property
    def linked(self) -> bool:
        """Whether the files are held by links; else a rotation can take them away."""
        return self.base == self.path / "files"

    def open(self, path: str) -> int:
        """Open one of its files and see that it is what was pinned. Raises `Torn`, `Unreadable`, or OSError where the
        machine lacks something. Blocks."""
        try:
            with opened(self.base) as base:
                fd = open_beneath(base, path)
        except OSError as error:
            if error.errno in _CHANGED:
                raise Torn(f"{self.name}/{path}: {error.strerror}") from None
            if error.errno in RIGHTS | OWN_DISK:
                raise Unreadable(unreadable(self.place / path, error)) from None
            raise OSError(error.errno, error.strerror, f"{self.name}/{path}") from None
        if not Identity.of(os.fstat(fd)).same_content(self.files[path]):
            os.close(fd)
            raise Torn(f"{self.name}/{path} was written to after it was finished")
        return fd


class Pins:
    """All pins below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / OWN / "pins"
        self._refused = 0

    def load(self) -> list[Pin]:
        """The pins that an earlier daemon left, oldest first; unfinished and changed ones are removed. Blocks."""
        self.home.mkdir(parents=True, exist_ok=True)
        found = []
        for path in sorted(self.home.iterdir()):
            pin = self._read(path)
            if pin:
                found.append(pin)
            else:
                remove_tree(path)
        return found

    def take(self, seen: Seen) -> Pin:
        """Pin a finished checkpoint. Raises `Torn` when it changes meanwhile, `Unreadable` for what this user may not read,
        `Refused` for what is never carried (I9), and OSError where our own disk does not take the pin."""
        check(seen.name, seen.files)
        if hidden := next((path for path, each in seen.files.items() if each == UNREADABLE), None):
            raise Unreadable(hides(self.root / seen.name / hidden))
        number = 1 + max((int(path.name) for path in self.home.iterdir() if path.name.isdecimal()), default=0)
        path = self.home / f"{number:06d}"
        (path / "files").mkdir(parents=True)
        try:
            linked = self._link(seen, path / "files")
            base = path / "files" if linked else self.root / seen.name
            pin = Pin(number, path, base, seen.name, seen.verdict.step, seen.rule, seen.written, seen.files, None)
            for name in seen.files:
                os.close(pin.open(name))
            with opened(self.root) as root, opened_below(root, seen.name) as now:
                if fingerprint(files_below(now)) != seen.fingerprint:
                    raise Torn(f"{seen.name} changed while it was pinned")
            self._write(pin)
        except BaseException:
            remove_tree(path)
            raise
        return pin

    def assign(self, pin: Pin, commit: str, number: int) -> Pin:
        """Note, before the first byte is sent, the name and number that this pin is stored under: no other gets them."""
        assigned = replace(pin, commit=commit, commit_number=number)
        self._write(assigned)
        return assigned

    def drop(self, pin: Pin) -> None:
        """Let go of a pin: its note first, so that a half-removed one is never taken for whole. Raises OSError."""
        (pin.path / "pin.json").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            remove_tree(pin.path, strict=True)

    def held_alone(self, pin: Pin) -> int:
        """Bytes that the disk would have free without this pin: of files whose own names the trainer has removed. Blocks."""
        if not pin.linked:
            return 0
        try:
            with opened(pin.base) as base:
                found = [os.stat(path, dir_fd=base, follow_symlinks=False) for path in pin.files]
        except OSError:  # it is being let go of
            return 0
        return sum(each.st_blocks * 512 for each in found if each.st_nlink == 1)

    def hindered(self, pin: Pin) -> str | None:
        """Why the files of the pin that was just taken could not be linked, where that is a matter of users. Blocks."""
        if pin.linked or self._refused != errno.EPERM:
            return None
        for path in (self.root / pin.name / name for name in pin.files):
            with suppress(FileNotFoundError):
                if path.lstat().st_uid != os.geteuid():
                    return whose(path)
        return None

    def _link(self, seen: Seen, to: Path) -> bool:
        """Hard-link every file; False where this file system or its owner forbids links."""
        with opened(self.root) as root, opened(to) as target:
            for path in seen.files:
                if "/" in path:
                    (to / path).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(f"{seen.name}/{path}", path, src_dir_fd=root, dst_dir_fd=target, follow_symlinks=False)
                except FileNotFoundError:
                    raise Torn(f"{seen.name}/{path} went away while it was pinned") from None
                except OSError as error:
                    if error.errno in NO_LINKS:
                        shutil.rmtree(to)
                        self._refused = error.errno or 0
                        return False
                    if error.errno in RIGHTS:
                        raise Unreadable(unreadable(self.root / seen.name / path, error)) from None
                    raise
        return True

    def _write(self, pin: Pin) -> None:
        files = {
            path: _Identity(each.dev, each.ino, each.size, each.mtime_ns, each.mode) for path, each in pin.files.items()
        }
        note = _Note(
            name=pin.name, step=pin.step, rule=pin.rule, written=pin.written,
            linked=pin.linked, commit=pin.commit, commit_number=pin.commit_number, files=files,
        )  # fmt: skip
        temp = pin.path / "pin.json.tmp"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(canonical.encode(note))
            file.flush()
            os.fsync(fd)
        temp.replace(pin.path / "pin.json")
        sync_dir(pin.path)

    def _read(self, path: Path) -> Pin | None:
        try:
            data = read_small(path / "pin.json", canonical.MAX_JSON)
            if data is None:
                return None
            note = canonical.decode(data, _Note, str(path))
            if note.commit is not None:
                check_checkpoint_name(note.commit, str(path))
            files = {name: Identity(e.dev, e.ino, e.size, e.mtime_ns, 0, e.mode) for name, e in note.files.items()}
            check(note.name, files)
            base = path / "files" if note.linked else self.root / note.name
            pin = Pin(
                int(path.name),
                path,
                base,
                note.name,
                note.step,
                note.rule,
                note.written,
                files,
                note.commit,
                note.commit_number,
            )
            for name in files:
                os.close(pin.open(name))
        except (OSError, ValueError, Corrupt, Refused, Torn):
            return None
        return pin


LONGEST_NAME = 240
"""Bytes of a component of a checkpoint's name: `.json` and a generation's number are put after it."""
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check(name: str, files: Files) -> None:
    """Raise `Refused` for names and kinds of files that are never carried. What cannot be looked into may come to be."""
    shown = brief(name)
    check_checkpoint_name(name, shown)
    if any(len(part.encode()) > LONGEST_NAME for part in name.split("/")):
        raise Refused(f"{brief(name, 60)}: a checkpoint's name has at most {LONGEST_NAME} bytes; shorten it")
    for path, each in files.items():
        check_path(f"{name}/{path}", shown)
        if not each.regular and each != UNREADABLE:
            kind = _KINDS.get(stat.S_IFMT(each.mode), "no regular file")
            raise Refused(
                f"{brief(f'{name}/{path}')} is {kind}; nothing of {shown} is pushed: replace it by a regular file,"
                " or save it outside of the checkpoint"
            )
