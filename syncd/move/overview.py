"""A task as a reader finds it: attempts, commits, the line that counts, the result. Only reads (I2)."""

from dataclasses import dataclass

from syncd.decide.choose import candidates
from syncd.errors import Corrupt, NotFound
from syncd.model import canonical
from syncd.model.attempt import Claim, Done, LineItem, Record
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.objects import get_or_none, read_commits, read_done, read_item, read_record, standing
from syncd.store import Store


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt: its claim and record where they can be read, its commits oldest first, and what cannot be read."""

    number: int
    claim: Claim | None
    record: Record | None
    commits: tuple[Committed, ...]
    damaged: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TaskView:
    """All of a task. `line`: what a node that starts now would try to resume, in that order."""

    keys: Keys
    attempts: tuple[AttemptView, ...]
    done: Done | None
    damaged: tuple[tuple[str, str], ...]
    line: tuple[LineItem, ...]

    @property
    def newest(self) -> AttemptView | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def commits(self) -> dict[LineItem, Committed]:
        """Every readable commit by its place."""
        return {found.item: found for attempt in self.attempts for found in attempt.commits}


async def read_attempt(store: Store, keys: Keys, number: int) -> AttemptView:
    """One attempt, with whatever cannot be read named."""
    damaged: list[tuple[str, str]] = []
    claim, record = None, None
    try:
        data = await get_or_none(store, keys.claim(number))
        if data is None:
            damaged.append((keys.claim(number), "is missing"))
        else:
            claim = canonical.decode(data, Claim, keys.claim(number))
    except Corrupt as error:
        damaged.append(_damage(keys.claim(number), str(error)))
    try:
        record = await read_record(store, keys, number)
    except Corrupt as error:
        damaged.append(_damage(keys.record(number), str(error)))
    commits = await read_commits(store, keys, number)
    damaged += [_damage(keys.manifest(number, name), why) for name, why in commits.bad]
    return AttemptView(number, claim, record, commits.good, tuple(damaged))


def _damage(key: str, why: str) -> tuple[str, str]:
    """The key stands once in a line of the two, whether or not what was raised names it."""
    return key, why.removeprefix(f"{key}: ")


async def read_task(store: Store, keys: Keys) -> TaskView:
    """Everything that the task's small objects say."""
    attempts = tuple([await read_attempt(store, keys, number) for number in (await standing(store, keys)).attempts])
    damaged = [each for attempt in attempts for each in attempt.damaged]
    done = None
    try:
        done = await read_done(store, keys)
    except Corrupt as error:
        damaged.append(_damage(keys.done, str(error)))
    recorded = next((each for each in reversed(attempts) if each.record), None)
    line: list[LineItem] = []
    if recorded and recorded.record:
        line = candidates(recorded.commits, recorded.record.items(keys.record(recorded.number)))
    return TaskView(keys, attempts, done, tuple(damaged), tuple(line))


async def present_line(store: Store, view: TaskView) -> list[Committed]:
    """The commits of the line that are still there and readable, newest first."""
    known, found = view.commits, []
    for item in view.line:
        try:
            found.append(known.get(item) or await read_item(store, view.keys, item))
        except (NotFound, Corrupt):
            continue
    return found
