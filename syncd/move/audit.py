"""Checking the invariants of a stored task: a command for operators, and the last line of every test."""

import asyncio
from dataclasses import dataclass, field

from syncd.decide.retain import group
from syncd.errors import Corrupt, NotFound, brief
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.objects import read_item
from syncd.move.overview import TaskView, present_line, read_task
from syncd.move.restore import sound
from syncd.store import Gate, Store

LONGEST_LINE = 500
"""Characters of a problem or note."""


@dataclass
class Audit:
    """What `verify` found. `problems` break an invariant or cost a checkpoint; `notes` are harmless and named."""

    checkpoints: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.problems


async def audit(store: Store, keys: Keys, *, deep: bool, gate: Gate) -> Audit:
    """Look at every object of a task; `deep` reads every byte of every commit that counts."""
    view = await read_task(store, keys)
    result = Audit()
    result.problems += [f"{key}: {why}" for key, why in view.damaged]
    _attempts(view, result)
    _named(view, result)
    counting = {found.item for found in await present_line(store, view)}
    for found in view.commits.values():
        await _commit(store, keys, found, result, deep=deep, gate=gate, counts=found.item in counting)
    if view.line and not counting and view.done is None:
        result.problems.append(f"{keys.top}: none of the line's {len(view.line)} checkpoints is there to be resumed")
    await _done(store, view, result, deep=deep, gate=gate)
    await _orphans(store, keys, result)
    for lines in (result.problems, result.notes):
        lines[:] = [brief(text, LONGEST_LINE) for text in lines]  # names in it are whatever the store's objects say
    return result


def _attempts(view: TaskView, result: Audit) -> None:
    for attempt in view.attempts:
        where = view.keys.attempt(attempt.number)
        if attempt.claim and (attempt.claim.attempt, attempt.claim.task) != (attempt.number, view.keys.task):
            result.problems.append(f"{where}: the claim is of {attempt.claim.task}/{attempt.claim.attempt}")
        if attempt.commits and not attempt.record:
            result.problems.append(f"{where}: has commits, but no record of what it resumed (I4)")
        numbers = [found.manifest.number for found in attempt.commits]
        if len(set(numbers)) != len(numbers):
            result.problems.append(f"{where}: two commits have one number: {numbers}")
        if attempt.record:
            for item in attempt.record.items(where):
                if item.attempt >= attempt.number:
                    result.problems.append(f"{where}: its line names {item}, which is not of an earlier attempt (I4)")


def _named(view: TaskView, result: Audit) -> None:
    """A manifest that was replaced by another, readable one: no start takes it for what the line names."""
    named = {(item.attempt, item.commit): item for item in view.line}
    for item in view.commits:
        wanted = named.get((item.attempt, item.commit), item)
        if wanted != item:
            result.problems.append(
                f"{view.keys.manifest(item.attempt, item.commit)}: has {item.digest}, the line names {wanted.digest}"
            )


async def _commit(
    store: Store, keys: Keys, found: Committed, result: Audit, *, deep: bool, gate: Gate, counts: bool
) -> None:
    """I1: every byte that a manifest names is stored. Outside the line a zombie may have committed what is gone."""
    wrong = await sound(store, keys, found, deep=deep, gate=gate)
    result.checkpoints += 1
    result.bytes += found.manifest.bytes
    if counts:
        result.problems += wrong
    elif wrong:
        result.notes.append(f"{found.item}: outside the line and incomplete; the next start's clean-up removes it")


async def _done(store: Store, view: TaskView, result: Audit, *, deep: bool, gate: Gate) -> None:
    if view.done is None:
        return
    try:
        item = view.done.item(view.keys.done)
        found = view.commits.get(item) or await read_item(store, view.keys, item)
        result.problems += await sound(store, view.keys, found, deep=deep, gate=gate)
    except (Corrupt, NotFound) as error:
        result.problems.append(f"{view.keys.done}: its result cannot be read: {error}")


async def _orphans(store: Store, keys: Keys, result: Audit) -> None:
    sizes = {entry.key: entry.size for entry in await store.list(keys.top)}
    orphans = [
        key for each in await asyncio.to_thread(group, keys, sizes) if each.manifest is None for key in each.files
    ]
    if orphans:
        total = sum(sizes[key] for key in orphans)
        result.notes.append(
            f"{len(orphans)} files ({total} bytes) of no commit: an upload under way, or one that ended early"
        )
