"""The task's result: done.json, for good (rule 14 of DESIGN.md)."""

from syncd.model import canonical
from syncd.model.attempt import Done
from syncd.model.checkpoint import Committed
from syncd.move.objects import Owner, create_once, read_done
from syncd.store import Store


async def finish(store: Store, owner: Owner, result: Committed, step: int | None, now: float) -> Done:
    """Name the result, create-only; returns the done.json that stands, which may be another's (`attempt` tells)."""
    mine = Done(attempt=owner.attempt, result=str(result.item), step=step, time=now, nonce=owner.nonce)
    while not await create_once(store, owner.keys.done, canonical.encode(mine)):
        theirs = await read_done(store, owner.keys)
        if theirs is not None:
            return theirs
    return mine
