"""From samples to the printed table: medians, spread, ratios beside their targets. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

OWN = "syncd"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: seconds of wall and of processor time per unit, peak memory in MiB."""

    wall: float
    cpu: float
    rss: float


@dataclass(frozen=True, slots=True)
class Target:
    """A peer's median divided by ours is to be at least `ratio`."""

    measure: Literal["wall", "cpu"]
    peer: str
    ratio: float


Outcome = Sequence[Sample] | str
"""A tool's samples, or why there are none."""


def spread(values: Sequence[float], digits: int) -> str:
    """`median (least–most)`."""
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least}–{most})"


def ratio(measure: Literal["wall", "cpu"], peer: Sequence[Sample], own: Sequence[Sample]) -> float | None:
    """The peer's median divided by ours; None where ours is 0, too short for the clock."""
    ours = median(getattr(sample, measure) for sample in own)
    return median(getattr(sample, measure) for sample in peer) / ours if ours else None


def verdict(target: Target, outcomes: Mapping[str, Outcome]) -> str:
    """`1.83x, target 1.7x: met`, or `missed`, or why it cannot be said."""
    peer, own = outcomes.get(target.peer, "not run"), outcomes.get(OWN, "not run")
    for outcome in (own, peer):
        if isinstance(outcome, str):
            return f"unknown, target {target.ratio:g}x: {outcome}"
    assert not isinstance(peer, str)
    assert not isinstance(own, str)
    found = ratio(target.measure, peer, own)
    if found is None:
        return f"unknown, target {target.ratio:g}x: too short to measure"
    return f"{found:.2f}x, target {target.ratio:g}x: {'met' if found >= target.ratio else 'missed'}"


def table(title: str, unit: str, outcomes: Mapping[str, Outcome], targets: Sequence[Target]) -> list[str]:
    """The lines for one kind of transfer: a row for each tool, absent ones too, then the targets."""
    rows = [("", f"wall s/{unit}", f"CPU s/{unit}", "peak RSS MiB", "wall /syncd", "CPU /syncd")]
    rows += [_row(name, outcome, outcomes.get(OWN, ())) for name, outcome in outcomes.items()]
    widths = [max(len(row[n]) for row in rows if len(row) > 2) for n in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = [title]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    lines += [
        f"  {target.measure.replace('cpu', 'CPU')} {target.peer}/{OWN}: {verdict(target, outcomes)}"
        for target in targets
    ]
    return lines


def _row(name: str, outcome: Outcome, own: Outcome) -> tuple[str, ...]:
    if isinstance(outcome, str):
        return (name, outcome)
    cells = [
        spread([sample.wall for sample in outcome], 2),
        spread([sample.cpu for sample in outcome], 2),
        spread([sample.rss for sample in outcome], 0),
    ]
    if isinstance(own, str) or not own:
        return (name, *cells, "", "")
    found = (ratio("wall", outcome, own), ratio("cpu", outcome, own))
    return (name, *cells, *("" if each is None else f"{each:.2f}x" for each in found))
