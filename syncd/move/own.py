"""Owning a task without training it: what `push`, `gc` and `reset` do before they write or delete anything."""

from syncd.decide.retain import Delete
from syncd.errors import Corrupt, Denied, Superseded, UsageError
from syncd.model.attempt import Record
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys, attempt_number
from syncd.move import retain
from syncd.move.close import close_lower, newest_ended
from syncd.move.objects import Owner, at_work, standing
from syncd.move.restore import sound
from syncd.move.start import Started, claim, put_record, start
from syncd.store import Gate, Store

LEFT_BY_RESET = ("attempt.json", "resume.json", "closed.json")
"""Objects of an attempt that are never deleted: by them a zombie of it learns that it is one."""


async def refuse_beside_another(store: Store, keys: Keys, now: float, verb: str) -> None:
    """Raise `UsageError` while the newest attempt's daemon gives signs of life: to claim would stop its trainer."""
    newest = (await standing(store, keys)).newest
    if newest and await at_work(store, keys, newest, now):
        raise UsageError(
            f"attempt {newest} of {keys.task} is at work (its heartbeat is fresh); {verb} would take the task from it:"
            " end it first, or wait until it is silent"
        )


async def refuse_without_delete(store: Store, keys: Keys, verb: str) -> None:
    """Raise `Denied` where these keys may not delete, before anything is claimed: asked of an object that nobody has."""
    try:
        await store.delete(f"{keys.top}nothing")
    except Denied as error:
        raise Denied(f"{error}. Nothing was changed: run 'syncd {verb}' with keys that may delete") from None


async def own(
    store: Store, keys: Keys, *, node: str, now: float, gate: Gate, single_writer: bool = False
) -> tuple[Owner, Started]:
    """Claim the task and record its line, each candidate checked by one listing instead of being fetched."""

    async def looks_whole(found: Committed) -> None:
        wrong = await sound(store, keys, found, deep=False, gate=gate)
        if wrong:
            raise Corrupt("; ".join(wrong[:3]))

    owner = await claim(store, keys, node=node, now=now, single_writer=single_writer)
    return owner, await start(store, owner, looks_whole)


async def plan_gc(store: Store, owner: Owner, started: Started, keep: int) -> list[Delete]:
    """What the owner may delete by the rules."""
    line = list(started.record.items(owner.keys.record(owner.attempt)))
    return await retain.plan(store, owner, line, keep)


async def refuse_beside_a_result(store: Store, keys: Keys) -> None:
    """Raise `UsageError` where an attempt has closed itself and no result stands: its done.json may be on its way, and would
    then name what a reset has deleted."""
    there = await standing(store, keys)
    number = 0 if there.done else await newest_ended(store, keys, there.attempts)
    if number:
        raise UsageError(
            f"attempt {number} of {keys.task} was about to name its result, which may still come: wait for it, or, where that"
            " node is gone for good, say so: --gone. Nothing was changed"
        )


async def reset(
    store: Store, keys: Keys, *, node: str, now: float, single_writer: bool = False, gone: bool = False
) -> list[Delete]:
    """Take the task, record a start from zero, and return what is to be deleted, in this order.

    `gone`: no node lives that was about to name a result. Raises `Superseded` where another node came first.
    """
    owner = await claim(store, keys, node=node, now=now, single_writer=single_writer)
    await put_record(store, owner, Record(line=(), why="reset", nonce=owner.nonce))
    there = await standing(store, keys)
    if there.newest > owner.attempt:
        raise Superseded(f"attempt {there.newest} has taken over meanwhile; nothing is deleted")
    ended = await close_lower(store, owner, there.attempts)
    if ended and not there.done and not gone:
        raise Superseded(
            f"attempt {ended} names its result at this moment; nothing is deleted: reset again when it is done"
        )
    return await plan_reset(store, keys, owner.attempt)


async def plan_reset(store: Store, keys: Keys, upto: int) -> list[Delete]:
    """done.json, then manifests, then all that is neither claim nor record, of attempts up to `upto`."""
    doomed = []
    for entry in await store.list(keys.top):
        head, _, rest = entry.key.removeprefix(keys.top).partition("/")
        number = attempt_number(head)
        if number is None or (number <= upto and rest not in LEFT_BY_RESET):
            doomed.append(entry.key)
    order = {keys.done: 0}
    doomed.sort(key=lambda key: (order.get(key, 1 if "/manifests/" in key else 2), key))
    return [Delete(key, "reset") for key in doomed]
