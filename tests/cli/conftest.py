"""A verb called within the test's process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.__main__ import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def syncd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """`syncd` with a file store below the test's directory and no other setting; returns exit code, stdout, stderr."""
    for name in [name for name in os.environ if name.startswith(("SYNCD_", "AWS_", "MQTT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_STORE", (tmp_path / "store").as_uri())

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(arguments))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def with_root(syncd: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The same, with a root beside the store."""
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("SYNCD_ROOT", str(tmp_path / "root"))
    return syncd
