"""Fixtures for all tests: seeds that are printed, nodes that live, die and come back."""

import os
import random
from collections.abc import Iterator

import pytest


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """A seeded generator; the seed is printed when the test fails, and taken from SYNCD_TEST_SEED to repeat it."""
    seed = int(os.environ.get("SYNCD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed: SYNCD_TEST_SEED={seed}")
    yield random.Random(seed)
