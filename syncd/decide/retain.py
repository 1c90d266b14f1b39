"""Which checkpoints to delete from the store, in which order (rules 10 to 13 of DESIGN.md)."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from syncd.model.attempt import LineItem
from syncd.model.keys import Keys, attempt_number
from syncd.model.names import RESERVED, is_final

KEEP_AT_LEAST = 2
"""Of one checkpoint kept, one silent damage loses everything."""


@dataclass(frozen=True, slots=True)
class Found:
    """One commit found in a listing: its place, and the keys of its manifest (None: an orphan) and files."""

    attempt: int
    commit: str
    manifest: str | None
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one object."""

    key: str
    why: str

    @property
    def manifest(self) -> bool:
        """Whether it is one: those go first, in order (I1); and done.json before them."""
        return "/manifests/" in self.key or self.key.endswith("/done.json")


def group(keys: Keys, listing: Iterable[str]) -> list[Found]:
    """Sort a task's keys into commits and orphans, by attempt. Claims, records, events, logs are none of either.

    A file belongs to the longest committed name above it; files that no manifest's name covers form one orphan for each
    first component.
    """
    manifests: dict[tuple[int, str], str] = {}
    loose: list[tuple[int, str, str]] = []
    for key in listing:
        head, _, rest = key.removeprefix(keys.top).partition("/")
        number = attempt_number(head)
        if number is None or not rest:
            continue
        commit = keys.commit_of(number, key)
        if commit:
            manifests[number, commit] = key
        elif rest.split("/", 1)[0] not in RESERVED and "/" in rest:
            loose.append((number, rest, key))
    files: dict[tuple[int, str], list[str]] = {place: [] for place in manifests}
    for number, rest, key in loose:
        parts = rest.split("/")
        above = ("/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        owner = next((name for name in above if (number, name) in manifests), parts[0])
        files.setdefault((number, owner), []).append(key)
    return [Found(n, commit, manifests.get((n, commit)), tuple(keys_)) for (n, commit), keys_ in sorted(files.items())]


def keepers(line: Sequence[LineItem], present: Set[tuple[int, str]], keep: int) -> list[LineItem]:
    """The newest of the line that are still there: at least `KEEP_AT_LEAST`, else `keep`."""
    there = [item for item in line if (item.attempt, item.commit) in present]
    return there[: max(keep, KEEP_AT_LEAST)]


def lowest_of(keys: Keys, steps: Iterable[Delete]) -> int | None:
    """The lowest attempt that loses something.

    A result that an attempt below it could still name lies at or below that one: nothing of it goes, so nobody need ask.
    """
    return min((number for step in steps if (number := keys.attempt_of(step.key))), default=None)


def plan_retention(
    attempt: int,
    found: Sequence[Found],
    line: Sequence[LineItem],
    keep: int,
    marked: Set[tuple[int, str]],
    untouched: int = 0,
) -> list[Delete]:
    """What the owner of `attempt` may delete: manifests first, then files (I1, I7).

    `line`: own commits newest first, then the own record's line; checkpoints outside of it do not count as kept.
    `marked`: commits kept by a mark; `untouched`: nothing of attempts up to this one goes. Of lower attempts everything
    outside the line goes, of the own attempt only older commits (its orphans may be running uploads), of higher ones
    nothing. Finished models stay.
    """
    present = {(each.attempt, each.commit) for each in found if each.manifest}
    kept = {(item.attempt, item.commit) for item in keepers(line, present, keep)} | marked
    inline = {(item.attempt, item.commit) for item in line}
    doomed = [
        each
        for each in found
        if each.attempt > untouched
        and (each.attempt, each.commit) not in kept
        and not is_final(each.commit)
        and (each.attempt < attempt or (each.attempt == attempt and each.manifest))
    ]
    why = dict.fromkeys(inline, "older than those kept")
    manifests = [
        Delete(each.manifest, why.get((each.attempt, each.commit), "outside the line"))
        for each in doomed
        if each.manifest
    ]
    files = [
        Delete(key, why.get((each.attempt, each.commit), "outside the line" if each.manifest else "of no commit"))
        for each in doomed
        for key in each.files
    ]
    return [*manifests, *files]
