"""Finding checkpoints under the root: what is there now, by the rules. Events only nudge; this is the truth."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from syncd.local.completion import MarkerRule, Rule, State, Verdict, View, judge
from syncd.local.tree import UNREADABLE, Files, Fingerprint, Identity, fingerprint, look_below, opened, read_small
from syncd.model.names import FINAL, family, step_of

MARKERS = tuple(f"/{marker}" for marker in MarkerRule().markers)
DEPTH = 3
"""Components of a checkpoint's name at most."""


@dataclass(frozen=True)
class Seen:
    """A directory that a rule takes for a checkpoint, whole or not."""

    name: str
    verdict: Verdict
    rule: str
    files: Files

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.files)

    @property
    def bytes(self) -> int:
        return sum(each.size for each in self.files.values())

    @property
    def written(self) -> int:
        """When the last of its files was written, ns since the epoch, by a clock that may have been set."""
        return max((each.mtime_ns for each in self.files.values()), default=0)

    def complete(self, *, writer_gone: bool = False) -> bool:
        """Whether it may be committed; where quiet is asked for, a dead writer is quiet enough."""
        return self.verdict.state is State.COMPLETE or (writer_gone and self.verdict.state is State.QUIET)


def scan(
    root: Path, rules: Sequence[Rule], globs: Sequence[str] = ("*",), families: frozenset[str] = frozenset()
) -> list[Seen]:
    """Every checkpoint-like directory at depth 1 to `DEPTH`, outermost only, oldest save first (`in_order`). Blocks.

    `globs` choose by relative name; `families` are kinds of names that are known to carry markers (earlier scans,
    earlier commits), beside those that this look finds.
    """
    with opened(root) as base:
        files, directories = look_below(base, skip_hidden=True)
        marked = families | {family(path.rpartition("/")[0]) for path in files if path.endswith(MARKERS)}

        def look(name: str, inside: Files) -> Seen:
            if (
                name in files
            ):  # a directory that could not be looked into: whose it is, is told where it looks like ours
                ours = step_of(name) is not None or family(name) in marked
                return Seen(name, Verdict(State.HIDDEN if ours else State.OTHER, "", step_of(name)), "", inside)
            view = View(
                name, inside, lambda path, limit: read_small(base, f"{name}/{path}", limit), family(name) in marked
            )
            verdict, rule = judge(view, rules)
            if verdict.state is State.TORN and UNREADABLE in inside.values():
                verdict = Verdict(State.HIDDEN, verdict.reason, verdict.step)
            seen = Seen(name, verdict, rule, inside)
            assert seen.fingerprint is not None  # made here, in the thread: of 100,000 files it takes a while
            return seen

        seen = list(_outermost(files, directories, globs, look))
    return in_order(seen)


def in_order(seen: Sequence[Seen]) -> list[Seen]:
    """Oldest save first: by the time of writing, but those of one kind among themselves by their steps.

    A clock that was set back between two saves of one look would make the older the newer.
    """
    found = sorted(seen, key=lambda each: (each.written, each.verdict.step or 0, each.name))
    kinds: dict[str, list[Seen]] = {}
    for each in found:
        if each.verdict.step is not None:
            kinds.setdefault(family(each.name), []).append(each)
    steps = {kind: iter(sorted(of, key=lambda each: each.verdict.step or 0)) for kind, of in kinds.items()}
    return [next(steps[family(each.name)]) if each.verdict.step is not None else each for each in found]


def _outermost(
    files: Files, directories: Set[str], globs: Sequence[str], look: Callable[[str, Files], Seen]
) -> Iterator[Seen]:
    inside: dict[str, dict[str, Identity]] = {name: {} for name in directories if name.count("/") < DEPTH}
    for path, each in files.items():
        parts = path.split("/")
        for depth in range(1, min(DEPTH, len(parts) - 1) + 1):
            inside["/".join(parts[:depth])]["/".join(parts[depth:])] = each
    taken: list[str] = []
    for name in sorted(inside):  # a parent comes before what is in it
        if any(name.startswith(outer + "/") for outer in taken) or not _wanted(name, globs):
            continue
        found = look(name, inside[name])
        if found.verdict.state is not State.OTHER:
            taken.append(name)
            yield found


def _wanted(name: str, globs: Sequence[str]) -> bool:
    return name == FINAL or any(fnmatch.fnmatchcase(name, glob) for glob in globs)
