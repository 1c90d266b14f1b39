"""How something that happened is told: a name, and plain fields."""

from typing import Protocol


class Say(Protocol):
    """Reports an event: its name and plain fields (text, numbers, lists of them; never a secret)."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def silent(event: str, /, **fields: object) -> None:
    """Tells nobody."""
