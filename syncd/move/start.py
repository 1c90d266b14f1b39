"""From claim to record: rules 1 to 7 of DESIGN.md, on any store."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from syncd.decide.choose import candidates, line_to_record
from syncd.errors import ConfigError, Corrupt, Exists, NotFound, Superseded
from syncd.model import canonical
from syncd.model.attempt import Claim, LineItem, Record, Skipped
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.objects import (
    Owner,
    Standing,
    create_once,
    get_or_none,
    read_commits,
    read_item,
    read_record,
    standing,
)
from syncd.store import Store


class AlreadyDone(Exception):
    """The task has its result: nothing is to be started, least of all from zero."""


Fetch = Callable[[Committed], Awaitable[None]]
"""Restores a commit; raises `NotFound` or `Corrupt` when it is not whole."""


async def claim(
    store: Store, keys: Keys, *, node: str, now: float, group: str | None = None, single_writer: bool = False
) -> Owner:
    """Rule 1: the next number, by a create-only put; "exists" by another means to list again.

    The same put once more must be refused: a store that takes it ignores the condition (old Ceph does), and two nodes
    would own one attempt. Raises `ConfigError` then, unless `single_writer` takes that risk by name.
    """
    while True:
        number = (await standing(store, keys)).newest + 1
        nonce = secrets.token_hex(16)
        claimed = Claim(task=keys.task, attempt=number, node=node, nonce=nonce, time=now, group=group)
        data = canonical.encode(claimed)
        if await create_once(store, keys.claim(number), data):
            if not single_writer:
                await _see_refusal(store, keys.claim(number), data)
            return Owner(keys, number, nonce)


async def _see_refusal(store: Store, key: str, data: bytes) -> None:
    try:
        await store.create(key, data)
    except Exists:
        return
    raise ConfigError(
        f"{key}: this store overwrites what a create-only put must not touch, so two nodes could own one task;"
        " use another store, or SYNCD_SINGLE_WRITER=1 if never two nodes run this task at once"
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """What may be resumed: the attempts that were passed because they never started, the recorded one, its candidates.

    `broken` says why the recorded attempt's line cannot be read: then its own commits are all there is.
    """

    passed: tuple[int, ...]
    recorded: int | None
    candidates: tuple[LineItem, ...]
    skipped: tuple[Skipped, ...]
    broken: str | None = None


async def choose(store: Store, keys: Keys, below: int) -> Choice:
    """Rule 3: the newest attempt under `below` that has a record; its commits, newest first, then its line."""
    passed = []
    for number in range(below - 1, 0, -1):
        broken: str | None = None
        line: tuple[LineItem, ...] = ()
        try:
            record = await read_record(store, keys, number)
            if record is None:
                passed.append(number)
                continue
            line = record.items(keys.record(number))
        except Corrupt as error:
            broken = str(error)
        commits = await read_commits(store, keys, number)
        skipped = tuple(Skipped(keys.manifest(number, name), why) for name, why in commits.bad)
        return Choice(tuple(passed), number, tuple(candidates(commits.good, line)), skipped, broken)
    return Choice(tuple(passed), None, (), ())


@dataclass(frozen=True, slots=True)
class Started:
    """What was recorded: the restored commit (None: from zero), the record, and what was skipped on the way."""

    restored: Committed | None
    record: Record
    skipped: tuple[Skipped, ...]


async def restore_newest(
    store: Store, keys: Keys, choice: Choice, fetch: Fetch
) -> tuple[int | None, Committed | None, list[Skipped]]:
    """Rule 4: the first candidate that is whole; its index, the commit, and what was skipped before it.

    Deletes and marks nothing in the store: two nodes may find the same damage. Raises `Corrupt` where a start from zero
    would follow although a line exists that cannot be read (I5).
    """
    skipped = list(choice.skipped)
    for index, item in enumerate(choice.candidates):
        try:
            found = await read_item(store, keys, item)
            await fetch(found)
        except (NotFound, Corrupt) as error:
            skipped.append(Skipped(f"{keys.top}{item}", str(error)))
            continue
        return index, found, skipped
    if choice.broken:
        raise Corrupt(
            f"{choice.broken}; no commit of that attempt is whole, and its older line is unknown. Not starting from zero:"
            " restore a checkpoint by hand (syncd ls, syncd restore) or give the task up with syncd reset"
        )
    return None, None, skipped


async def fence(store: Store, owner: Owner) -> Standing:
    """Rule 5: LIST; what it says. Raises `Superseded` for a newer attempt and `AlreadyDone` for a result."""
    now = await standing(store, owner.keys)
    if now.newest > owner.attempt:
        raise Superseded(
            f"attempt {now.newest} has taken over from attempt {owner.attempt}; this node leaves it the task"
        )
    if now.done:
        raise AlreadyDone
    return now


Prepare = Callable[[Committed | None], Awaitable[None]]
"""Clears the disk of what is not of the line, before the record says what the trainer will find."""


async def start(store: Store, owner: Owner, fetch: Fetch, prepare: Prepare | None = None) -> Started:
    """Rules 3 to 7: choose, restore, fence, look again at the passed, record. Only then may anything train or commit.

    `prepare` is awaited before the record: a death just after it must not leave another line's checkpoints in sight.
    """
    while True:
        choice = await choose(store, owner.keys, owner.attempt)
        index, restored, skipped = await restore_newest(store, owner.keys, choice, fetch)
        await fence(store, owner)
        if await _appeared(store, owner.keys, choice.passed):
            continue
        if prepare:
            await prepare(restored)
        record = Record(line=line_to_record(choice.candidates, index), skipped=tuple(skipped), nonce=owner.nonce)
        await put_record(store, owner, record)
        return Started(restored, record, tuple(skipped))


async def _appeared(store: Store, keys: Keys, passed: tuple[int, ...]) -> bool:
    """Rule 6: whether an attempt that had not started has recorded since."""
    for number in passed:
        if await get_or_none(store, keys.record(number)) is not None:
            return True
    return False


async def put_record(store: Store, owner: Owner, record: Record) -> None:
    """Rule 7: the put where this attempt takes over. Raises `Superseded` when another process of the attempt recorded."""
    if not await create_once(store, owner.keys.record(owner.attempt), canonical.encode(record)):
        raise Superseded(f"attempt {owner.attempt} was recorded by another process; this one leaves")
