"""Where settings come from, which source wins, and that every mistake is told, at once and without secrets."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr

from syncd.config import Settings, handed_on, knobs, load, make_table, secrets_of
from syncd.errors import ConfigError, SyncdError, UsageError

CANARY = "c4nary-s3cret"


class Plugin(BaseModel):
    """A plugin's fields; its lax configuration must not become the table's."""

    model_config = ConfigDict(extra="allow")

    demo_token: SecretStr | None = Field(
        default=None, description="a secret", validation_alias=AliasChoices("demo_token", "DEMO_TOKEN")
    )
    demo_count: int = Field(default=7, ge=0, description="a number")


TABLE = make_table([("demo", Plugin)])


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty current directory."""
    return tmp_path


def read(here: Path, environ: dict[str, str] | None = None, **kwargs: Any) -> Settings:
    return load(TABLE, environ={} if environ is None else environ, directory=here, **kwargs)


def lines(kind: type[SyncdError], here: Path, environ: dict[str, str] | None = None, **kwargs: Any) -> list[str]:
    with pytest.raises(kind) as error:
        read(here, environ, **kwargs)
    assert type(error.value) is kind
    assert CANARY not in str(error.value)
    return str(error.value).splitlines()


# ---- sources


def test_flag_beats_environment_beats_dotenv_beats_toml_beats_default(here: Path) -> None:
    environ = {}
    flags = {}
    assert (read(here).keep, read(here).origin("keep")) == (3, "default")
    (here / "syncd.toml").write_text("keep = 4")
    assert (read(here).keep, read(here).origin("keep")) == (4, "syncd.toml keep")
    (here / ".env").write_text("# mine\nexport SYNCD_KEEP=5\n")
    assert (read(here).keep, read(here).origin("keep")) == (5, ".env line 2, SYNCD_KEEP")
    environ["SYNCD_KEEP"] = "6"
    assert (read(here, environ).keep, read(here, environ).origin("keep")) == (6, "environment SYNCD_KEEP")
    flags["keep"] = "7"
    found = read(here, environ, flags=flags)
    assert (found.keep, found.origin("keep")) == (7, "flag --keep")


def test_sources_are_joined_field_by_field(here: Path) -> None:
    (here / "syncd.toml").write_text('checkpoints = ["a*", "b*"]\nwatch_events = false\ndemo_count = 9')
    (here / ".env").write_text("SYNCD_EXTRA='runs/**, *.log'")
    found = read(here, {"SYNCD_UPLOAD_LIMIT": "20Mbit", "SYNCD_LOG_LEVEL": "DEBUG"}, flags={"stall_after": "1h"})
    assert (found.checkpoints, found.watch_events, found.extra) == (("a*", "b*"), False, ("runs/**", "*.log"))
    assert (found.upload_limit, found.log_level, found.stall_after) == (2_500_000, "debug", 3600.0)
    assert isinstance(found, Plugin)
    assert found.demo_count == 9


def test_a_rate_is_a_number_or_auto(here: Path) -> None:
    for text, value, shown in (("AUTO", "auto", "auto"), ("0", 0, "0"), ("10MB", 10_000_000, "10MB")):
        found = read(here, {"SYNCD_UPLOAD_LIMIT": text})
        assert found.upload_limit == value
        (knob,) = (each for each in knobs(type(found)) if each.name == "upload_limit")
        assert knob.show(found.upload_limit) == shown
    for text in ("fast", "-1", "auto 3"):
        with pytest.raises(ConfigError) as caught:
            read(here, {"SYNCD_UPLOAD_LIMIT": text})
        assert "SYNCD_UPLOAD_LIMIT" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    (here / "syncd.toml").write_text("upload_limit = -5")
    with pytest.raises(ConfigError, match="a rate is 0 or more"):
        read(here)


def test_an_empty_variable_is_none(here: Path) -> None:
    assert read(here, {"SYNCD_GROUP": "", "SYNCD_KEEP": ""}).group is None


