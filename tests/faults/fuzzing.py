"""How inputs are fuzzed: how many, counted one by one, and what a reader may answer."""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings

from syncd.errors import SyncdError

ALL = bool(os.environ.get("SYNCD_TEST_ALL_FAULTS"))
SCALE = 9 if ALL else 0.7
"""`make faults` has over 100,000 inputs, `make test` a part."""
SEED = int(os.environ.get("SYNCD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
LONGEST_LINE = 600
"""Characters of one line that tells a person what is wrong; the names in it are at most so long."""
INPUTS: Counter[str] = Counter()
TRACEBACKS: Counter[str] = Counter()
"""Inputs that were read, and those that ended in something else than a value or an error of ours; by the reader."""


def fuzzed(inputs: int) -> Callable[[Any], Any]:
    """Hypothesis' settings for so many inputs in `make test`; SYNCD_TEST_SEED repeats a run."""

    def decorate(test: Any) -> Any:
        chosen = settings(
            max_examples=round(inputs * SCALE),
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        return seed(SEED)(chosen(test))

    return decorate


@contextlib.contextmanager
def one_input(reader: str, *, where: str | None = None, may: tuple[type[SyncdError], ...] = ()) -> Iterator[None]:
    """Count an input. It gives a value, or one of the errors `may` in a line that names `where`; nothing else."""
    INPUTS[reader] += 1
    try:
        yield
    except may as error:
        assert_told(str(error), where)
    except AssertionError:
        raise
    except Exception:
        TRACEBACKS[reader] += 1
        raise


def assert_told(text: str, where: str | None = None) -> None:
    """A message is one printable line of bounded length."""
    assert text, "an error without a word"
    assert text.isprintable(), f"control characters in {text!r}"
    assert len(text) <= LONGEST_LINE, f"{len(text)} characters: {text[:200]!r}…"
    if where:
        assert where in text, text
