"""What to push next, under which name, in which order."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from syncd.model.checkpoint import FileEntry, Manifest
from syncd.model.names import RESERVED

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Upload:
    """Store one file's bytes under the checkpoint's prefix."""

    entry: FileEntry


@dataclass(frozen=True, slots=True)
class Check:
    """See that every file is stored in its whole size, and that the source held still."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Create the manifest."""

    manifest: Manifest


Step = Upload | Check | Commit


def plan_push(manifest: Manifest) -> list[Step]:
    """I1 is the order of this list: files, check, manifest last."""
    return [*(Upload(entry) for entry in manifest.files), Check(), Commit(manifest)]


def free_name(name: str, used: Set[str], begun: Set[str] = frozenset()) -> str:
    """The name to commit under: `name`, else the first of `name.2`, `name.3` … that no byte was ever sent for.

    `used`: commit names; one that lies in, or around, a used one is taken too, for their files would share keys.
    `begun`: directories that hold objects of unknown commits (`burned`).

    >>> free_name("checkpoint-200", {"checkpoint-200"})
    'checkpoint-200.2'
    >>> free_name("runs/a", {"runs"})
    'runs.2/a'
    """

    def free(candidate: str) -> bool:
        inside = candidate + "/"
        return candidate not in begun and not any(
            other == candidate or other.startswith(inside) or candidate.startswith(other + "/") for other in used
        )

    if free(name):
        return name
    parts = name.split("/")
    generation = 2
    while True:
        for depth in reversed(range(len(parts))):
            candidate = "/".join([*parts[:depth], f"{parts[depth]}.{generation}", *parts[depth + 1 :]])
            if free(candidate):
                return candidate
        generation += 1


def unfinished(begun: Set[str], used: Set[str]) -> set[str]:
    """Directories that were begun and belong to no commit: a manifest that names their files may still be on its way.

    >>> sorted(unfinished({"checkpoint-1", "checkpoint-1/sub", "checkpoint-2", "events"}, {"checkpoint-1"}))
    ['checkpoint-2']
    """

    def committed(name: str) -> bool:
        return any(name == each or name.startswith(each + "/") or each.startswith(name + "/") for each in used)

    return {name for name in begun if name.split("/", 1)[0] not in RESERVED and not committed(name)}


def triage(waiting: Sequence[P], backlog: int) -> tuple[P | None, list[P]]:
    """From the waiting checkpoints, oldest first: the one to push next, and those to let go.

    At most `backlog` wait; older ones are superseded and skipped (I8). Never the other way round: a checkpoint that is
    committed after a newer one would be the newest by its number.
    """
    kept = list(waiting[-backlog:])
    return (kept[0] if kept else None), list(waiting[: len(waiting) - len(kept)])


def ahead(name: str, step: int | None, newest: str, newest_step: int | None) -> bool:
    """Whether a checkpoint that is not the newest commit may be newer, where nothing but names and steps tells.

    What stands under the newest commit's own name, and is not that, was written after it.

    >>> ahead("checkpoint-4", 4, "checkpoint-6", 6), ahead("latest", None, "latest", None)
    (False, True)
    """
    return name == newest or (step or 0) > (newest_step or 0)


def behind(saves: Sequence[tuple[str, int | None]]) -> set[str]:
    """The names that a trainer went back behind. `saves`: name and step of each, in the order in which they were made.

    Once it has gone back, what has a higher step than its newest save is of a branch that it left; but for names that it has
    saved again since.

    >>> sorted(behind([("c-1", 1), ("c-2", 2), ("c-3", 3), ("c-2", 2)])), behind([("c-1", 1), ("c-2", 2)])
    (['c-3'], set())
    """
    left: set[str] = set()
    known: dict[str, int | None] = {}
    for name, step in saves:
        left.discard(name)
        if step is not None:
            left |= {other for other, there in known.items() if there is not None and there > step and other != name}
        known[name] = step
    return left


def relieve(lacking: int, held: Sequence[int]) -> list[int]:
    """Which pins to let go (their places in `held`) so that `lacking` bytes become free; none where none are lacking.

    `held`: what each pin alone keeps on the disk, those first that are missed least. One that keeps nothing stays: the
    trainer has its files still. All that keep something go where they are not enough: the trainer's disk comes first (I8).

    >>> relieve(150, [0, 100, 100, 100])
    [1, 2]
    """
    chosen = []
    for place, nbytes in enumerate(held):
        if lacking <= 0:
            break
        if nbytes:
            chosen.append(place)
            lacking -= nbytes
    return chosen


def auto_reserve(save: int | None) -> int:
    """Bytes that the trainer's next save needs, by those of its last one (None: it has not saved yet)."""
    return round(save * 1.05) if save else 0


SHARE = 0.5
"""Part of the time between two saves that a paced upload may take: the rest is the reserve for a slower link."""
SLOWEST = 1 << 20
"""Bytes a second below which pacing makes nobody's life better."""


def auto_rate(waiting: int, interval: float | None) -> int:
    """Bytes a second at which `waiting` bytes are stored well before the next save; 0: as fast as it goes.

    `interval`: seconds between the last two saves, None while there was only one.

    >>> auto_rate(600 << 20, 300.0) == 4 << 20
    True
    """
    if not waiting or not interval:
        return 0
    return max(SLOWEST, round(waiting / (interval * SHARE)))


def burned(paths: Iterable[str]) -> set[str]:
    """Directories under which an attempt's objects lie (paths relative to the attempt): names that were begun.

    A name that was only begun is never given to other bytes: an unanswered write of a dead process can still take
    effect.

    >>> sorted(burned(["checkpoint-200/a/b"]))
    ['checkpoint-200', 'checkpoint-200/a']
    """
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")
        found.update("/".join(parts[:n]) for n in range(1, len(parts)))
    return found
