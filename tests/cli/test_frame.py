"""The frame of the command line: help, exit codes, one line for each mistake, JSON, cost of a start."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd import __main__ as entry
from syncd import __version__, cli, hookimpl
from syncd.cli import VERBS, App, output
from syncd.cli.options import verb
from syncd.config import Settings
from syncd.errors import ConfigError, Superseded, SyncdError, UsageError
from syncd.hooks.loading import load, open_store

CANARY = "c4nary-s3cret"
CPU_LIMIT = 0.4
"""Seconds of processor time that a start may cost."""


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and none of our names in the environment."""
    for name in list(os.environ):
        if name.startswith(("SYNCD_", "MQTT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Outcome = Callable[..., tuple[int, str, str]]
Trial = Callable[[Callable[[], object]], None]


@pytest.fixture
def syncd(capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = entry.main(arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Make `syncd trial` a command that calls a function."""

    def make(body: Callable[[], object]) -> None:
        @verb(examples="syncd trial", settings=False)
        def command(as_json: bool) -> object:
            return body()

        monkeypatch.setattr(cli, "trial", command, raising=False)
        monkeypatch.setitem(VERBS, "trial", ("syncd.cli:trial", "A trial."))

    return make


# ---- help


def test_help_lists_every_verb_with_its_line(syncd: Outcome) -> None:
    code, out, _ = syncd("--help")
    assert code == 0
    for name, (_, text) in VERBS.items():
        assert re.search(rf"^  {name} +{text[:20]}", out, re.MULTILINE)


def test_the_version_is_told(syncd: Outcome) -> None:
    assert syncd("--version") == (0, f"syncd, version {__version__}\n", "")


def test_nothing_asked_is_a_usage_error_with_the_help(syncd: Outcome) -> None:
    code, out, err = syncd()
    assert (code, out) == (64, "")
    assert "Commands:" in err


def test_a_verbs_help_has_its_settings_with_name_and_default_and_its_examples(syncd: Outcome) -> None:
    code, out, _ = syncd("config", "--help")
    text = " ".join(out.split())
    assert code == 0
    assert "--keep N Committed checkpoints that the store keeps. [SYNCD_KEEP; default: 3]" in text
    assert "--upload-limit RATE" in text
    assert "--watch-events / --no-watch-events" in text
    assert "Examples: syncd config SYNCD_KEEP=5 syncd config --json" in text


def test_completion_knows_the_settings_flags(syncd: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SYNCD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "syncd config --upload")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert "--upload-limit" in syncd()[1]


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pusch"], "there is no command 'pusch'; did you mean 'push'?"),
        (["config", "--kepe", "3"], "--kepe"),
        (["config", "surplus"], "surplus"),
        (["config", "--keep"], "--keep"),
        (["config", "--keep", "1"], "--keep='1': input should be greater than or equal to 2"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_64(syncd: Outcome, arguments: list[str], says: str) -> None:
    code, out, err = syncd(*arguments)
    assert (code, out) == (64, "")
    assert err.startswith("syncd: ")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_wrong_configuration_is_one_line_each_and_78(syncd: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_KEPE", "3")
    monkeypatch.setenv("SYNCD_GRACE", "x")
    code, out, err = syncd("config")
    assert (code, out) == (78, "")
    assert [line[:6] for line in err.splitlines()] == ["syncd:", "syncd:"]


def test_with_json_a_mistake_is_an_object_too(syncd: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_KEPE", "3")
    code, out, err = syncd("config", "--json")
    assert (code, json.loads(out)["exit_code"], json.loads(out)["version"]) == (78, 78, 1)
    assert "SYNCD_KEPE" in json.loads(out)["error"]
    assert "SYNCD_KEPE" in err
    assert json.loads(syncd("config", "--json", "--kepe")[1])["exit_code"] == 64


def test_json_after_two_dashes_is_the_trainers(syncd: Outcome) -> None:
    assert syncd("nonsense", "--", "--json")[1] == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 64),
        (ConfigError("x"), 78),
        (Superseded("x"), 77),
        (SyncdError("x"), 1),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [Superseded("x")])]), 77),
    ],
)
def test_an_errors_exit_code_is_the_commands(syncd: Outcome, trial: Trial, error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    trial(fail)
    assert syncd("trial") == (code, "", "syncd: x\n")


def test_an_exit_code_that_is_returned_is_the_commands(syncd: Outcome, trial: Trial) -> None:
    trial(lambda: 75)
    assert syncd("trial")[0] == 75
    trial(lambda: None)
    assert syncd("trial")[0] == 0


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a\nb"), ExceptionGroup("x", [SyncdError("y"), ZeroDivisionError("a b")])]
)
def test_an_unforeseen_error_is_one_line_and_70(
    syncd: Outcome, trial: Trial, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    trial(fail)
    code, _, err = syncd("trial")
    assert (code, err) == (
        70,
        "syncd: internal error: ZeroDivisionError: a b (run with SYNCD_LOG_LEVEL=debug for the traceback)\n",
    )
    monkeypatch.setenv("SYNCD_LOG_LEVEL", "debug")
    assert "Traceback" in syncd("trial")[2]


def test_an_interrupt_is_130_and_silent(syncd: Outcome, trial: Trial) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    trial(interrupt)
    assert syncd("trial") == (130, "", "")


def test_a_broken_pipe_that_is_not_stdout_is_an_error(syncd: Outcome, trial: Trial) -> None:
    def fail() -> None:
        raise BrokenPipeError("a socket")

    trial(fail)
    assert syncd("trial")[0] == 70


# ---- plugins in the frame


def test_a_plugin_that_cannot_be_loaded_stops_commands_but_not_the_help(
    syncd: Outcome, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = bare / "lib" / "broken_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[syncd]\nbroken = no_such_module\n")
    monkeypatch.syspath_prepend(bare / "lib")
    code, _, err = syncd("config")
    assert code == 78
    assert "plugin broken (broken-plugin 1.0) cannot be loaded" in err
    assert "broken-plugin" in syncd("--help")[1]
    code, out, err = syncd("plugins", "--json")
    assert code == 78
    assert "broken-plugin" in json.loads(out)["problems"][0]
    assert "broken-plugin" in err


def test_a_plugins_command_cannot_replace_one_of_ours() -> None:
    class Greedy:
        @hookimpl
        def commands(self) -> dict[str, tuple[str, str]]:
            return {"push": ("x:y", "Mine.")}

    with pytest.raises(ConfigError, match="there is a command 'push' already"):
        App(load(extra={"greedy": Greedy}, entry_points=False)).verbs()


# ---- syncd config


def test_config_shows_value_and_origin_of_every_setting(
    syncd: Outcome, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "syncd.toml").write_text('upload_limit = "20Mbit"')
    monkeypatch.setenv("SYNCD_KEEP", "5")
    code, out, _ = syncd("config", "--json", "--backlog=2")
    settings = {line["name"]: line for line in json.loads(out)["settings"]}
    assert code == 0
    assert (settings["keep"]["value"], settings["keep"]["origin"]) == (5, "environment SYNCD_KEEP")
    assert (settings["backlog"]["value"], settings["backlog"]["origin"]) == (2, "flag --backlog")
    assert (settings["upload_limit"]["value"], settings["upload_limit"]["origin"]) == (
        2_500_000,
        "syncd.toml upload_limit",
    )
    assert (settings["checkpoints"]["value"], settings["checkpoints"]["origin"]) == (["*"], "default")
    assert set(settings["keep"]) == {"name", "value", "origin", "env", "flag", "default", "help", "plugin"}
    assert set(Settings.model_fields) <= set(settings)
    text = syncd("config", "--no-watch-events")[1]
    assert re.search(r"^upload_limit +2500kB +syncd.toml upload_limit +bytes per second", text, re.MULTILINE)
    assert re.search(r"^watch_events +0 +flag --watch-events", text, re.MULTILINE)


def test_flags_may_be_spelt_with_underscores(syncd: Outcome) -> None:
    out = syncd("config", "--json", "--upload_limit", "1kB")[1]
    assert {line["name"]: line["value"] for line in json.loads(out)["settings"]}["upload_limit"] == 1000


def test_json_is_one_line_with_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"b": 1, "a": [1, 2]})
    assert capsys.readouterr().out == '{"a":[1,2],"b":1,"version":1}\n'


def test_a_table_is_plain_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "n"), [("a", 1), ("long name", None), ("[red]x[/red]", 0)])
    assert capsys.readouterr().out == "NAME          N\na             1\nlong name\n[red]x[/red]  0\n"


def test_a_table_on_a_terminal_shows_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    output.print_table(("name",), [("[red]x[/red]",)])
    assert "[red]x[/red]" in capsys.readouterr().out


# ---- the embedded stores


async def test_a_file_url_is_a_directory() -> None:
    assert entry.file_path("file:///a/b%20c%23") == Path("/a/b c#")
    assert entry.file_path("file://localhost/a") == Path("/a")
    for url in ("file://host/a", "file:a", "file:///a?b", "file:///a#b", "file://"):
        with pytest.raises(ConfigError, match="three slashes"):
            entry.file_path(url)


async def test_the_default_store_is_made_and_another_must_have_a_parent(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(bare / "data"))
    plugins = load(extra={"embedded": entry.EmbeddedStores}, entry_points=False)
    store = await open_store(plugins, Settings())
    await store.put("t/x", b"1")
    assert (bare / "data" / "syncd" / "t" / "x").read_bytes() == b"1"
    with pytest.raises(ConfigError, match="create or mount it first"):
        await open_store(plugins, Settings(store=f"file://{bare}/not/mounted"))
    await (await open_store(plugins, Settings(store="memory:"))).put("t/x", b"1")


# ---- as a process


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, *arguments], env=base | environ, capture_output=True, text=True, timeout=60, check=False
    )


def cpu_seconds(code: str) -> float:
    """Processor time of a Python that runs `code`: the best of three, for others use this machine too."""
    script = f"{code}\nimport resource; r = resource.getrusage(resource.RUSAGE_SELF)\nprint(f'CPU {{r.ru_utime + r.ru_stime}}')"
    times = []
    for _ in range(3):
        told = run("-c", script)
        assert told.returncode == 0, told.stderr
        times.append(float(told.stdout.rpartition("CPU ")[2]))
    return min(times)


def test_import_and_help_cost_little() -> None:
    assert cpu_seconds("import syncd") < CPU_LIMIT
    assert cpu_seconds("from syncd.__main__ import main; assert main(['--help']) == 0") < CPU_LIMIT
    assert cpu_seconds("from syncd.__main__ import main; assert main(['--version']) == 0") < CPU_LIMIT


def test_help_imports_no_client_and_no_settings_machinery() -> None:
    heavy = ("pydantic_settings", "asyncio", "aiobotocore", "aiomqtt", "rich", "watchdog", "torch")
    told = run(
        "-c",
        f"from syncd.__main__ import main; import sys; main(['--help']); print([m for m in {heavy} if m in sys.modules])",
    )
    assert told.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    script = "exec 2>&1; (sleep 0.5; $PY -m syncd config; echo code=$? >&2) 2>err | true; cat err"
    told = subprocess.run(
        ["sh", "-c", script], env={**os.environ, "PY": sys.executable}, capture_output=True, text=True, check=False
    )
    assert told.stdout == "code=0\n"


def test_no_output_of_any_command_has_the_secret(bare: Path) -> None:
    secrets = {
        "MQTT_URL": f"mqtt://user:{CANARY}@localhost",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "SYNCD_LOG_LEVEL": "debug",
    }
    for arguments in (["config"], ["config", "--json"], ["plugins"], ["config", "--keep=1"], ["config", "--help"]):
        told = run("-m", "syncd", *arguments, **secrets)
        assert CANARY not in told.stdout + told.stderr
    told = run("-m", "syncd", "config", SYNCD_STORE=f"s3://{CANARY}:{CANARY}@bucket")
    assert told.returncode == 78
    assert CANARY not in told.stdout + told.stderr
