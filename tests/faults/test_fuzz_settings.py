"""Whatever settings say, from any of their places: settings that can be shown, or a clear line for each mistake."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syncd_mqtt import Mqtt
from syncd_mqtt.settings import BrokerUrl, parse
from syncd_obstore import ObstoreSettings
from syncd_obstore.store import _parse as parse_obstore
from syncd_s3 import S3Settings
from syncd_s3.store import _parse as parse_s3

from syncd.__main__ import file_path
from syncd.config import knobs, load, make_table, secrets_of
from syncd.config.values import check_url, parse_bytes, parse_rate, parse_seconds
from syncd.errors import ConfigError, UsageError
from tests.faults.documents import NAMES, SCALARS
from tests.faults.fuzzing import ALL, assert_told, fuzzed, one_input

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if ALL else 120)]

TABLE = make_table([("s3", S3Settings), ("obstore", ObstoreSettings), ("mqtt", Mqtt().settings())])
KNOBS = knobs(TABLE)
URLS = [
    "s3://bucket/prefix", "s3://", "s3:bucket", "s3://b/../x", "s3://b//x", "s3://u:p@b/x", "s3://b?x=1", "s3://b#f", "s3://[::1",
    "s3://b:99999/x", "S3://B/x", "s3://b/%00", "s3://b\n/x", "file:///tmp/x", "file://host/x", "file:x", "file:///%00", "file:///" + "x" * 300,
    "gs://b/x", "az://c/x", "obstore+s3://b/x", "obstore+", "obstore+memory:", "obstore+file:///x", "memory:", "mqtt://h:1883", "mqtts://u:p@h",
    "mqtt://h:port", "mqtt://h:99999", "mqtt://[::1]:1883", "mqtt://[", "mqtt://h/x", "mqtt://%00@h", "http://h", ":", "://", "x" * 3000, "1:", "\ud800:",
]  # fmt: skip
SIZES = ["64MiB", "10MB", "20Mbit", "1e9", "9" * 400, "9" * 5000, "0.1k", "1" * 16 + "TiB", "٣MiB", "-1", "inf", "nan", "auto", " 5 ", "5/s", "1h", "1.m", ".5s", "9" * 400 + "h"]  # fmt: skip
TEXTS = (
    st.sampled_from(
        [*URLS, *SIZES, *NAMES, "1", "0", "true", "no", "*", "a,b", "/etc/*", "../x", "$HOME", "~nobody/x", "~"]
    )
    | st.text(max_size=30)
    | st.builds(str, st.integers() | st.floats())
)
ENV_TEXTS = TEXTS.filter(lambda text: "\0" not in text)
ENV_NAMES = st.sampled_from(
    [env for knob in KNOBS for env in knob.env]
    + ["SYNCD_KEPE", "SYNCD_", "SYNCD_PORT", "AWS_X", "SYNCD_" + "X" * 500, "SYNCD_\n"]
)


def read(flags: dict[str, object], environ: dict[str, str], directory: Path) -> None:
    """Load, and show what was loaded in every way there is."""
    with one_input("settings"):
        try:
            loaded = load(TABLE, flags=flags, environ=environ, directory=directory)
        except (ConfigError, UsageError) as error:
            for line in str(error).split("\n"):
                assert_told(line)
            return
        for knob in KNOBS:
            value = getattr(loaded, knob.name)
            knob.show(value), knob.plain(value), loaded.origin(knob.name)
        secrets_of(loaded)


@fuzzed(500)
@given(st.dictionaries(ENV_NAMES, ENV_TEXTS, max_size=6))
def test_the_environment(environ: dict[str, str]) -> None:
    read({}, environ, HERE)


@fuzzed(300)
@given(st.dictionaries(st.sampled_from([knob.name for knob in KNOBS if knob.flag]), TEXTS, max_size=6))
def test_flags(flags: dict[str, object]) -> None:
    read(flags, {}, HERE)


HERE = Path("/nonexistent")


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
    return '"' + "".join(f"\\U{ord(c):08x}" for c in str(value)) + '"'


TOML_VALUES = (
    st.sampled_from([value for value in SCALARS if value is not None])
    | TEXTS
    | st.lists(TEXTS, max_size=3)
    | st.datetimes().map(str)
)


@fuzzed(400)
@given(
    st.dictionaries(
        st.sampled_from([knob.name for knob in KNOBS]) | st.text(max_size=10) | st.sampled_from(NAMES),
        TOML_VALUES,
        max_size=5,
    ),
    st.binary(max_size=4),
    st.integers(0, 12),
)
def test_toml(ram_path_factory: Path, keys: dict[str, Any], junk: bytes, spoil: int) -> None:
    text = "".join(f"{toml(name)} = {toml(value)}\n" for name, value in keys.items()).encode("utf-8", "surrogatepass")
    if spoil == 0:
        text += junk
    elif spoil == 1:
        text = text[: len(text) // 2]
    (ram_path_factory / ".env").unlink(missing_ok=True)
    (ram_path_factory / "syncd.toml").write_bytes(text)
    read({}, {}, ram_path_factory)


LINES = st.builds("{}={}".format, ENV_NAMES, TEXTS) | st.builds('export {}="{}"'.format, ENV_NAMES, TEXTS) | TEXTS


@fuzzed(400)
@given(st.lists(LINES, max_size=5), st.binary(max_size=4))
def test_dotenv(ram_path_factory: Path, lines: list[str], junk: bytes) -> None:
    (ram_path_factory / "syncd.toml").unlink(missing_ok=True)
    data = "\n".join(lines).encode("utf-8", "surrogatepass") + (junk if len(junk) == 4 else b"")
    (ram_path_factory / ".env").write_bytes(data)
    read({}, dict(os.environ), ram_path_factory)


@pytest.fixture
def ram_path_factory(ram_path: Path) -> Path:
    """One directory for all inputs of a test."""
    return ram_path


@fuzzed(500)
@given(
    st.sampled_from(URLS)
    | st.builds(
        "".join,
        st.lists(
            st.sampled_from([*"/:@?#[]%", "s3", "file", "obstore+", "mqtt", "//", "b", "..", "\n", "é", "%00"]),
            max_size=8,
        ),
    )
)
def test_urls(url: str) -> None:
    with one_input("url"):
        try:
            checked = check_url(url)
        except ValueError:
            checked = None
        for parser in (file_path, parse_s3, parse_obstore):
            if checked is not None:
                try:
                    parser(checked)
                except ConfigError as error:
                    assert len(str(error)) <= 1500
                    assert str(error).isprintable()
        try:
            parse(BrokerUrl(url))
        except ValueError as error:
            assert_told(str(error))


@fuzzed(300)
@given(
    st.sampled_from(SIZES)
    | st.text(max_size=12)
    | st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,3})? ?[kmgtKMGT]?i?(b|bit)?(/s)?", fullmatch=True)
)
def test_sizes_and_times(text: str) -> None:
    with one_input("size"):
        for parser in (parse_bytes, parse_rate, parse_seconds):
            try:
                parser(text)
            except ValueError as error:
                assert_told(str(error))
