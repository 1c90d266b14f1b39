"""Putting directories in their place: staging a restore, setting aside what must not be resumed."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from syncd.errors import ConfigError
from syncd.local.tree import OWN, sync_dir, sync_tree
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
            with contextlib.suppress(OSError):  # told below
                self.root.mkdir(exist_ok=True)
        if not self.root.is_dir():
            what = "is no directory" if self.root.exists() else "does not exist"
            raise ConfigError(f"SYNCD_ROOT={self.root} {what}; name the directory that the trainer writes into")
        try:
            os.listdir(self.root)
            self.own.mkdir(exist_ok=True, mode=0o700)
            self.staging.mkdir(exist_ok=True)
            self.quarantine.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"SYNCD_ROOT={self.root} cannot be used: {said(error, self.root)}") from None

    def probe(self) -> None:
        """Raise OSError where the disk takes nothing: what is started now would fail at its first save. Blocks."""
        with tempfile.TemporaryFile(dir=self.own) as file:
            os.posix_fallocate(file.fileno(), 0, PROBE)

    def make_room(self, needed: int) -> int:
        """Bytes that are free, after torn directories were removed from quarantine, oldest first, as far as needed. Blocks."""
        for old in sorted(self.quarantine.glob("torn-*")):
            if free_bytes(self.root) >= needed:
                break
            shutil.rmtree(old, ignore_errors=True)
        return free_bytes(self.root)

    def clear(self) -> None:
        """Remove what interrupted restores left; to be called with the root's lock held, when none is to go on."""
        self._clear_but("")

    def staging_for(self, mark: str) -> Path:
        """The directory to restore what `mark` names into, as an interrupted restore left it; all others are removed."""
        self._clear_but(mark)
        path = self.staging / mark
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def _clear_but(self, mark: str) -> None:
        for left in self.staging.iterdir():
            if left.name != mark:
                shutil.rmtree(left, ignore_errors=True)

    def put_in_place(self, staged: Path, name: str) -> Path:
        """Give a whole, verified tree its name: fsync, set aside what bears the name, rename (I5). Blocks."""
        sync_tree(staged) if staged.is_dir() else None
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(self.root.resolve()):
            raise ConfigError(
                f"{target.parent} leads out of {self.root} by a link; restore to another place, or remove it"
            )
        if target.exists() or target.is_symlink():
            self.set_aside([name])
        staged.chmod(0o755)
        staged.rename(target)
        sync_dir(target.parent)
        return target

    def set_aside(self, names: Iterable[str], *, torn: bool = False) -> list[Path]:
        """Move directories out of the trainer's sight, into quarantine. Blocks.

        Of the torn only the newest `TORN_KEPT` are kept; what was whole is never deleted by us.
        """
        self.quarantine.mkdir(parents=True, exist_ok=True)
        moved = []
        for name in names:
            to = self.quarantine / f"{'torn-' if torn else ''}{time.time_ns():020d}-{name.replace('/', '_')[:200]}"
            (self.root / name).rename(to)
            moved.append(to)
        if moved:
            sync_dir(self.root)
        for old in sorted(self.quarantine.glob("torn-*"))[:-TORN_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return moved
