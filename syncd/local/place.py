"""Putting directories in their place: staging a restore, setting aside what must not be resumed."""

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from syncd.errors import ConfigError
from syncd.local.tree import DIRECTORY, OWN, make_beneath, open_beneath, opened, remove_tree, sync_tree
from syncd.local.trouble import free_bytes, said

PROBE = 1 << 20
"""Bytes that a disk must take so that a trainer is started again."""
TORN_KEPT = 4
"""Torn directories kept in quarantine: enough to look into what happened, bounded so that they never fill the disk."""


class Place:
    """The daemon's own directory `root/.syncd/` and the moves between it and the root."""

    def __init__(self, root: Path, reserve: int = 0) -> None:
        """`reserve`: bytes of the disk that a restore leaves free."""
        self.root, self.reserve = root, reserve
        self.own = root / OWN
        self.staging = self.own / "staging"
        self.quarantine = self.own / "quarantine"

    def make(self) -> None:
        """Make `.syncd/`, and the root where only that is missing: the next machine's disk is empty. Raises `ConfigError`."""
        if self.root.parent.is_dir() and not self.root.exists():
            with suppress(OSError):  # told below
                self.root.mkdir(exist_ok=True)
        if not self.root.is_dir():
            what = "is no directory" if self.root.exists() else "does not exist"
            raise ConfigError(f"SYNCD_ROOT={self.root} {what}; name the directory that the trainer writes into")
        try:
            os.listdir(self.root)
            for path in (self.own, self.staging, self.quarantine, self.own / "pins"):
                if path.is_symlink():
                    raise ConfigError(f"{path} is a link; syncd writes nothing outside of SYNCD_ROOT: remove it")
                path.mkdir(exist_ok=True, mode=0o700 if path == self.own else 0o777)
        except OSError as error:
            raise ConfigError(f"SYNCD_ROOT={self.root} cannot be used: {said(error, self.root)}") from None

    def probe(self) -> None:
        """Raise OSError where the disk takes nothing: what is started now would fail at its first save. Blocks."""
        with tempfile.TemporaryFile(dir=self.own) as file:
            os.posix_fallocate(file.fileno(), 0, PROBE)

    def make_room(self, needed: int) -> int:
        """Bytes that are free, after torn directories were removed from quarantine, oldest first, as far as needed. Blocks."""
        with self._opened("quarantine") as quarantine:
            for old in _torn(quarantine):
                if free_bytes(self.root) >= needed:
                    break
                remove_tree(old, dir_fd=quarantine)
        return free_bytes(self.root)

    def clear(self) -> None:
        """Remove what interrupted restores left; to be called with the root's lock held, when none is to go on."""
        self._clear_but("")

    def open_staging(self, mark: str) -> int:
        """The descriptor of the directory to restore what `mark` names into, as an interrupted restore left it.

        All others are removed. Raises OSError.
        """
        self._clear_but(mark)
        with self._opened("staging") as staging:
            with suppress(FileExistsError):
                os.mkdir(mark, 0o700, dir_fd=staging)
            return os.open(mark, DIRECTORY, dir_fd=staging)

    def _clear_but(self, mark: str) -> None:
        with self._opened("staging") as staging:
            for left in os.listdir(staging):
                if left != mark:
                    remove_tree(left, dir_fd=staging)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """A directory of our own: where it was swapped for a link it is not followed, but OSError is raised."""
        with opened(self.root) as root:
            fd = open_beneath(root, f"{OWN}/{name}", DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def put_in_place(self, staged: int, mark: str, name: str, file: str | None = None) -> Path:
        """Give a whole, verified tree its name: fsync, set aside what bears the name, rename (I5). Blocks.

        `staged`: what `open_staging(mark)` gave; `file`: the one of it that is all of the checkpoint. Whatever names are
        swapped for links meanwhile, nothing is moved out of the root (I9).
        """
        sync_tree(staged)
        parent, _, last = name.rpartition("/")
        with opened(self.root) as root, self._opened("staging") as staging, ExitStack() as stack:
            try:
                at = make_beneath(root, parent)
            except NotADirectoryError:
                raise ConfigError(
                    f"{self.root / parent} leads out of {self.root} by a link, or is a file;"
                    " restore to another place, or remove it"
                ) from None
            stack.callback(os.close, at)
            with suppress(FileNotFoundError):
                os.stat(last, dir_fd=at, follow_symlinks=False)
                self.set_aside([name])
            if file is None:
                os.fchmod(staged, 0o755)
                os.rename(mark, last, src_dir_fd=staging, dst_dir_fd=at)
                _see_same(staged, os.stat(last, dir_fd=at, follow_symlinks=False), self.root / name)
            else:
                os.rename(file, last, src_dir_fd=staged, dst_dir_fd=at)
            os.fsync(at)
        return self.root / name

    def set_aside(self, names: Iterable[str], *, torn: bool = False) -> list[Path]:
        """Move directories out of the trainer's sight, into quarantine. Blocks.

        Of the torn only the newest `TORN_KEPT` are kept; what was whole is never deleted by us.
        """
        self.quarantine.mkdir(parents=True, exist_ok=True)
        moved = []
        with opened(self.root) as root, self._opened("quarantine") as quarantine:
            for name in names:
                parent, _, last = name.rpartition("/")
                kept = os.fsencode(name.replace("/", "_"))[:200].decode(errors="ignore")
                to = f"{'torn-' if torn else ''}{_next(quarantine):020d}-{kept}"
                at = open_beneath(root, parent, DIRECTORY) if parent else os.dup(root)
                try:
                    os.rename(last, to, src_dir_fd=at, dst_dir_fd=quarantine)
                finally:
                    os.close(at)
                moved.append(self.quarantine / to)
            if moved:
                os.fsync(root)
            for old in _torn(quarantine)[:-TORN_KEPT]:
                remove_tree(old, dir_fd=quarantine)
        return moved


def _torn(quarantine: int) -> list[str]:
    """What was torn when it was set aside, oldest first."""
    return sorted(old for old in os.listdir(quarantine) if old.startswith("torn-"))


def _next(quarantine: int) -> int:
    """The time in ns, or more: what is set aside later sorts later, also where the clock was set back."""
    numbers = (name.removeprefix("torn-").partition("-")[0] for name in os.listdir(quarantine))
    return max([time.time_ns(), *(int(number) + 1 for number in numbers if re.fullmatch("[0-9]{20}", number))])


def _see_same(staged: int, found: os.stat_result, path: Path) -> None:
    """Raise `ConfigError` unless what was put in place is what was restored."""
    mine = os.fstat(staged)
    if (mine.st_dev, mine.st_ino) != (found.st_dev, found.st_ino):
        raise ConfigError(
            f"{path}: something else was put in the place of what was restored; remove it and start again"
        )
