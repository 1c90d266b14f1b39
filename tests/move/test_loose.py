"""Loose files: the event log in whole lines, the trainer's output in whole segments, extra files."""

import json
from pathlib import Path

import pytest

from syncd.model.keys import Keys
from syncd.move import loose
from syncd.move.loose import MOST_SEGMENTS, Loose, OutputLog
from syncd.move.objects import Owner
from syncd.show.events import EventLog
from syncd.store.memory import MemoryStore
from syncd.testing import open_gate


def carrier(store: MemoryStore, root: Path, *globs: str) -> Loose:
    (root / ".syncd").mkdir(exist_ok=True)
    return Loose(store, Owner(Keys("t"), 1, "0" * 32), root, globs, open_gate)


async def test_events_go_up_in_whole_lines_and_go_on_after_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    log = EventLog(tmp_path / "events.jsonl")
    first = carrier(store, tmp_path)
    log("one", n=1)
    await first.events(log.path)
    with log.path.open("ab") as file:
        file.write(b'{"event":"half')
    await first.events(log.path)
    with log.path.open("ab") as file:
        file.write(b'"}\n')
    await carrier(store, tmp_path).events(log.path)
    segments = [store.objects[key] for key in sorted(store.objects)]
    assert b"".join(segments) == log.path.read_bytes()
    assert len(segments) == 2
    assert all(json.loads(line) for segment in segments for line in segment.splitlines())


async def test_output_goes_up_in_closed_segments_that_then_leave_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loose, "SEGMENT", 1000)
    store = MemoryStore()
    log = OutputLog(tmp_path / "logs").open()
    for n in range(250):
        log.write(b"line %03d\n" % n)
    carry = carrier(store, tmp_path)
    await carry.output(log)
    assert len(store.objects) == 2
    log.close_segment()
    await carry.output(log)
    assert not log.closed()
    assert b"".join(store.objects[key] for key in sorted(store.objects)) == b"".join(
        b"line %03d\n" % n for n in range(250)
    )
    again = OutputLog(tmp_path / "logs").open()
    again.write(b"after a restart\n")
    again.close_segment()
    await carrier(store, tmp_path).output(again)
    assert sorted(store.objects)[-1].endswith("000004.log")


def test_output_never_fills_the_disk_while_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loose, "SEGMENT", 10)
    log = OutputLog(tmp_path / "logs").open()
    for n in range(3 * MOST_SEGMENTS):
        log.write(b"%010d" % n)
    assert len(log.closed()) == MOST_SEGMENTS
    assert log.closed()[-1].read_bytes() == b"%010d" % (3 * MOST_SEGMENTS - 1)


def test_output_on_a_disk_that_refuses_it_does_not_raise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = OutputLog(tmp_path / "logs").open()
    (tmp_path / "logs").rmdir()
    log.write(b"lost")
    log.write(b"lost too")


async def test_extra_files_are_stored_when_they_changed_and_never_from_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "runs").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (root / "runs" / "events.out").write_text("one")
    (root / "runs" / "link").symlink_to(tmp_path / "secret")
    store = MemoryStore()
    carry = carrier(store, root, "runs/**/*", "*.log", ".syncd/**")
    (root / ".syncd" / "x").write_text("own")
    await carry.extras()
    assert store.objects == {"t/attempt-0001/extra/runs/events.out": b"one"}
    (root / "runs" / "events.out").write_text("one and two")
    (root / "train.log").write_text("log")
    await carry.extras()
    assert store.objects["t/attempt-0001/extra/runs/events.out"] == b"one and two"
    assert store.objects["t/attempt-0001/extra/train.log"] == b"log"
