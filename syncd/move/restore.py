"""Fetching one committed checkpoint: into staging, verified range by range, then renamed (I5)."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from syncd.errors import ConfigError, Corrupt, NotFound, Torn, brief
from syncd.local.digest import GoOn, crc_of, matches, new_seal, range_matches, sealed, sum_file, whole_of
from syncd.local.place import Place
from syncd.local.threads import all_of, descriptor, stoppable, to_its_end
from syncd.local.tree import files_below, lstat_beneath, make_beneath, open_beneath, opened
from syncd.local.trouble import said
from syncd.model import canonical
from syncd.model.checkpoint import Committed, FileEntry, Manifest, ranges
from syncd.model.keys import Keys
from syncd.model.names import check_path
from syncd.store import Gate, Store

FILES_AT_ONCE, RANGES_AT_ONCE = 16, 4
"""Files that are fetched at once, and ranges of one file."""
NEIGHBOURS = 8
"""Other checkpoints on the disk that are looked through for files that need not be fetched."""
TRIES = 3
"""Times that a range may come wrong before the stored one is called damaged."""


async def fetch(store: Store, keys: Keys, found: Committed, place: Place, gate: Gate) -> Path:
    """Put a committed checkpoint in place under its own name; returns where it lies.

    A directory that is already there with the same files, byte for byte, is left as it is. Raises `NotFound` or
    `Corrupt` when any object is missing or damaged, `ConfigError` when this disk does not take it: nothing has then
    appeared under the checkpoint's name.
    """
    manifest = found.manifest
    target = place.root / manifest.name
    if await stoppable(holds, target, manifest):
        return target
    try:
        mark = await asyncio.to_thread(_mark, manifest)
        async with descriptor(place.open_staging, mark) as staged:
            await to_its_end(_see_room, place, staged, manifest)
            held = await asyncio.to_thread(_neighbours, place.root)
            await download(store, keys, manifest, staged, gate, held)
            await to_its_end(_see_all, staged, manifest, place.root)
            alone = manifest.files[0].path if manifest.kind == "file" else None
            return await to_its_end(place.put_in_place, staged, mark, manifest.name, alone)
    except OSError as error:
        raise ConfigError(
            f"{manifest.name} ({manifest.bytes} bytes) cannot be restored: {await asyncio.to_thread(said, error, place.root)}"
        ) from None


def _see_room(place: Place, staged: int, manifest: Manifest) -> None:
    """Raise `ConfigError` where the disk has no room for what is still to come, before an hour is spent on it. Blocks.

    Torn checkpoints that were set aside go first: they are kept only to be looked at.
    """
    there = sum(each.size for each in files_below(staged).values())  # each has its blocks: see `_open`
    needed = max(0, manifest.bytes - there) + place.reserve
    free = place.make_room(needed)
    if free < needed:
        held = f" (of them {place.reserve} by SYNCD_DISK_RESERVE)" if place.reserve else ""
        raise ConfigError(
            f"{manifest.name} needs {needed} bytes{held}, and {free} are free on the disk of {place.root};"
            " make room there, or name another SYNCD_ROOT"
        )


def _mark(manifest: Manifest) -> str:
    """What tells that a staging directory is of this very manifest."""
    return hashlib.sha256(canonical.encode(manifest)).hexdigest()[:32]


def _neighbours(root: Path) -> list[Path]:
    """The other checkpoints on this disk, newest first, whose files may be those that are wanted."""
    found = []
    for child in root.iterdir():
        with suppress(FileNotFoundError):  # a rotation may be at work
            about = child.lstat()
            if stat.S_ISDIR(about.st_mode) and not child.name.startswith("."):
                found.append((about.st_mtime, child))
    return [child for _, child in sorted(found, reverse=True)]


def _see_all(staged: int, manifest: Manifest, root: Path) -> None:
    """Raise `ConfigError` unless exactly the manifest's names are there: a disk that ignores case has fewer. Blocks."""
    there, wanted = set(files_below(staged)), {entry.path for entry in manifest.files}
    if lacking := min(wanted - there, default=None):
        shown = brief(f"{manifest.name}/{lacking}")
        raise ConfigError(
            f"{shown}: {root} does not tell this name from another of the checkpoint's (a file system that ignores"
            " case?); name another SYNCD_ROOT"
        )
    if strange := min(there - wanted, default=None):
        raise ConfigError(f"{root}/.syncd/staging holds '{brief(strange)}', which syncd did not put there; remove it")


