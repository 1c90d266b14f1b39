"""Whole nodes, as in `tests/e2e`, what comes between them and their store, and what a campaign has to say at its end."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from syncd_s3 import client, credentials

from syncd.testing.servers import Minio
from tests.e2e.conftest import file_task, minio, new_node, s3_task
from tests.faults.between import Between

__all__ = ["between", "file_task", "minio", "new_node", "s3_task"]
_SUMMARY = pytest.StashKey[dict[str, str]]()


@pytest.fixture
def between(minio: Minio) -> Iterator[Between]:
    """A proxy before the session's MinIO."""
    with Between(minio.port) as proxy:
        yield proxy


@pytest.fixture
def as_operator(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own process speaks to that MinIO, by sessions that share what botocore's models say: most of what they cost."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)
    new, loader = credentials.new_session, credentials.new_session().get_component("data_loader")

    def quick() -> Any:
        session = new()
        session.register_component("data_loader", loader)
        return session

    for module in (client, credentials):
        monkeypatch.setattr(module, "new_session", quick)


@pytest.fixture(scope="session")
def sum_up(pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """`sum_up(name, line)`: shown at the end of the run, the last line of each name."""
    lines = pytestconfig.stash.setdefault(_SUMMARY, {})
    return lines.__setitem__


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_SUMMARY, {}).values():
        terminalreporter.write_line(line)
