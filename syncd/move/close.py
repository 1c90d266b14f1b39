"""Closing attempts: who names a result, and who deletes what it might be, decide by one create-only put (rule 15 of DESIGN.md).

A zombie that names its newest checkpoint or its `final/` as the task's result, and a successor or a reset that lets them go,
see nothing of each other. So each first closes the attempt, and the first put decides.
"""

from collections.abc import Iterable
from functools import partial

from syncd.errors import Corrupt, Superseded
from syncd.local.threads import all_of
from syncd.model import canonical
from syncd.model.attempt import Closed
from syncd.model.keys import Keys
from syncd.move.objects import Owner, create_once, get_or_none
from syncd.store import Store

CLOSED_AT_ONCE = 16


async def close_own(store: Store, owner: Owner) -> None:
    """Before anything of this attempt is named as the result. Raises `Superseded` where a successor came first."""
    closed = await _close(store, owner.keys, owner.attempt, owner.attempt)
    if closed.by != owner.attempt:
        raise Superseded(f"attempt {closed.by} has taken over from attempt {owner.attempt}; this node names no result")


async def close_lower(store: Store, owner: Owner, attempts: Iterable[int]) -> int:
    """Before anything of lower attempts is deleted: the highest of them that came first with its result, 0 if none did."""
    lower = [each for each in attempts if each < owner.attempt]
    closed = await all_of((partial(_close, store, owner.keys, each, owner.attempt) for each in lower), CLOSED_AT_ONCE)
    return max((number for number, each in zip(lower, closed, strict=True) if each.by == number), default=0)


async def newest_ended(store: Store, keys: Keys, attempts: Iterable[int]) -> int:
    """The highest of these attempts that closed itself, 0 if none did: its result may be named at any time, by a request
    that is on its way."""

    async def ended(attempt: int) -> int:
        data = await get_or_none(store, keys.closed(attempt))
        return attempt if data is not None and _read(data, keys, attempt).by == attempt else 0

    return max(await all_of((partial(ended, each) for each in attempts), CLOSED_AT_ONCE), default=0)


async def _close(store: Store, keys: Keys, attempt: int, by: int) -> Closed:
    """The `closed.json` that stands."""
    mine = Closed(by=by)
    while not await create_once(store, keys.closed(attempt), canonical.encode(mine)):
        data = await get_or_none(store, keys.closed(attempt))
        if data is not None:
            return _read(data, keys, attempt)
    return mine


def _read(data: bytes, keys: Keys, attempt: int) -> Closed:
    """One that cannot be read is taken for the attempt's own: it may be, and then nothing may be deleted."""
    try:
        return canonical.decode(data, Closed, keys.closed(attempt))
    except Corrupt:
        return Closed(by=attempt)
