"""Fixtures for all tests: seeds that are printed, nodes that live, die and come back."""

import os
import random
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from .canaries import CANARIES, SHOWN, leaks, look, look_through, watch

os.environ.update(CANARIES)
_LOOKED_AT: set[Path] = set()
"""Directories of tests that are over."""


def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    watch(patch)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """I10 for what belongs to no single test: servers and directories of modules and of the session."""
    yield
    if found := look_through(tmp_path_factory.getbasetemp(), _LOOKED_AT):
        pytest.fail(f"I10: a secret is shown: {'; '.join(found)}", pytrace=False)


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
    """Secrets in what was captured of the test, in its failure, in what it took itself, and in what it leaves."""
    texts = {f"captured {name}": text.encode() for name, text in report.sections}
    texts["the failure"] = report.longreprtext.encode()
    found = leaks(texts) + SHOWN
    SHOWN.clear()
    home = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "teardown" and home and home not in _LOOKED_AT:
        _LOOKED_AT.add(home)
        found += look_through(home)
    return list(dict.fromkeys(found))


_SUMMARY = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def sum_up(pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """`sum_up(name, line)`: what a campaign has to say, shown at the end of the run; the last line of each name."""
    lines = pytestconfig.stash.setdefault(_SUMMARY, {})

    def tell(name: str, line: str) -> None:
        look(f"the summary of {name}", line)
        lines[name] = line

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_SUMMARY, {}).values():
        terminalreporter.write_line(line)


@pytest.fixture
def ram_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of fsyncs on a busy disk take minutes and prove nothing more."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="syncd-test-") as made:
        yield Path(made)
