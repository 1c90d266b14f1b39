"""The fuzzers' counts at the end of a run."""

import pytest

from tests.faults.fuzzing import INPUTS, SEED, TRACEBACKS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not INPUTS:
        return
    each = ", ".join(f"{name} {count:,}" for name, count in sorted(INPUTS.items()))
    terminalreporter.write_line(f"fuzz: {each} (SYNCD_TEST_SEED={SEED})")
    terminalreporter.write_line(f"fuzz: {INPUTS.total():,} inputs, {TRACEBACKS.total()} tracebacks")
