"""Small shared files are replaced whole and read without trust."""

import os
from pathlib import Path

import pytest

from syncd.local.files import read_noun, read_small, read_stamped, write_noun, write_small
from syncd.model import canonical
from syncd.model.local import Beat, ChildMark, Notice, Order, Ready, TrainerState, parse_beat

ORDER = Order(id="a1", action="stop", grace=12.5, time=1.0)


def test_a_written_file_is_read_back_with_its_mode_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_small(tmp_path / "x", b"one", 0o755)
    write_small(tmp_path / "x", b"two", 0o600)
    assert read_small(tmp_path / "x") == b"two"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["x"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(IsADirectoryError):
        write_small(tmp_path / "x", b"data")
    assert os.listdir(tmp_path) == ["x"]


def test_what_is_not_a_small_regular_file_is_read_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x" * 11)
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "link", "fifo", ".", "real/below"):
        assert read_stamped(tmp_path / name) is None, name
    assert read_small(tmp_path / "real", limit=10) is None
    assert read_small(tmp_path / "real", limit=11) == b"x" * 11


def test_nouns_survive_their_file_and_garbage_is_read_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    write_noun(path, ORDER)
    assert read_noun(path, Order) == ORDER
    for garbage in (b"", b"{", b"[]", b'{"version":2}', canonical.encode(ORDER).replace(b"stop", b"fly")):
        path.write_bytes(garbage)
        assert read_noun(path, Order) is None, garbage


def test_every_noun_is_one_canonical_line() -> None:
    nouns = [
        Ready(attempt=1, checkpoint=None, step=None, session="s", time=1.0),
        ORDER,
        TrainerState(state="waiting", id="b.0", pid=0, time=1.0),
        Notice(at=2.0, time=1.0),
        ChildMark(boot_id="b", life="l"),
    ]
    for noun in nouns:
        line = canonical.encode(noun)
        assert line.count(b"\n") == 1
        assert b'"version":1' in line
        assert canonical.decode(line, type(noun), "here") == noun


@pytest.mark.parametrize(
    ("data", "beat"),
    [
        (
            b'{"step": 3, "total": 9, "phase": "train", "loss": 0.5, "time": 7, "new": []}',
            Beat(3, 9, "train", 0.5, 7.0),
        ),
        (b'{"step": 3.0, "loss": NaN, "total": Infinity}', Beat(step=3)),
        (b'{"step": true, "total": -1, "phase": 4, "loss": "x", "time": null}', Beat()),
        (b'{"step": "3", "loss": 1' + b"0" * 400 + b"}", Beat()),
        (b"{}", Beat()),
        (b"[1]", None),
        (b'{"step": 3', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"step": ' + b"9" * 5000 + b"}", None),
    ],
)
def test_a_beat_is_read_from_anything_without_an_error(data: bytes, beat: Beat | None) -> None:
    assert parse_beat(data) == beat
