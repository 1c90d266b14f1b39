"""The places of a rehearsal: is there room, and is all gone at the end."""

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from syncd.decide.rehearsal import disk_needed
from syncd.errors import ConfigError, SyncdError
from syncd.local.threads import all_of
from syncd.model.keys import Keys
from syncd.store import Store
from syncd.store.wrap import Retrying

AT_ONCE = 16
SWEEPS = 3
"""Listings until nothing is left: what a killed node sent can still arrive."""


def check_room(size: int, store: Path | None) -> None:
    """Raise `ConfigError` where checkpoints of `size` bytes have no room. `store`: its directory, where it has one."""
    local, remote = disk_needed(size)
    scratch = Path(tempfile.gettempdir())
    needed = {scratch: local}
    if store:
        store = next(path for path in (store, *store.parents) if path.is_dir())
        same = store.stat().st_dev == scratch.stat().st_dev
        needed[scratch if same else store] = remote + (local if same else 0)
    for place, bytes_ in needed.items():
        free = shutil.disk_usage(place).free
        if free < bytes_:
            raise ConfigError(
                f"{place}: {free >> 20} MiB are free, the rehearsal needs {bytes_ >> 20} MiB: choose a smaller --size,"
                " or another place with TMPDIR"
            )


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for disks and logs; who wants it to stay says so by the file `keep` in it."""
    home = Path(tempfile.mkdtemp(prefix="syncd-chaos-"))
    try:
        yield home
    finally:
        if not (home / "keep").exists():
            clear(home)


def clear(home: Path) -> list[str]:
    """Remove a scratch directory; a line where not all of it goes."""
    shutil.rmtree(home, ignore_errors=True)
    return [f"{home} is left: not all of it could be removed"] if home.exists() else []


async def sweep(store: Retrying, keys: Keys, cut_off: Collection[str]) -> tuple[int, list[str]]:
    """Delete all that the task has in the store: how many objects, and a line for what cannot be deleted.

    `cut_off`: keys of which it may hold parts that no listing shows.
    """
    deleted, left = await _delete(store, keys)
    return deleted, left + await end_uploads(store, keys, cut_off)


async def end_uploads(store: Retrying, keys: Keys, cut_off: Collection[str]) -> list[str]:
    """Remove the parts that killed nodes left; a line where some may stay."""
    telling = store.telling
    if not cut_off:
        return []
    why = "this store does not tell"
    if telling:
        try:
            asked = (partial(store.ask, partial(telling.tidy, key)) for key in sorted(cut_off))
            if all(await all_of(asked, AT_ONCE)):
                return []
        except SyncdError as error:
            why = str(error)
    return [
        f"parts of uploads that were cut off may be left below {keys.top} ({why}): the store's own rule must end them"
    ]


async def _delete(store: Store, keys: Keys) -> tuple[int, list[str]]:
    deleted, why = 0, ""

    async def delete(key: str) -> bool:
        nonlocal why
        try:
            await store.delete(key)
        except SyncdError as error:
            why = str(error)
            return False
        return True

    left: list[str] = []
    for _ in range(SWEEPS):
        left = [entry.key for entry in await store.list(keys.top)]
        if not left:
            return deleted, []
        gone = sum(await all_of((partial(delete, key) for key in left), AT_ONCE))
        deleted += gone
        if not gone:
            break
    left = [entry.key for entry in await store.list(keys.top)]
    more = f" ({why})" if why else ""
    return deleted, [f"{len(left)} objects below {keys.top} are left in the store{more}"] if left else []