async def download(
    store: Store, keys: Keys, manifest: Manifest, to: int, gate: Gate, held: Sequence[Path] = ()
) -> None:
    """All files of a checkpoint into the open directory `to`, each verified. Raises `NotFound`, `Corrupt`.

    `to` is empty, or what an interrupted download of this manifest left: ranges that are right are not fetched again.
    `held`: directories that may hold the same files under the same paths: what is right there is copied instead (by
    reference where the file system can; never linked, since writers truncate in place).
    """
    prefix = keys.files(manifest.attempt, manifest.commit)
    files = (partial(_file, store, prefix + entry.path, entry, to, gate, held) for entry in manifest.files)
    await all_of(files, FILES_AT_ONCE)


async def _file(store: Store, key: str, entry: FileEntry, to: int, gate: Gate, held: Sequence[Path]) -> None:
    pieces = ranges(entry.size)
    digests = entry.sum.ranges or (entry.sum.digest,)
    if len(digests) != len(pieces):
        raise Corrupt(f"{key}: {len(digests)} sums for {len(pieces)} ranges")
    try:
        # Each range is verified below; that they make up the whole needs no second reading.
        if whole_of(list(digests), entry.size) != entry.sum.digest:
            raise Corrupt(f"{key}: the whole has another sum than the manifest says")
    except ValueError as error:
        raise Corrupt(f"{key}: {error}; update syncd") from None
    begun = await to_its_end(_begun, to, entry)
    async with descriptor(_open, to, entry) as fd:
        if entry.size:
            wanted = zip(pieces, digests, strict=True)
            # A seal is against what somebody meant to pass for the file: then only the store's word counts.
            async with _twin(() if begun or entry.seal else held, entry, digests[0]) as twin:
                one = partial(_range, store, key, fd, gate, begun, twin)
                await all_of((partial(one, *at, digest) for at, digest in wanted), RANGES_AT_ONCE)
        elif await store.get(key) != b"":
            raise Corrupt(f"{key}: not empty, as the manifest says")
        if not await _sealed(key, fd, entry):
            os.ftruncate(fd, 0)  # the next call asks the store again
            raise Corrupt(f"{key}: its sums are right and its seal is not: somebody changed it on purpose")
        os.fchmod(fd, entry.mode)  # last: a file that may not be written could not be gone on with


async def _sealed(key: str, fd: int, entry: FileEntry) -> bool:
    try:
        return await stoppable(sealed, fd, entry.size, entry.seal)
    except ValueError as error:
        raise Corrupt(f"{key}: {error}; update syncd") from None


async def _range(
    store: Store, key: str, fd: int, gate: Gate, begun: bool, twin: int | None, offset: int, length: int, digest: str
) -> None:
    """One range, verified as it was written. Asked for again where it is wrong: it may have been damaged on the way.

    `begun`: an earlier process may have fetched it; `twin`: a local file that may hold it. Raises `NotFound`, and
    `Corrupt` for what comes wrong each time.
    """
    if twin is not None:
        await to_its_end(_copy, twin, fd, offset, length)
    if (begun or twin is not None) and await to_its_end(range_matches, fd, offset, length, digest):
        return
    for _ in range(TRIES):
        async with gate(length):
            came = await store.fetch(key, offset, length, fd)
            if came.nbytes == length and (
                await to_its_end(range_matches, fd, offset, length, digest)
                if came.digest is None
                else came.digest == digest
            ):
                return
    raise Corrupt(f"{key}: bytes {offset} to {offset + length} are not those that were committed ({came.nbytes} came)")


@asynccontextmanager
async def _twin(held: Sequence[Path], entry: FileEntry, digest: str) -> AsyncIterator[int | None]:
    """A local file of the same path and size whose first range is right: the others of its ranges may be too."""
    async with AsyncExitStack() as stack:
        yield await _first_twin(stack, held, entry, digest)


async def _first_twin(stack: AsyncExitStack, held: Sequence[Path], entry: FileEntry, digest: str) -> int | None:
    for directory in held[:NEIGHBOURS]:
        with suppress(OSError):  # a bad block there costs that copy, not the restore
            fd = await stack.enter_async_context(descriptor(_open_twin, directory, entry))
            if await to_its_end(range_matches, fd, 0, ranges(entry.size)[0][1], digest):
                return fd
    return None


