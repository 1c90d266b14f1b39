"""A third party's plugin, installed by pip's rules from its own project, works: setting, store, observer, command."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from syncd.store import Store
from syncd.testing import StoreSuite

PROJECT = Path(__file__).parent

USE = """
import asyncio
from syncd.__main__ import EmbeddedStores
from syncd.config import load, make_table
from syncd.hooks import Attach, CheckpointCommitted
from syncd.hooks.emit import attached, emit
from syncd.hooks.loading import load as load_plugins, open_store

async def main():
    plugins = load_plugins(extra={"embedded": EmbeddedStores})
    settings = load(make_table(plugins.ask("settings")))
    store = await open_store(plugins, settings)
    await store.put("t/x", b"1")
    async with attached(plugins, Attach(settings, "t", 1, "n")):
        await emit(plugins, "checkpoint_committed", CheckpointCommitted("checkpoint-200", "checkpoint-200", 1, 200, 9, 0.5))
    assert not plugins.failures, plugins.failures
    print(type(store).__module__, await store.get("t/x"))

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, installed into a directory of its own: as `pip install`, only that nothing else is touched."""
    place = tmp_path_factory.mktemp("sample")
    source = shutil.copytree(PROJECT, place / "source", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-build-isolation", "--no-deps", "--quiet", "--target", str(place / "lib"), str(source)]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv:
        command = [uv, "pip", "install", "--offline", "--python", sys.executable, *options]
    else:
        command = [sys.executable, "-m", "pip", "install", "--no-index", *options]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return place / "lib"


def run(installed: Path, directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"SYNCD_TASK": "t"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=base | environ | {"PYTHONPATH": str(installed)},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_installed_plugin_is_listed_with_its_version_and_hooks(installed: Path, tmp_path: Path) -> None:
    told = run(installed, tmp_path, "-m", "syncd", "plugins", "--json")
    assert told.returncode == 0, told.stderr
    (found,) = [line for line in json.loads(told.stdout)["plugins"] if line["name"] == "sample"]
    assert found == {
        "name": "sample",
        "distribution": "syncd-sample",
        "version": "1.2.3",
        "hooks": ["settings", "commands", "open_store", "attach", "checkpoint_committed"],
    }


@pytest.mark.slow
def test_its_setting_is_one_of_the_table(installed: Path, tmp_path: Path) -> None:
    told = run(installed, tmp_path, "-m", "syncd", "config", "--json", SYNCD_SAMPLE_LOG="/tmp/x")
    (line,) = [line for line in json.loads(told.stdout)["settings"] if line["name"] == "sample_log"]
    assert (line["value"], line["origin"], line["plugin"]) == ("/tmp/x", "environment SYNCD_SAMPLE_LOG", "sample")
    told = run(installed, tmp_path, "-m", "syncd", "config", SYNCD_SAMPLE_LAG="/tmp/x")
    assert told.returncode == 78
    assert "did you mean SYNCD_SAMPLE_LOG?" in told.stderr


@pytest.mark.slow
def test_its_store_is_opened_its_observer_hears_and_its_command_runs(installed: Path, tmp_path: Path) -> None:
    environ = {"SYNCD_STORE": f"sample://{tmp_path}/store", "SYNCD_SAMPLE_LOG": str(tmp_path / "commits")}
    told = run(installed, tmp_path, "-c", USE, **environ)
    assert (told.returncode, told.stdout) == (0, "syncd_sample.store b'1'\n"), told.stderr
    assert (tmp_path / "commits").read_text() == "checkpoint-200\n"
    told = run(installed, tmp_path, "-m", "syncd", "sample", "--json", **environ)
    assert json.loads(told.stdout) == {"version": 1, "commits": ["checkpoint-200"]}
    assert "Print the commits that were listed." in run(installed, tmp_path, "-m", "syncd", "--help").stdout


@pytest.mark.slow
def test_without_the_plugin_its_scheme_and_its_setting_are_mistakes(tmp_path: Path) -> None:
    told = run(tmp_path, tmp_path, "-c", USE, SYNCD_STORE="sample:///x", SYNCD_TASK="t")
    assert "no plugin opens sample:// stores" in told.stderr
    told = run(tmp_path, tmp_path, "-m", "syncd", "config", SYNCD_SAMPLE_LOG="x")
    assert told.returncode == 78


class TestSampleStore(StoreSuite):
    """The plugin's store passes the suite that syncd ships for its plugins."""

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.syspath_prepend(PROJECT)
        module: ModuleType = importlib.import_module("syncd_sample.store")
        opened: Store = module.SampleStore.open(f"sample://{tmp_path}/store")
        return opened
