"""How values are written, read and shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.config.values import (
    MOST_BYTES,
    check_name,
    check_url,
    clean_name,
    parse_bytes,
    parse_reserve,
    parse_seconds,
    show_bytes,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1234", 1234),
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("1.5 GiB", 3 << 29),
        ("10MB", 10_000_000),
        ("10M", 10_000_000),
        ("10MB/s", 10_000_000),
        ("2kB", 2000),
        ("3TB", 3 * 10**12),
        ("20Mbit", 2_500_000),
        ("20Mbit/s", 2_500_000),
        ("20Mbps", 2_500_000),
        ("8bit", 1),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "1 2", "iB", "10iB", "nan", "inf", "1e3", "0x10", "10MBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64MiB"):
        parse_bytes(text)


def test_a_reserve_is_a_size_or_auto() -> None:
    assert parse_reserve(" Auto ") == "auto"
    assert parse_reserve("20GiB") == 20 << 30
    with pytest.raises(ValueError, match="auto"):
        parse_reserve(-1)


@given(st.integers(min_value=0, max_value=MOST_BYTES))
def test_a_shown_size_reads_back(number: int) -> None:
    if number % 1000 == 0 or number % 1024 == 0 or number < 1 << 50:
        assert parse_bytes(show_bytes(number)) == number


@pytest.mark.parametrize(
    ("text", "number"), [("90", 90), ("0.5", 0.5), (".5", 0.5), ("90s", 90), ("15m", 900), ("1h", 3600)]
)
def test_durations_are_read_as_people_write_them(text: str, number: float) -> None:
    assert parse_seconds(text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "1d", "nan", "inf", "1h30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="15m"):
        parse_seconds(text)


@given(st.text())
def test_a_cleaned_name_is_a_name(text: str) -> None:
    assert check_name(clean_name(text))


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a b", "a#", "a+", "é", "-x", "x" * 129, "a\n"])
def test_what_cannot_be_a_key_or_a_topic_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        check_name(text)


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "file:///data", "memory:", "gs+x://bucket/a@b"])
def test_urls_with_a_scheme_and_no_credentials_pass(url: str) -> None:
    assert check_url(url) == url


def test_a_path_in_place_of_a_url_is_answered_with_the_url(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file:///data/store"):
        check_url("/data/store")