def test_another_file_can_stand_for_syncd_toml(here: Path) -> None:
    (here / "other.toml").write_text("keep = 8")
    (here / "syncd.toml").write_text("keep = 4")
    assert read(here, {"SYNCD_CONFIG": str(here / "other.toml")}).keep == 8
    assert read(here, config=here / "other.toml").keep == 8


def test_a_named_file_must_exist(here: Path) -> None:
    assert "No such file" in lines(ConfigError, here, config=here / "none.toml")[0]


def test_settings_of_tests_read_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNCD_KEEP", "9")
    assert Settings(root=tmp_path, store="memory:").keep == 3


def test_aws_names_of_dotenv_reach_the_environment_but_do_not_replace_it(here: Path) -> None:
    (here / ".env").write_text(f"AWS_ACCESS_KEY_ID=mine\nAWS_SECRET_ACCESS_KEY={CANARY}\nOTHER=x\n")
    environ = {"AWS_ACCESS_KEY_ID": "theirs"}
    read(here, environ)
    assert environ == {"AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": CANARY}


# ---- defaults


def test_the_store_is_in_the_users_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "my data"))
    assert Settings().store == f"file://{tmp_path}/my%20data/syncd"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().store == f"file://{tmp_path}/.local/share/syncd"


def test_the_tasks_name_tells_roots_of_one_name_apart(tmp_path: Path) -> None:
    tasks = [Settings(root=tmp_path / project / "my run (2)").task for project in "ab"]
    assert all(task.startswith("my-run-2-") for task in tasks)
    assert tasks[0] != tasks[1]
    assert Settings(root=Path("/")).task.startswith("default-")


def test_the_root_is_absolute_with_links_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert Settings(root=Path("link")).root == tmp_path / "real"


def test_every_setting_has_help_without_a_full_stop() -> None:
    for line in knobs(TABLE):
        assert line.help, line.name
        assert not line.help.endswith("."), line.name


# ---- mistakes


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KEEP", "1", "greater than or equal to 2"),
        ("KEEP", "many", "valid integer"),
        ("BACKLOG", "0", "greater than or equal to 1"),
        ("MAX_RESTARTS", "-1", "greater than or equal to 0"),
        ("GRACE", "soon", "number of seconds"),
        ("HEARTBEAT", "0", "greater than 0"),
        ("UPLOAD_LIMIT", "10 parsecs", "64MiB"),
        ("MEMORY_BUDGET", "1kB", "greater than or equal to"),
        ("CONCURRENCY", "1000", "less than or equal to 256"),
        ("STORE", "/data/store", "file:///data/store"),
        ("TASK", "../other", "letters, digits"),
        ("PROJECT", "a/b", "letters, digits"),
        ("NODE", "a+b", "letters, digits"),
        ("CHECKPOINTS", ",", "at least 1 item"),
        ("CHECKPOINTS", "/abs/*", "leads out of the root"),
        ("EXTRA", "../*", "leads out of the root"),
        ("WATCH_EVENTS", "perhaps", "valid boolean"),
        ("LOG_FORMAT", "xml", "'auto', 'text' or 'json'"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("DEMO_COUNT", "-1", "greater than or equal to 0"),
    ],
)
def test_a_bad_value_is_told_with_its_name_and_its_text(here: Path, name: str, value: str, says: str) -> None:
    (line,) = lines(ConfigError, here, {f"SYNCD_{name}": value})
    assert line.startswith(f"environment SYNCD_{name}={value!r}: ")
    assert says in line


def test_a_bad_flag_is_a_usage_error(here: Path) -> None:
    assert lines(UsageError, here, flags={"keep": "1"}) == ["--keep='1': input should be greater than or equal to 2"]
    assert (UsageError.exit_code, ConfigError.exit_code) == (64, 78)


