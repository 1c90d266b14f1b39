"""When a directory is a finished checkpoint."""

import json
import struct
from pathlib import Path

import pytest

from syncd.local.completion import CORE_RULES, SENTINEL, State
from syncd.local.root import Root
from syncd.local.scan import Seen, scan


def say(event: str, /, **fields: object) -> None:
    return None


def safetensors(path: Path, size: int = 64) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\1" * size)


def hf(root: Path, step: int = 6, ranks: int = 1) -> Path:
    """What the Hugging Face Trainer leaves, finished, without a marker."""
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    safetensors(path / "adapter_model.safetensors")
    (path / "optimizer.pt").write_bytes(b"pickle")
    for rank in range(ranks):
        (path / ("rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth")).write_bytes(b"pickle")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def look(root: Path) -> Seen | None:
    found = scan(root, CORE_RULES)
    assert len(found) <= 1
    return found[0] if found else None


def state(root: Path) -> State:
    found = look(root)
    return found.verdict.state if found else State.OTHER


@pytest.mark.parametrize("marker", ["_SUCCESS", "_ELASTIC_SUCCESS"])
def test_a_marker_makes_a_checkpoint(tmp_path: Path, marker: str) -> None:
    (tmp_path / "any-name").mkdir()
    (tmp_path / "any-name" / "w").write_text("x")
    assert state(tmp_path) is State.OTHER
    (tmp_path / "any-name" / marker).write_text("")
    assert state(tmp_path) is State.COMPLETE


def test_a_single_process_checkpoint_without_marker_is_complete_once_quiet(tmp_path: Path) -> None:
    hf(tmp_path)
    assert state(tmp_path) is State.QUIET


@pytest.mark.parametrize(
    "tear",
    [
        "no state",
        "torn state",
        "other step",
        "sentinel",
        "short shard",
        "long shard",
        "no shard",
        "no rank",
        "temporary",
        "bad header",
        "bad index",
    ],
)
def test_a_torn_one_is_never_complete(tmp_path: Path, tear: str) -> None:
    path = hf(tmp_path, ranks=3)
    shard = path / "adapter_model.safetensors"
    if tear == "no state":
        (path / "trainer_state.json").unlink()
    elif tear == "torn state":
        (path / "trainer_state.json").write_text('{"global_st')
    elif tear == "other step":
        (path / "trainer_state.json").write_text('{"global_step": 5}')
    elif tear == "sentinel":
        (path / SENTINEL).write_text("")
    elif tear == "short shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif tear == "long shard":
        shard.write_bytes(shard.read_bytes() + b"x")
    elif tear == "no shard":
        (path / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
        )
    elif tear == "no rank":
        (path / "rng_state_1.pth").unlink()
    elif tear == "temporary":
        (path / ".tmpAbC").write_text("")
    elif tear == "bad header":
        shard.write_bytes(b"\xff" * 50)
    elif tear == "bad index":
        (path / "model.safetensors.index.json").write_text("[" * 100_000)
    assert state(tmp_path) is State.TORN


def test_a_sentinel_beats_a_marker_left_from_the_save_before(tmp_path: Path) -> None:
    path = hf(tmp_path)
    (path / "_SUCCESS").write_text("")
    (path / SENTINEL).write_text("")
    assert state(tmp_path) is State.TORN


def test_where_others_of_its_kind_are_marked_only_a_marker_counts(tmp_path: Path) -> None:
    (hf(tmp_path, 6) / "_SUCCESS").write_text("")
    hf(tmp_path, 12)
    states = {seen.name: seen.verdict.state for seen in scan(tmp_path, CORE_RULES)}
    assert states == {"checkpoint-6": State.COMPLETE, "checkpoint-12": State.TORN}


def test_an_empty_checkpoint_directory_is_torn_and_other_directories_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "runs" / "tensorboard").mkdir(parents=True)
    (tmp_path / "runs" / "tensorboard" / "events.out").write_text("x")
    assert [(seen.name, seen.verdict.state) for seen in scan(tmp_path, CORE_RULES)] == [("checkpoint-7", State.TORN)]


