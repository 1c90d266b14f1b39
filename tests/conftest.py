"""Fixtures for all tests: seeds that are printed, nodes that live, die and come back."""

import os
import random
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .canaries import CANARIES, documents, leaks

os.environ.update(CANARIES)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """A seeded generator; the seed is printed when the test fails, and taken from SYNCD_TEST_SEED to repeat it."""
    seed = int(os.environ.get("SYNCD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed: SYNCD_TEST_SEED={seed}")
    yield random.Random(seed)


SERVERS = ("MinIO", "Mosquitto")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where SYNCD_TEST_NO_SKIP is set (CI), a real server that is not here is a failure, not a skip. A secret that is shown
    is one anywhere."""
    report = yield
    if report.skipped and os.environ.get("SYNCD_TEST_NO_SKIP") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(SERVERS):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not allow: {reason}"
    if found := _shown(item, report):
        report.outcome = "failed"
        report.longrepr = f"I10: a secret is shown: {'; '.join(found)}\n{report.longrepr or ''}"
    return report


def _shown(item: pytest.Item, report: pytest.TestReport) -> list[str]:
    """Secrets in what was captured of the test, in its failure, and in logs and documents that it left."""
    texts = {f"captured {name}": text.encode() for name, text in report.sections}
    texts["the failure"] = report.longreprtext.encode()
    if report.when == "call":
        arguments = getattr(item, "funcargs", {})
        texts |= documents([arguments[name] for name in ("tmp_path", "ram_path") if name in arguments])
    return leaks(texts)


@pytest.fixture
def ram_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of fsyncs on a busy disk take minutes and prove nothing more."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="syncd-test-") as made:
        yield Path(made)