def test_all_mistakes_are_told_at_once(here: Path) -> None:
    (here / ".env").write_text("SYNCD_KEPE=3\nwhat is this\nSYNCD_GRACE=x\n")
    (here / "syncd.toml").write_text('uplod_limit = "1MB"\nquiet = []')
    environ = {"SYNCD_BACKLOG": "0", "SYNCD_STROE": "x", "SYNCD_DEMO_TOKEN_FILE": "/none"}
    found = lines(ConfigError, here, environ, flags={"keep": "1"})
    expected = [
        "--keep='1'",
        "environment SYNCD_STROE: there is no such setting; did you mean SYNCD_STORE?",
        "line 2: not a line of the form NAME=value",
        ".env line 1, SYNCD_KEPE: there is no such setting; did you mean SYNCD_KEEP?",
        "syncd.toml uplod_limit: there is no such setting; did you mean upload_limit?",
        "environment SYNCD_DEMO_TOKEN_FILE: /none: No such file",
        "environment SYNCD_BACKLOG='0'",
        ".env line 3, SYNCD_GRACE='x'",
        "syncd.toml quiet='[]'",
    ]
    assert len(found) == len(expected)
    for text in expected:
        assert any(text in line for line in found), text


def test_an_unknown_name_far_from_all_suggests_nothing(here: Path) -> None:
    (line,) = lines(ConfigError, here, {"SYNCD_XYZZYPLUGH": "1"})
    assert "did you mean" not in line


def test_a_mistake_in_the_root_is_told_once(here: Path) -> None:
    (line,) = lines(ConfigError, here, {"SYNCD_ROOT": "a\0b"})
    assert line.startswith("environment SYNCD_ROOT=")


def test_what_kubernetes_injects_gets_a_hint_of_its_own(here: Path) -> None:
    environ = {
        "SYNCD_PORT": "tcp://10.0.0.1:80",
        "SYNCD_SERVICE_HOST": "10.0.0.1",
        "SYNCD_SERVICE_PORT": "80",
        "SYNCD_SERVICE_PORT_HTTP": "80",
        "SYNCD_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SYNCD_PORT_80_TCP_ADDR": "10.0.0.1",
        "SYNCD_METRICS_PORT_9090_TCP_PROTO": "tcp",
    }
    (line,) = lines(ConfigError, here, environ)
    assert "and 6 more" in line
    assert "enableServiceLinks: false" in line


@pytest.mark.parametrize("content", [b"keep = ", b"\xff\xfe", b"[keep"])
def test_an_unreadable_toml_is_a_line(here: Path, content: bytes) -> None:
    (here / "syncd.toml").write_bytes(content)
    (line,) = lines(ConfigError, here)
    assert str(here / "syncd.toml") in line


def test_a_directory_in_place_of_a_file_is_a_line(here: Path) -> None:
    (here / ".env").mkdir()
    (line,) = lines(ConfigError, here)
    assert "Is a directory" in line


# ---- secrets


def test_credentials_in_the_store_url_are_refused_unseen(here: Path) -> None:
    (line,) = lines(ConfigError, here, {"SYNCD_STORE": f"s3://AKIA:{CANARY}@bucket/x"})
    assert "credentials do not belong" in line
    assert "AKIA" not in line


def test_a_secret_can_come_from_a_file(here: Path) -> None:
    (here / "token").write_text(CANARY + "\n")
    for name in ("SYNCD_DEMO_TOKEN_FILE", "DEMO_TOKEN_FILE"):
        found = read(here, {name: str(here / "token")})
        assert isinstance(found, Plugin)
        assert found.demo_token is not None
        assert found.demo_token.get_secret_value() == CANARY
        assert found.origin("demo_token") == f"environment {name}, {here / 'token'}"


def test_a_secret_given_twice_is_a_mistake(here: Path) -> None:
    (here / "token").write_text("x")
    (line,) = lines(ConfigError, here, {"DEMO_TOKEN": CANARY, "SYNCD_DEMO_TOKEN_FILE": str(here / "token")})
    assert "take one away" in line


def test_a_secret_file_that_is_too_large_is_a_mistake(here: Path) -> None:
    (line,) = lines(ConfigError, here, {"SYNCD_DEMO_TOKEN_FILE": "/dev/zero"})
    assert "more than" in line