def test_checkpoints_are_found_down_to_depth_three_outermost_only(tmp_path: Path) -> None:
    for name in ("a", "b/c", "d/e/f", "g/h/i/j"):
        path = tmp_path / name
        (path / "inner").mkdir(parents=True)
        (path / "_SUCCESS").write_text("")
        (path / "inner" / "_SUCCESS").write_text("")
    assert {seen.name for seen in scan(tmp_path, CORE_RULES)} == {"a", "b/c", "d/e/f"}


def test_globs_choose_by_name(tmp_path: Path) -> None:
    for name in ("keep-1", "other-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_SUCCESS").write_text("")
    assert [seen.name for seen in scan(tmp_path, CORE_RULES, ["keep-*"])] == ["keep-1"]


async def test_quiet_is_measured_by_looking_again_not_by_the_files_times(tmp_path: Path) -> None:
    clock = [0.0]
    root = Root(tmp_path, say, quiet=10.0, monotonic=lambda: clock[0])
    root.place.make()
    root.pins.load()
    path = hf(tmp_path)
    assert await root.look() == []
    clock[0] = 9.0
    assert await root.look() == []
    (path / "optimizer.pt").write_bytes(b"rewritten by another rank")
    clock[0] = 15.0
    assert await root.look() == []
    clock[0] = 25.0
    assert [pin.name for pin in await root.look()] == ["checkpoint-6"]
    assert await root.look() == []


async def test_a_dead_writer_is_quiet_enough(tmp_path: Path) -> None:
    root = Root(tmp_path, say, quiet=1e9)
    root.place.make()
    root.pins.load()
    hf(tmp_path)
    assert await root.look() == []
    assert len(await root.look(writer_gone=True)) == 1


async def test_a_directory_that_changes_after_it_was_taken_is_taken_again(tmp_path: Path) -> None:
    root = Root(tmp_path, say)
    root.place.make()
    root.pins.load()
    path = tmp_path / "checkpoint-1"
    path.mkdir()
    (path / "w").write_text("one")
    (path / "_SUCCESS").write_text("")
    (first,) = await root.look()
    assert await root.look() == []
    (path / "_SUCCESS").unlink()
    (path / "w").unlink()
    (path / "w").write_text("two!")
    assert await root.look() == []
    (path / "_SUCCESS").write_text("")
    (second,) = await root.look()
    assert second.number > first.number
    assert root.waiting == [second]


def listed(root: Path, step: int) -> Path:
    """A checkpoint whose marker lists its files with their sizes, as the contract file writes it."""
    path = root / f"checkpoint-{step}"
    path.mkdir()
    (path / "a.bin").write_bytes(b"a" * 10)
    (path / "b.bin").write_bytes(b"b" * 20)
    (path / "_SUCCESS").write_text(json.dumps({"step": step, "files": {"a.bin": 10, "b.bin": 20}}))
    return path


def test_a_directory_that_lacks_what_its_marker_lists_is_being_removed(tmp_path: Path) -> None:
    path = listed(tmp_path, 1)
    assert state(tmp_path) is State.COMPLETE
    (path / "a.bin").unlink()
    assert state(tmp_path) is State.TORN


@pytest.mark.parametrize("marker", ["", "ok", "[]", '{"files": 3}', "[" * 10_000])
def test_a_marker_without_a_list_stands_for_itself(tmp_path: Path, marker: str) -> None:
    path = listed(tmp_path, 1)
    (path / "_SUCCESS").write_text(marker)
    assert state(tmp_path) is State.COMPLETE


async def test_what_a_rotation_has_begun_to_remove_is_no_new_save(tmp_path: Path) -> None:
    root = Root(tmp_path, say)
    root.place.make()
    root.pins.load()
    path = tmp_path / "checkpoint-1"
    path.mkdir()
    for name in ("w", "x", "_SUCCESS"):
        (path / name).write_text("content of " + name)
    assert len(await root.look()) == 1
    (path / "x").unlink()
    assert await root.look() == []


def test_a_hugging_face_directory_without_weights_is_torn(tmp_path: Path) -> None:
    path = hf(tmp_path)
    (path / "adapter_model.safetensors").unlink()
    assert state(tmp_path) is State.TORN
