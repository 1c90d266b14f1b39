"""What a store, a disk or a network says to one question about what it can do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """`yes`: True, False, or None where it cannot be known. `said`: a figure, or why, in a few words and without any
    secret. `value`: the figure for programs, in bytes, seconds or bytes a second."""

    yes: bool | None
    said: str = ""
    value: float | None = None


NEAR = 60.0
"""Seconds by which clocks may differ and still be called one: signatures stand up to 900."""


def clocks(skew: float, exact: float = 1.0) -> Answer:
    """The answer for another clock that is `skew` seconds ahead of this one, as far as `exact` seconds tell.

    >>> clocks(-90.2)
    Answer(yes=False, said='it is 90 s behind', value=-90.0)
    """
    if abs(skew) <= exact:
        return Answer(True, f"within {exact:.0f} s", 0.0)
    return Answer(abs(skew) <= NEAR, f"it is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}", round(skew, 0))