def test_a_name_without_prefix_and_ours_are_one_setting(here: Path) -> None:
    assert read(here, {"DEMO_TOKEN": "a"}).origin("demo_token") == "environment DEMO_TOKEN"
    both = read(here, {"DEMO_TOKEN": "a", "SYNCD_DEMO_TOKEN": "b"})
    assert both.origin("demo_token") == "environment SYNCD_DEMO_TOKEN"


def test_a_secret_is_in_no_text_of_the_settings(here: Path) -> None:
    found = read(here, {"SYNCD_DEMO_TOKEN": CANARY})
    assert secrets_of(found) == (CANARY,)
    for text in (repr(found), str(found), found.model_dump_json()):
        assert CANARY not in text
    for line in knobs(TABLE):
        assert CANARY not in f"{line.show(getattr(found, line.name))} {line.plain(getattr(found, line.name))}"


def test_a_secret_is_redacted_even_where_another_value_repeats_it(here: Path) -> None:
    lines(ConfigError, here, {"SYNCD_DEMO_TOKEN": CANARY, "SYNCD_KEEP": CANARY})


# ---- handed on to a child


def test_a_child_has_the_same_settings_wherever_they_came_from(here: Path) -> None:
    (here / "syncd.toml").write_text('upload_limit = "20Mbit"\nwatch_events = false\nextra = ["a", "b/**"]')
    (here / ".env").write_text("SYNCD_GRACE=15m\n")
    (here / "token").write_text(CANARY)
    environ = {"SYNCD_KEEP": "6", "SYNCD_NODE": "", "PATH": "/bin", "AWS_REGION": "r"}
    flags = {"keep": "7", "memory_budget": "100MB", "digest": "sha256", "demo_count": "0"}
    ours = read(here, environ, flags=flags | {"demo_token_file": str(here / "token")})
    env = handed_on(ours, environ)
    print(env)
    theirs = load(TABLE, environ=dict(env), directory=here / "elsewhere")
    assert ours.model_dump() == theirs.model_dump() | {"root": ours.root, "task": ours.task}
    assert (env["PATH"], env["AWS_REGION"]) == ("/bin", "r")
    assert "SYNCD_NODE" not in env, "a default is nothing to hand on"
    assert CANARY not in str(env), "the file is named, not its secret"


def test_a_child_gets_a_secret_by_its_own_name(here: Path) -> None:
    environ = {"DEMO_TOKEN": CANARY}
    env = handed_on(read(here, environ), environ)
    assert env == {"SYNCD_DEMO_TOKEN": CANARY}
    assert load(TABLE, environ=env, directory=here).demo_token.get_secret_value() == CANARY  # type: ignore[attr-defined]


def test_a_verb_with_a_task_of_its_own_needs_no_name_for_a_shared_store(here: Path) -> None:
    environ = {"SYNCD_STORE": "s3://bucket/prefix"}
    assert "SYNCD_TASK" in lines(ConfigError, here, environ)[0]
    assert read(here, environ, needs_task=False).store == "s3://bucket/prefix"


def test_a_secret_has_no_flag_but_its_file_has() -> None:
    flags = {line.name: line.flag for line in knobs(TABLE)}
    assert (flags["demo_token"], flags["demo_token_file"]) == (None, "--demo-token-file")


# ---- plugins


def test_a_plugins_configuration_does_not_loosen_the_table() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        TABLE(surprise=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["keep", "port", "service_host", "config", "demo_token_file", "origin"])
def test_a_plugin_cannot_take_a_name_that_is_taken(name: str) -> None:
    model = type("Model", (BaseModel,), {"__annotations__": {name: int}, name: 1})
    with pytest.raises(ConfigError, match=rf"plugin late.*{name}.*taken"):
        make_table([("demo", Plugin), ("late", model)])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="plugin odd"):
        make_table([("odd", dict)])  # type: ignore[list-item]