def _open_twin(directory: Path, entry: FileEntry) -> int:
    """Raises FileNotFoundError when there is no such file."""
    try:
        with opened(directory) as base:
            fd = open_beneath(base, check_path(entry.path, "restore"))
    except OSError as error:
        raise FileNotFoundError(str(error)) from None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_size == entry.size:
        return fd
    os.close(fd)
    raise FileNotFoundError(entry.path)


def _copy(twin: int, fd: int, offset: int, length: int) -> None:
    """A range of a local file, as far as it can be had: what is wrong is fetched."""
    done = 0
    with suppress(OSError):
        while done < length:
            moved = os.copy_file_range(twin, fd, length - done, offset + done, offset + done)
            if not moved:
                return
            done += moved


def _begun(to: int, entry: FileEntry) -> bool:
    """Whether an earlier process began this file: it then has its whole size already."""
    try:
        return lstat_beneath(to, check_path(entry.path, "restore")).st_size == entry.size
    except FileNotFoundError:
        return False


def _open(to: int, entry: FileEntry) -> int:
    """The file to restore into, of its whole size."""
    parent, _, last = check_path(entry.path, "restore").rpartition("/")
    at = make_beneath(to, parent)
    try:
        fd = os.open(last, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=at)
    finally:
        os.close(at)
    try:
        os.fchmod(fd, 0o600)
        if os.fstat(fd).st_size != entry.size:
            os.truncate(fd, 0)
            if entry.size:
                os.posix_fallocate(fd, 0, entry.size)  # ENOSPC now, not after an hour
    except BaseException:
        os.close(fd)
        raise
    return fd


def holds(target: Path, manifest: Manifest, check: GoOn) -> bool:
    """Whether a directory has exactly the manifest's files, byte for byte. Blocks: reads them all."""
    if manifest.kind != "directory":
        return False
    try:
        with opened(target) as base:
            files = files_below(base)
            if {path: each.size for path, each in files.items()} != {each.path: each.size for each in manifest.files}:
                return False
            for entry in manifest.files:
                fd = open_beneath(base, entry.path)
                try:
                    crc_of(entry.sum.digest)
                    same = sum_file(fd, entry.size, check).digest == entry.sum.digest
                    if not same or not sealed(fd, entry.size, entry.seal, check):
                        return False
                finally:
                    os.close(fd)
    except (OSError, Torn, ValueError):
        return False
    return True


async def sound(store: Store, keys: Keys, found: Committed, *, deep: bool, gate: Gate) -> list[str]:
    """What is wrong with a committed checkpoint's files, a line each: sizes by one listing; deep: every byte."""
    manifest = found.manifest
    prefix = keys.files(manifest.attempt, manifest.commit)
    there = {entry.key: entry.size for entry in await store.list(prefix)}
    wrong = []
    for entry in manifest.files:
        size = there.get(prefix + entry.path)
        if size is None:
            wrong.append(f"{prefix}{entry.path} is missing")
        elif size != entry.size:
            wrong.append(f"{prefix}{entry.path} has {size} bytes, the manifest says {entry.size}")
        elif deep:
            wrong += await _deep(store, prefix + entry.path, entry, gate)
    return wrong


async def _deep(store: Store, key: str, entry: FileEntry, gate: Gate) -> list[str]:
    digests = entry.sum.ranges or (entry.sum.digest,)
    try:
        seal = new_seal(entry.seal.partition(":")[0]) if entry.seal else None
        for (offset, length), digest in zip(ranges(entry.size), digests, strict=True):
            async with gate(length):
                data = await store.get(key, offset, length)
                if len(data) != length or not await asyncio.to_thread(matches, data, digest):
                    return [f"{key}: bytes {offset} to {offset + length} are damaged"]
                if seal:
                    await asyncio.to_thread(seal.update, data)
        if seal and entry.seal and seal.hexdigest() != entry.seal.partition(":")[2]:
            return [f"{key}: its sums are right and its seal is not: somebody changed it on purpose"]
    except NotFound:
        return [f"{key} is missing"]
    except ValueError as error:
        return [f"{key}: {error}"]
    return []
