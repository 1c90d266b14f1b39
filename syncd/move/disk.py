"""What this disk may do: go on with its attempt, stop because it was overtaken, or claim anew."""

import asyncio
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from syncd.decide.push import burned, unfinished
from syncd.errors import Corrupt
from syncd.local.files import read_small, write_small
from syncd.local.lock import identity
from syncd.local.tree import OWN
from syncd.model import canonical
from syncd.model.attempt import Claim, DiskAttempt, DiskTaken, Record
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.close import newest_ended
from syncd.move.objects import Owner, Standing, get_or_none, read_commits, read_record, standing
from syncd.store import Store

ROOM = 1 << 20
"""Added to an attempt's numbers where some were given that we do not know: more than any life of a daemon gives."""
TAKEN = "taken.json"


@dataclass(frozen=True, slots=True)
class GoOn:
    """The disk's attempt goes on, as a paused one would: its record, and its commits found again by listing.

    `unreadable`: there are manifests that cannot be read; `begun`: directories that hold objects of the attempt.
    """

    owner: Owner
    record: Record
    commits: tuple[Committed, ...]
    unreadable: bool
    begun: set[str]
    families: tuple[str, ...]

    def taken(self, pinned: dict[str, int]) -> tuple[set[str], int]:
        """Names that are given, and the highest number that may be; `pinned`: names and numbers of pins to be sent again.

        Where others were given too, by a life of the daemon that ended, their manifests may still be on their way.
        """
        used = {found.commit for found in self.commits} | pinned.keys()
        number = max([found.manifest.number for found in self.commits] + list(pinned.values()), default=0)
        return used, number + (ROOM if self.unreadable or unfinished(self.begun, used) else 0)


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A newer attempt owns the task: what is on this disk is a zombie's. `again`: we knew before this start."""

    attempt: int
    newest: int
    again: bool


@dataclass(frozen=True, slots=True)
class ClaimAnew:
    """No attempt, none that recorded a start, or one of another store or task. `why` is for people.

    `beside`: the newer attempt that this disk's gave way to before it recorded anything, None where none did.
    """

    why: str
    beside: int | None = None


def note_path(root: Path) -> Path:
    return root / OWN / "attempt.json"


def read_note(root: Path) -> DiskAttempt | None:
    """The disk's attempt; None where there is none, or it cannot be read (then the disk claims anew)."""
    data = read_small(note_path(root))
    if data is None:
        return None
    try:
        return canonical.decode(data, DiskAttempt, str(note_path(root)))
    except Corrupt:
        return None


def write_note(
    root: Path, store_url: str, owner: Owner, *, superseded: bool = False, families: Iterable[str] = ()
) -> None:
    """Keep the attempt and its nonce on the disk whose lock we hold."""
    note = DiskAttempt(
        store=store_url, task=owner.keys.task, attempt=owner.attempt, nonce=owner.nonce, disk=identity(root),
        superseded=superseded, families=tuple(sorted(families)),
    )  # fmt: skip
    write_small(note_path(root), canonical.encode(note), 0o600)


def read_taken(root: Path, owner: Owner) -> DiskTaken | None:
    """What the attempt has done with; None where nothing tells."""
    data = read_small(root / OWN / TAKEN)
    try:
        found = None if data is None else canonical.decode(data, DiskTaken, TAKEN)
    except Corrupt:
        return None
    return found if found and found.nonce == owner.nonce else None


def write_taken(root: Path, owner: Owner, marks: Mapping[str, str], left: Set[str]) -> None:
    """Keep it: of directories that are still there, since there is no end of saves."""
    there = {name: each for name, each in marks.items() if (root / name).is_dir()}
    said = DiskTaken(nonce=owner.nonce, marks=there, left=tuple(sorted(left & there.keys())))
    write_small(root / OWN / TAKEN, canonical.encode(said), 0o600)


async def resolve(
    store: Store, keys: Keys, store_url: str, note: DiskAttempt | None, disk: str
) -> GoOn | Overtaken | ClaimAnew:
    """Same disk, same attempt (DESIGN.md). To be called with the disk's lock held."""
    if note is None:
        return ClaimAnew("a disk without an attempt")
    if (note.store, note.task) != (store_url, keys.task):
        return ClaimAnew(f"the disk belongs to task {note.task} of {note.store}")
    if note.disk != disk:
        return ClaimAnew("the disk is a copy of another")
    try:
        record = await read_record(store, keys, note.attempt)
    except Corrupt as error:  # what it resumed is not known any more: the next attempt chooses by what is
        return ClaimAnew(str(error))
    if record is None:
        newest = (await standing(store, keys)).newest
        beside = newest if newest > note.attempt else None
        return ClaimAnew(f"attempt {note.attempt} never started a trainer", beside)
    if not await _is_ours(store, keys, note, record):
        return ClaimAnew(f"attempt {note.attempt} in the store is another's: the store was emptied or replaced")
    now: Standing = await standing(store, keys)
    if now.newest > note.attempt:
        return Overtaken(note.attempt, now.newest, again=note.superseded)
    if await newest_ended(store, keys, [note.attempt]):
        return ClaimAnew(f"attempt {note.attempt} had begun to name its result")
    commits = await read_commits(store, keys, note.attempt)
    owner = Owner(keys, note.attempt, note.nonce)
    return GoOn(owner, record, commits.good, bool(commits.bad), await _begun(store, owner), note.families)


async def _is_ours(store: Store, keys: Keys, note: DiskAttempt, record: Record) -> bool:
    """By the claim; by the record, which bears the same nonce, where the claim cannot be read any more."""
    data = await get_or_none(store, keys.claim(note.attempt))
    try:
        return data is not None and canonical.decode(data, Claim, keys.claim(note.attempt)).nonce == note.nonce
    except Corrupt:
        return record.nonce == note.nonce


async def _begun(store: Store, owner: Owner) -> set[str]:
    prefix = owner.keys.attempt(owner.attempt)
    paths = [entry.key.removeprefix(prefix) for entry in await store.list(prefix)]
    return await asyncio.to_thread(burned, paths)
