"""What our own disk refuses is told once, in words that say what to do; what could not be written comes later."""

import errno
import json
import os
from pathlib import Path

import pytest

from syncd.errors import UsageError
from syncd.local.lock import locked
from syncd.local.place import Place
from syncd.local.trouble import STEADY, Trouble, said
from syncd.show.events import EventLog


class Told(list[tuple[str, str]]):
    """Events with their reasons."""

    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, str(fields.get("why", ""))))


def error(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.fixture
def told() -> Told:
    return Told()


def test_each_kind_of_error_is_told_once_until_all_works_again(told: Told, tmp_path: Path) -> None:
    clock = [0.0]
    trouble = Trouble(tmp_path, told, lambda: clock[0])
    for what in ("status", "look", "status"):
        trouble.failed(what, error(errno.ENOSPC))
    trouble.failed("look", error(errno.EIO))
    assert [event for event, _ in told] == ["disk_error", "disk_error"]
    clock[0] += STEADY
    trouble.worked("look")
    assert len(told) == 2, "status still fails"
    trouble.worked("status")
    assert told[2:] == [("disk_back", "")]
    trouble.failed("status", error(errno.ENOSPC))
    assert [event for event, _ in told[3:]] == ["disk_error"]


def test_a_disk_at_the_edge_of_full_is_no_news(told: Told, tmp_path: Path) -> None:
    clock = [0.0]
    trouble = Trouble(tmp_path, told, lambda: clock[0])
    for _ in range(100):
        clock[0] += STEADY / 2
        trouble.failed("status", error(errno.ENOSPC))
        trouble.worked("status")
    assert len(told) == 1


def test_while_we_start_nothing_is_told_twice(told: Told, tmp_path: Path) -> None:
    trouble = Trouble(tmp_path, told)
    trouble.silent = True
    trouble.failed("status", error(errno.ENOSPC))
    assert told == []
    trouble.silent = False
    trouble.failed("status", error(errno.ENOSPC))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ["bytes are free", "delete something"]),
        (errno.EDQUOT, ["quota", "uid"]),
        (errno.EROFS, ["mount it writable"]),
        (errno.EIO, ["dmesg"]),
        (errno.ENOENT, ["unmounted or removed"]),
        (errno.EACCES, ["belongs to", "syncd runs as", "runAsUser"]),
        (errno.ENAMETOOLONG, ["needs to read and write"]),
    ],
)
def test_a_line_says_what_and_where_and_what_to_do(tmp_path: Path, number: int, words: list[str]) -> None:
    text = said(error(number, f"{tmp_path}/.syncd/x"), tmp_path)
    assert "\n" not in text
    for word in (os.strerror(number), str(tmp_path), *words):
        assert word in text


def test_events_that_the_disk_refused_are_written_later_whole_and_in_order(told: Told, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone" / "events.jsonl")
    log.disk = Trouble(tmp_path, told)
    log("one")
    log("two")
    assert [event for event, _ in told] == ["disk_error"]
    (tmp_path / "gone").mkdir()
    log("three")
    assert [json.loads(line)["event"] for line in log.path.read_text().splitlines()] == ["one", "two", "three"]


def test_half_a_line_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = EventLog(tmp_path / "events.jsonl"), os.write
    log("one")

    def short(fd: int, data: bytes) -> int:
        if len(data) < 10:
            raise error(errno.ENOSPC)
        return write(fd, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        log("two")
    assert len(log.path.read_text().splitlines()) == 1
    log("three")
    assert [json.loads(line)["event"] for line in log.path.read_text().splitlines()] == ["one", "two", "three"]


def test_a_lock_tells_a_root_that_was_emptied_from_one_that_went(tmp_path: Path) -> None:
    root = tmp_path / "root"
    Place(root).make()
    with locked(root) as held:
        assert not held.lost()
        root.rename(tmp_path / "away")
        assert held.lost()
        with pytest.raises(FileNotFoundError):
            held.emptied()
        root.mkdir()
        assert held.emptied()
        Place(root).make()
        assert not held.emptied(), "another's"
        held.renew()
        assert not held.lost()
        with pytest.raises(UsageError, match="another syncd"), locked(root):
            pass
    with locked(root):
        pass


def test_torn_checkpoints_that_were_set_aside_make_room_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.make()
    for name in ("torn-1", "torn-2", "00-whole"):
        (place.quarantine / name).mkdir()
    monkeypatch.setattr("syncd.local.place.free_bytes", lambda _: 100 - 10 * len(list(place.quarantine.iterdir())))
    assert place.make_room(80) == 80
    assert sorted(path.name for path in place.quarantine.iterdir()) == ["00-whole", "torn-2"]
    assert place.make_room(1000) == 90
    assert [path.name for path in place.quarantine.iterdir()] == ["00-whole"], "what was whole stays"
