"""Untrusted bytes: a value or `Corrupt`, never anything else (I9)."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.errors import Corrupt, Refused
from syncd.model import canonical
from syncd.model.attempt import Claim, Done, Record, parse_item, parse_record
from syncd.model.checkpoint import FileEntry, FileSum, Manifest, parse_manifest
from syncd.model.heartbeat import HeartbeatBody
from syncd.model.local import parse_beat
from syncd.model.names import MAX_PATH, check_checkpoint_name, check_path, family, step_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["version", "task", "attempt", "number", "name", "commit", "files", "path", "sum", "line", "nonce", "digest"]
    ) | st.text(max_size=5), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
BYTES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
ENTRY = FileEntry("a/b", 3, 0o644, FileSum("crc64nvme:0123456789abcdef"))
MANIFEST = Manifest(
    task="t", attempt=1, number=1, name="c", commit="c", kind="directory", step=1, rule="r", time=0.0, files=(ENTRY,)
)


@given(BYTES)
@settings(max_examples=500)
def test_I9_random_bytes_are_a_value_or_corrupt(data: bytes) -> None:
    for parse in (
        lambda: parse_manifest(data, "where"),
        lambda: parse_record(data, "where"),
        lambda: canonical.decode(data, Claim, "where"),
        lambda: canonical.decode(data, Done, "where"),
        lambda: canonical.decode(data, HeartbeatBody, "where"),
    ):
        try:
            parse()
        except Corrupt as error:
            assert "where" in str(error)
    parse_beat(data)


@given(st.data())
@settings(max_examples=300)
def test_I9_a_manifest_with_one_field_replaced_is_whole_or_corrupt(data: st.DataObject) -> None:
    said = json.loads(canonical.encode(MANIFEST))
    target = data.draw(st.sampled_from([said, said["files"][0], said["files"][0]["sum"]]))
    key = data.draw(st.sampled_from(sorted(target)))
    target[key] = data.draw(JSON)
    try:
        found = parse_manifest(json.dumps(said).encode("utf-8", "surrogatepass"), "where")
    except Corrupt:
        return
    for entry in found.files:
        assert not entry.path.startswith("/")
        assert ".." not in entry.path.split("/")


@given(st.text())
def test_I9_a_path_that_passes_stays_below(path: str) -> None:
    try:
        check_path(path, "where")
    except Refused:
        return
    parts = path.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert "\0" not in path
    assert len(path.encode()) <= MAX_PATH


@given(st.text(max_size=80))
def test_lines_parse_to_what_was_written_or_are_corrupt(text: str) -> None:
    with contextlib.suppress(Corrupt):
        assert str(parse_item(text, "where")) == text


def test_manifests_survive_a_round_trip_and_have_one_spelling() -> None:
    data = canonical.encode(MANIFEST)
    assert parse_manifest(data, "where") == MANIFEST
    assert canonical.encode(parse_manifest(data, "where")) == data
    record = Record(line=("attempt-0001/c d sha256:" + "0" * 64,), nonce="0" * 32)
    assert parse_record(canonical.encode(record), "where") == record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempt", 0),
        ("number", -1),
        ("version", 2),
        ("kind", "link"),
        ("name", "../x"),
        ("commit", "attempt.json"),
        ("files", None),
    ],
)
def test_I9_values_out_of_bounds_are_corrupt(field: str, value: object) -> None:
    said = json.loads(canonical.encode(MANIFEST)) | {field: value}
    with pytest.raises(Corrupt):
        parse_manifest(json.dumps(said).encode(), "where")


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 500 + "b", "a\x7fb", "\ud800", "/abs", "a/../b", "."])
def test_I9_names_that_are_never_carried(name: str) -> None:
    with pytest.raises(Refused):
        check_checkpoint_name(name, "where")


def test_steps_and_families_come_from_the_last_number_of_the_last_component() -> None:
    assert step_of("runs/7/checkpoint-200") == 200
    assert step_of("final") is None
    assert step_of("checkpoint-" + "9" * 40) is None
    assert family("checkpoint-200") == family("checkpoint-1400") != family("elastic-200")
