"""The composition of `syncd chaos`: syncd as it is, over a store that fails by chance and is slow.

`python -m syncd.rehearsed '{"seed": 1, "chance": 0.1, "slow": 0.5}' run -- CMD`. Nothing else differs, and no setting
leads here.
"""

import random
import sys
from typing import TYPE_CHECKING

from syncd import hookimpl
from syncd.__main__ import CORE, main
from syncd.hooks.loading import load, open_store

if TYPE_CHECKING:
    from syncd.hooks import StoreRequest
    from syncd.store import Store


class FailingStores:
    """Asked before all others: opens what they would, and stands around it."""

    def __init__(self, seed: int, chance: float, slow: float) -> None:
        self.seed, self.chance, self.slow = seed, chance, slow

    @hookimpl(tryfirst=True)
    async def open_store(self, event: "StoreRequest") -> "Store":
        from syncd.store.around import FlakyStore

        inner = await open_store(load(extra=CORE), event.settings)
        return FlakyStore(inner, random.Random(self.seed), self.chance, self.slow)


def rehearsed(argv: list[str]) -> int:
    """The command line after the first argument, over the store that this one describes; its exit code."""
    from syncd.errors import Corrupt, UsageError
    from syncd.rehearsal.node import Failing

    try:
        failing = Failing.parse("".join(argv[:1]))
    except Corrupt as error:
        print(f"syncd.rehearsed: {error}", file=sys.stderr)  # noqa: T201 - the command line is not there yet
        return UsageError.exit_code
    return main(argv[1:], beside={"failing": FailingStores(failing.seed, failing.chance, failing.slow)})


if __name__ == "__main__":
    sys.exit(rehearsed(sys.argv[1:]))
