"""What is wrong with our own disk, in words that say what to do; told once, not at each try."""

import errno
import os
import pwd
import stat
import time
from collections.abc import Callable
from pathlib import Path

from syncd.model.event import Say

FULL = {errno.ENOSPC, errno.EDQUOT}
OWN_DISK = FULL | {errno.EROFS, errno.EIO}
"""What a disk says of itself, whatever file was asked for."""
RIGHTS = {errno.EACCES, errno.EPERM}
ONE_USER = "run both as one user (in a pod the same runAsUser, or one fsGroup)"


def user(uid: int) -> str:
    """`nobody (uid 65534)`, or `uid 65534` where it has no name."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def whose(path: Path) -> str:
    """Whose the file or directory is that stands in our way, and who we are. Blocks.

    Where `path` cannot be looked at, or is not there yet, it is the nearest directory above that can.
    """
    for at in (path, *path.parents):
        try:
            found = at.lstat()
        except OSError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        return f"{at} (mode {mode:04o}) belongs to {user(found.st_uid)}, and syncd runs as {user(os.geteuid())}"
    return f"syncd runs as {user(os.geteuid())}"


def unreadable(path: Path, error: OSError) -> str:
    """Why a file of a checkpoint cannot be read, and what to do. Blocks."""
    if error.errno in RIGHTS:
        return f"{whose(path)}: it cannot be read; {ONE_USER}, or let syncd's group read it (umask 027)"
    return f"{path}: {error.strerror}; the disk may be failing: look into the kernel's log (dmesg)"


def hides(path: Path) -> str:
    """Why a directory of a checkpoint cannot be looked into, and what to do. Blocks."""
    try:
        os.listdir(path)
    except OSError as error:
        return unreadable(path, error)
    return unreadable(path, PermissionError(errno.EACCES, ""))  # it could not a moment ago


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the file system of `path`. Raises `OSError`."""
    found = os.statvfs(path)
    return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)


def said(error: OSError, root: Path) -> str:
    """One line for an error of our own disk: what, where, what to do. Blocks."""
    named = isinstance(error.filename, (str, Path))
    where = root / str(error.filename) if named else root
    what = f"{where}: {error.strerror or error}"
    if error.errno == errno.EDQUOT:
        return f"{what}; raise the quota of {user(os.geteuid())}, or delete something"
    if error.errno == errno.ENOSPC:
        return f"{what}{_left(where)}; delete something there, or give SYNCD_ROOT={root} a larger disk"
    if error.errno == errno.EROFS:
        return f"{what}; mount it writable again (the kernel does this to a disk that fails: dmesg tells)"
    if error.errno == errno.EIO:
        return f"{what}; the disk may be failing: look into the kernel's log (dmesg), leave this node"
    if error.errno in RIGHTS:
        return f"{what}: {whose(where)}; {ONE_USER}, or give syncd the right to read and write there"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return f"{what}; was SYNCD_ROOT={root} unmounted or removed? Put it back, or end syncd and start anew"
    return f"{what}; syncd needs to read and write SYNCD_ROOT={root}"


def _left(where: Path) -> str:
    """What of the file system of a path is used up, in brackets."""
    for at in (where, *where.parents):
        try:
            found = os.statvfs(at)
        except OSError:
            continue
        if found.f_files and not found.f_ffree:
            return f" (all {found.f_files} inodes are used, {free_bytes(at)} bytes are free)"
        return f" ({free_bytes(at)} bytes are free)"
    return ""


STEADY = 5.0
"""Seconds without a refusal after which the disk is said to be well: at the edge of full some writes go through."""


class Trouble:
    """Which of our own writes and looks the disk refuses: told when it begins, for each kind of error, and when all work
    again."""

    def __init__(self, root: Path, say: Say, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.root, self.say = root, say
        self._failing: set[str] = set()
        self._told: set[int] = set()
        self._failed_at = 0.0
        self.silent = False
        """While we start: what is refused then ends us, with its own line."""
        self._monotonic = monotonic

    def failed(self, what: str, error: OSError) -> None:
        """`what` was refused: a word of the caller's, by which `worked` takes it back."""
        number = error.errno or 0
        self._failing.add(what)
        self._failed_at = self._monotonic()
        if number not in self._told and not self.silent:
            self._told.add(number)
            self.say("disk_error", why=said(error, self.root))

    def worked(self, what: str) -> None:
        """`what` went well."""
        self._failing.discard(what)
        if self._told and not self._failing and self._monotonic() - self._failed_at >= STEADY:
            self._told.clear()
            self.say("disk_back")
