"""The contract file, alone: no torch, no syncd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainer import contract


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNCD_ROOT", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make(tmp_path, 200)


def make(parent: Path, step: int, marked: bool = False) -> Path:
    directory = parent / f"checkpoint-{step}"
    (directory / "inner").mkdir(parents=True)
    (directory / "weights").write_bytes(b"12345")
    (directory / "inner" / "state").write_bytes(b"123")
    if marked:
        contract.mark_complete(directory)
    return directory


def put_ready(root: Path, text: str) -> None:
    (root / ".syncd").mkdir(exist_ok=True)
    (root / ".syncd" / "ready.json").write_text(text)


def test_the_contract_file_needs_nothing_but_the_standard_library() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import contract; contract.notice()"
    directory = str(Path(contract.__file__).parent)
    subprocess.run([sys.executable, "-I", "-S", "-c", code, directory], check=True)


def test_the_marker_lists_every_file_and_the_step(checkpoint: Path) -> None:
    line = contract.mark_complete(checkpoint).read_text()
    assert json.loads(line) == {"step": 200, "files": {"inner/state": 3, "weights": 5}}
    assert line.count("\n") == 1


def test_everything_is_synced_before_the_marker_appears_and_the_marker_before_it_is_renamed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(path.relative_to(checkpoint.parent).as_posix())
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        events.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    contract.mark_complete(checkpoint)
    name = checkpoint.name
    before, after = events[: events.index("rename _SUCCESS")], events[events.index("rename _SUCCESS") + 1 :]
    assert {f"{name}/weights", f"{name}/inner/state", f"{name}/inner", name, "."} <= set(before)
    assert before[-1] == f"{name}/._SUCCESS.tmp"
    assert after == [name]


def test_a_file_that_cannot_be_synced_leaves_no_marker(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        contract.mark_complete(checkpoint)
    assert not (checkpoint / "_SUCCESS").exists()


def test_marking_twice_leaves_the_marker_as_it_is(checkpoint: Path) -> None:
    first = contract.mark_complete(checkpoint).stat()
    second = contract.mark_complete(checkpoint).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


def test_marking_again_after_a_file_has_grown_renews_the_marker(checkpoint: Path) -> None:
    contract.mark_complete(checkpoint)
    (checkpoint / "weights").write_bytes(b"123456")
    assert not contract.is_complete(checkpoint)
    contract.mark_complete(checkpoint)
    assert contract.is_complete(checkpoint)


def test_unmark_removes_the_marker_and_tolerates_that_there_is_none(checkpoint: Path) -> None:
    contract.mark_complete(checkpoint)
    assert contract.unmark(checkpoint)
    assert not contract.unmark(checkpoint)
    assert not contract.unmark(checkpoint / "no such")


def test_the_newest_complete_directory_is_that_of_the_highest_step_not_of_the_highest_name(
    tmp_path: Path,
) -> None:
    make(tmp_path, 1000, marked=True)
    make(tmp_path, 200, marked=True)
    make(tmp_path, 1200)
    assert contract.latest_complete(tmp_path) == tmp_path / "checkpoint-1000"


def test_a_directory_that_lost_a_file_after_its_marker_is_not_complete(tmp_path: Path) -> None:
    make(tmp_path, 200, marked=True)
    (make(tmp_path, 400, marked=True) / "weights").unlink()
    assert contract.latest_complete(tmp_path) == tmp_path / "checkpoint-200"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}'])
def test_a_marker_without_a_readable_list_counts_by_its_existence(checkpoint: Path, text: str) -> None:
    (checkpoint / "_SUCCESS").write_text(text)
    assert contract.is_complete(checkpoint)


def test_a_beat_says_where_training_is(tmp_path: Path) -> None:
    assert contract.beat(3, 10, loss=0.5, root=tmp_path, force=True, node="a")
    said = json.loads((tmp_path / "progress.json").read_text())
    assert (said["step"], said["total"], said["phase"], said["loss"]) == (3, 10, "train", 0.5)
    assert (said["pid"], said["node"]) == (os.getpid(), "a")
    assert isinstance(said["time"], float)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_json_cannot_say_becomes_null(tmp_path: Path, loss: float) -> None:
    contract.beat(1, loss=loss, root=tmp_path, force=True)
    assert json.loads((tmp_path / "progress.json").read_text())["loss"] is None


def test_beats_are_written_once_a_second_unless_the_phase_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(contract.time, "monotonic", lambda: clock[0])
    written = [contract.beat(1, root=tmp_path)]
    clock[0] += 0.9
    written.append(contract.beat(2, root=tmp_path))
    written.append(contract.beat(2, phase="save", root=tmp_path))
    written.append(contract.beat(3, phase="save", root=tmp_path, force=True))
    clock[0] += 1.0
    written.append(contract.beat(4, phase="save", root=tmp_path))
    assert written == [True, False, True, True, True]


def test_a_disk_error_is_warned_of_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setitem(contract._beat, "warned", False)
    missing = tmp_path / "no such"
    assert not any(contract.beat(step, root=missing, force=True) for step in range(3))
    assert len(recwarn) == 1
    assert "progress cannot be written" in str(recwarn[0].message)


def test_an_unknown_phase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="phase"):
        contract.beat(1, phase="trian", root=tmp_path)


def test_without_syncd_nothing_is_waited_for(tmp_path: Path) -> None:
    assert contract.wait_ready(root=tmp_path) is None


def test_ready_is_waited_for_through_torn_json(tmp_path: Path) -> None:
    put_ready(tmp_path, '{"version": 1, "checkp')
    directory = make(tmp_path, 400, marked=True)
    timer = threading.Timer(0.2, put_ready, (tmp_path, '{"version": 1, "checkpoint": "checkpoint-400"}'))
    timer.start()
    assert contract.wait_ready(timeout=20, root=tmp_path) == directory
    timer.join()


def test_waiting_for_ready_ends_after_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_ROOT", str(tmp_path))
    with pytest.raises(TimeoutError, match=r"ready\.json"):
        contract.wait_ready(timeout=0)


def test_a_restored_checkpoint_that_is_missing_never_means_a_start_from_zero(tmp_path: Path) -> None:
    put_ready(tmp_path, '{"checkpoint": "checkpoint-400"}')
    with pytest.raises(FileNotFoundError):
        contract.resume(root=tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", 3])
def test_a_checkpoint_outside_the_root_is_refused(tmp_path: Path, name: object) -> None:
    put_ready(tmp_path, json.dumps({"checkpoint": name}))
    with pytest.raises(ValueError, match="below the root"):
        contract.wait_ready(root=tmp_path)


def test_a_start_from_zero_is_none_for_the_trainer(tmp_path: Path) -> None:
    put_ready(tmp_path, '{"version": 1, "checkpoint": null}')
    assert contract.resume(root=tmp_path) is None


def test_resume_takes_the_newer_of_the_local_and_the_restored_checkpoint(tmp_path: Path) -> None:
    put_ready(tmp_path, '{"checkpoint": "checkpoint-400"}')
    make(tmp_path, 200, marked=True)
    make(tmp_path, 400)
    assert contract.resume(root=tmp_path) == str(tmp_path / "checkpoint-400")
    make(tmp_path, 600, marked=True)
    assert contract.resume(root=tmp_path) == str(tmp_path / "checkpoint-600")


def test_ranks_on_several_nodes_resume_from_what_was_restored_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    put_ready(tmp_path, '{"checkpoint": "checkpoint-400"}')
    make(tmp_path, 400, marked=True)
    make(tmp_path, 600, marked=True)
    assert contract.resume(root=tmp_path) == str(tmp_path / "checkpoint-400")


def test_resume_passes_over_torn_directories_and_final(tmp_path: Path) -> None:
    make(tmp_path, 600)
    make(tmp_path, 200, marked=True)
    make(tmp_path, 400).rename(tmp_path / "final")
    contract.mark_complete(tmp_path / "final")
    assert contract.resume(tmp_path) == str(tmp_path / "checkpoint-200")


def test_a_notice_is_read_and_its_absence_or_tear_is_none(tmp_path: Path) -> None:
    assert contract.notice(tmp_path) is None
    (tmp_path / ".syncd").mkdir()
    (tmp_path / ".syncd" / "notice.json").write_text('{"ti')
    assert contract.notice(tmp_path) is None
    (tmp_path / ".syncd" / "notice.json").write_text('{"time": 3}')
    assert contract.notice(tmp_path) == {"time": 3}


def test_finished_is_said_and_can_be_taken_back(tmp_path: Path) -> None:
    said = json.loads(contract.finished(tmp_path, step=9).read_text())
    assert said["step"] == 9
    assert said["time"] > 0
    contract.clear_finished(tmp_path)
    contract.clear_finished(tmp_path)
    assert not (tmp_path / "finished.json").exists()
