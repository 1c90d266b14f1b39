"""Small objects that decide: create-only puts, claims, records, manifests, read and written by the rules."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from syncd.errors import Corrupt, Exists, NotFound, brief
from syncd.local.threads import all_of
from syncd.model import canonical
from syncd.model.attempt import Done, LineItem, Record, parse_record
from syncd.model.checkpoint import Committed, parse_manifest
from syncd.model.heartbeat import ENDED, HeartbeatBody, doubtful, fresh
from syncd.model.keys import Keys, attempt_number
from syncd.store import Store

log = logging.getLogger("syncd")
Sleep = Callable[[float], Awaitable[None]]
READS_AT_ONCE = 16
LOOKS = 8
"""Looks at a heartbeat while the next one is waited for."""
LONGEST_WAIT = 300.0
"""Seconds that politeness is worth, however rare heartbeats are."""
LARGE = 64 << 10
"""Bytes of a manifest from which on it is parsed in a thread: that of 100,000 files takes a second."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who we are to the store: the task's keys, the attempt we claimed, and the claim's nonce."""

    keys: Keys
    attempt: int
    nonce: str


async def create_once(store: Store, key: str, data: bytes) -> bool:
    """Create-only put. True: the object is ours, also when the answer to an earlier try was lost; False: another's.

    The bytes tell: they hold a nonce, or are the same whoever writes them.
    """
    while True:
        try:
            await store.create(key, data)
        except Exists:
            try:
                return await store.get(key) == data
            except NotFound:
                continue  # deleted in between (reset): it must not exist, and does not
        return True


async def get_or_none(store: Store, key: str) -> bytes | None:
    """An object's bytes, or None where there is none."""
    try:
        return await store.get(key)
    except NotFound:
        return None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a listing of the task's top says: its attempts' numbers, ascending, and whether it is done."""

    attempts: tuple[int, ...]
    done: bool

    @property
    def newest(self) -> int:
        return self.attempts[-1] if self.attempts else 0


async def standing(store: Store, keys: Keys) -> Standing:
    """LIST attempts, and see whether there is a done.json: one shallow listing."""
    entries = await store.list(keys.top, shallow=True)
    names = (entry.key.removeprefix(keys.top).rstrip("/") for entry in entries if entry.key.endswith("/"))
    numbers = sorted(number for name in names if (number := attempt_number(name)))
    return Standing(tuple(numbers), any(entry.key == keys.done for entry in entries))


async def read_record(store: Store, keys: Keys, attempt: int) -> Record | None:
    """An attempt's record, None where it never started. Raises `Corrupt`."""
    data = await get_or_none(store, keys.record(attempt))
    return None if data is None else parse_record(data, keys.record(attempt))


async def read_done(store: Store, keys: Keys) -> Done | None:
    """The task's result, None while there is none. Raises `Corrupt`."""
    data = await get_or_none(store, keys.done)
    return None if data is None else canonical.decode(data, Done, keys.done)


async def read_manifest(store: Store, keys: Keys, attempt: int, commit: str) -> Committed:
    """One commit. Raises `NotFound`, and `Corrupt` when it is damaged or is not what its key says."""
    key = keys.manifest(attempt, commit)
    data = await store.get(key)
    if len(data) < LARGE:
        return _committed(data, key, keys, attempt, commit)
    return await asyncio.to_thread(_committed, data, key, keys, attempt, commit)


def _committed(data: bytes, key: str, keys: Keys, attempt: int, commit: str) -> Committed:
    manifest = parse_manifest(data, key)
    if (manifest.task, manifest.attempt, manifest.commit) != (keys.task, attempt, commit):
        of = brief(f"{manifest.task}/{manifest.attempt}/{manifest.commit}")
        raise Corrupt(f"{key}: the manifest is of {of}; moved by hand?")
    return Committed(manifest, canonical.digest(data))


@dataclass(frozen=True, slots=True)
class Commits:
    """An attempt's commits, oldest first, and the manifests that cannot be read, with why."""

    good: tuple[Committed, ...]
    bad: tuple[tuple[str, str], ...]


async def read_commits(store: Store, keys: Keys, attempt: int) -> Commits:
    """LIST and read an attempt's manifests."""
    names = [
        name
        for entry in await store.list(keys.manifests(attempt))
        if (name := keys.commit_of(attempt, entry.key)) is not None
    ]

    async def read(name: str) -> Committed | tuple[str, str] | None:
        try:
            return await read_manifest(store, keys, attempt, name)
        except NotFound:
            return None  # deleted by its owner since the listing
        except Corrupt as error:
            return (name, str(error))

    found = await all_of((partial(read, name) for name in names), READS_AT_ONCE)
    good = sorted((each for each in found if isinstance(each, Committed)), key=lambda each: each.manifest.number)
    return Commits(tuple(good), tuple(each for each in found if isinstance(each, tuple)))


async def read_item(store: Store, keys: Keys, item: LineItem) -> Committed:
    """The commit that a line names. Raises `NotFound`, and `Corrupt` when it is not that one any more."""
    found = await read_manifest(store, keys, item.attempt, item.commit)
    if found.digest != item.digest:
        raise Corrupt(
            f"{keys.manifest(item.attempt, item.commit)}: its digest is {found.digest}, the line says {item.digest}"
        )
    return found


async def read_heartbeat(store: Store, keys: Keys, attempt: int) -> HeartbeatBody | None:
    """An attempt's last heartbeat; None where there is none that can be read: nothing is decided by it."""
    data = await get_or_none(store, keys.heartbeat(attempt))
    try:
        return None if data is None else canonical.decode(data, HeartbeatBody, keys.heartbeat(attempt))
    except Corrupt:
        return None


async def at_work(store: Store, keys: Keys, attempt: int, now: float, sleep: Sleep = asyncio.sleep) -> bool:
    """Whether an attempt's daemon gives signs of life: politeness only, for no clock decides anything.

    The clocks of two machines may be hours apart. Where by them it is silent, or speaks of the future, the next
    heartbeat tells, which is waited for as long as two take.
    """
    body = await read_heartbeat(store, keys, attempt)
    if body is None or not doubtful(body, now):
        return body is not None and fresh(body, now)
    seconds = min(LONGEST_WAIT, 2 * max(1.0, body.interval))
    log.info("waiting up to %.0f s for another heartbeat of attempt %d", seconds, attempt)
    for _ in range(LOOKS):
        await sleep(seconds / LOOKS)
        later = await read_heartbeat(store, keys, attempt)
        if later is None or later.state in ENDED:
            return False
        if (later.session, later.seq) != (body.session, body.seq):
            return True
    return False
