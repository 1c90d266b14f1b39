"""Deleting from the store what the rules let go (rules 10 to 14 of DESIGN.md)."""

import asyncio
from functools import partial

from syncd.decide.retain import Delete, Found, group, lowest_of, plan_retention
from syncd.errors import Corrupt, NotFound
from syncd.local.threads import all_of
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.close import close_lower
from syncd.move.objects import Owner, read_manifest
from syncd.move.start import fence
from syncd.store import Store

FILES_AT_ONCE = 16


async def plan(store: Store, owner: Owner, line: list[LineItem], keep: int) -> list[Delete]:
    """Ask for leave, then plan once from a listing made now; the plan stays safe however late it is carried out.

    `line`: own commits newest first, then the own record's line. To be called after the own record, and after the
    newest own commit. Raises `Superseded` or `AlreadyDone` where nothing may be deleted, now or later.
    """
    attempts = (await fence(store, owner)).attempts
    listing = [entry.key for entry in await store.list(owner.keys.top)]
    found = await asyncio.to_thread(group, owner.keys, listing)
    marked = marks(owner.keys, found, listing)
    doomed = plan_retention(owner.attempt, found, line, keep, marked)
    keys = {step.key for step in doomed}
    marked |= {
        (each.attempt, each.commit) for each in found if each.manifest in keys and await _kept(store, owner, each)
    }
    lowest = lowest_of(owner.keys, doomed) or owner.attempt
    untouched = await close_lower(store, owner, [number for number in attempts if number >= lowest])
    return plan_retention(owner.attempt, found, line, keep, marked, untouched)


def marks(keys: Keys, found: list[Found], listing: list[str]) -> set[tuple[int, str]]:
    """Commits that have a `kept/<commit>.json` beside them."""
    there = set(listing)
    return {
        (each.attempt, each.commit) for each in found if f"{keys.kept_prefix(each.attempt)}{each.commit}.json" in there
    }


async def _kept(store: Store, owner: Owner, found: Found) -> bool:
    """Whether a commit's own manifest marks it as kept; one that cannot be read marks nothing."""
    try:
        committed: Committed = await read_manifest(store, owner.keys, found.attempt, found.commit)
    except (NotFound, Corrupt):
        return False
    return committed.manifest.kept


async def carry_out(store: Store, steps: list[Delete]) -> None:
    """Delete in order up to the last manifest: so none ever names files that are gone. The files then go together."""
    last = max((n for n, step in enumerate(steps, 1) if step.manifest), default=0)
    for step in steps[:last]:
        await store.delete(step.key)
    await all_of((partial(store.delete, step.key) for step in steps[last:]), FILES_AT_ONCE)
