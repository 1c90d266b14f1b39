"""Which checkpoint to resume, and which line to record (rules 3, 4 and 7 of DESIGN.md)."""

from collections.abc import Iterable, Sequence

from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.names import is_final

LONGEST_LINE = 100
"""Items of a recorded line. Retention deleted what is older long ago; marks of `kept` do not need the line."""


def candidates(commits: Iterable[Committed], line: Sequence[LineItem]) -> list[LineItem]:
    """Resume points in the order in which they are tried: the recorded attempt's own commits, then its line.

    Newest means the highest commit number, never a step or a name: a trainer that went back makes lower steps newer.
    A finished model is no resume point.
    """
    own = sorted(commits, key=lambda found: found.manifest.number, reverse=True)
    items = [found.item for found in own if not is_final(found.commit)]
    return items + [item for item in line if item not in items]


def line_to_record(tried: Sequence[LineItem], chosen: int | None) -> tuple[str, ...]:
    """The line from the candidate that was restored (its index) on; empty for a start from zero.

    What was skipped before it leaves the line for good: its successors trust what was restored, not what was hoped for.
    """
    return () if chosen is None else tuple(str(item) for item in tried[chosen : chosen + LONGEST_LINE])
