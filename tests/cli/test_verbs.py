"""Each verb, as a person or a program would call it, against the file store."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from syncd.cli.status import _transfers

from .conftest import Call


@pytest.fixture
def call(with_root: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`syncd` for a task that waits for no quiet."""
    monkeypatch.setenv("SYNCD_TASK", "t")
    monkeypatch.setenv("SYNCD_QUIET", "0")
    return with_root


def save(root: Path, step: int, text: str = "") -> Path:
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "w").write_bytes(hashlib.sha256(f"{step}{text}".encode()).digest() * 1000)
    (path / "_SUCCESS").write_text("")
    return path


def committed(call: Call) -> list[str]:
    return [line["commit"] for line in json.loads(call("ls", "--json")[1])["checkpoints"]]


@pytest.fixture
def three(call: Call, tmp_path: Path) -> Path:
    """A task with three commits, pushed one by one; its root."""
    root = tmp_path / "root"
    for step in (1, 2, 3):
        assert call("push", str(save(root, step)))[0] == 0
    return root


@pytest.mark.parametrize(
    "verb",
    [
        "run",
        "sidecar",
        "push",
        "restore",
        "status",
        "ls",
        "verify",
        "doctor",
        "reset",
        "gc",
        "chaos",
        "config",
        "plugins",
    ],
)
def test_every_verb_has_help_with_examples_and_json(call: Call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"syncd {verb}" in out
    assert "--json" in out


@pytest.mark.parametrize("verb", ["run", "sidecar", "push", "restore", "reset", "gc"])
def test_what_changes_something_has_a_dry_run(call: Call, verb: str) -> None:
    assert "--dry-run" in call(verb, "--help")[1]


def test_push_goes_on_with_the_disks_attempt(three: Path, call: Call) -> None:
    assert committed(call) == ["checkpoint-3", "checkpoint-2", "checkpoint-1"]
    assert json.loads(call("status", "--json")[1])["attempts"] == 1
    assert "nothing to push" in call("push", str(three / "checkpoint-3"))[1]


def test_push_refuses_what_is_not_complete_unless_forced(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "root" / "my-model"
    path.mkdir()
    (path / "w").write_text("x")
    code, _, err = call("push", str(path))
    assert code == 64
    assert "--force" in err
    assert call("push", str(path), "--force")[0] == 0
    assert committed(call) == ["my-model"]


def test_a_changed_directory_is_committed_under_the_next_free_name(three: Path, call: Call) -> None:
    shutil.rmtree(three / "checkpoint-3")
    save(three, 3, "again")
    assert call("push", str(three / "checkpoint-3"))[0] == 0
    assert committed(call)[0] == "checkpoint-3.2"
    shutil.rmtree(three)
    three.mkdir()
    assert "checkpoint-3.2" in call("restore")[1]
    assert (three / "checkpoint-3" / "w").read_bytes() == hashlib.sha256(b"3again").digest() * 1000


def test_push_outside_the_root_takes_the_parent_for_it(call: Call, tmp_path: Path) -> None:
    path = save(tmp_path / "elsewhere", 7)
    assert call("push", str(path))[0] == 0
    assert committed(call) == ["checkpoint-7"]


def test_restore_newest_named_and_by_place(three: Path, call: Call, tmp_path: Path) -> None:
    for name, step in ((None, 3), ("checkpoint-2", 2), ("attempt-0001/checkpoint-1", 1)):
        target = tmp_path / "made" / f"to-{step}"
        code, out, _ = call("restore", *([name] if name else []), "--to", str(target), "--json")
        assert code == 0
        assert json.loads(out)["step"] == step
        assert (target / f"checkpoint-{step}" / "w").read_bytes() == (three / f"checkpoint-{step}" / "w").read_bytes()


def test_restore_to_a_place_that_cannot_be_made_is_a_usage_error(three: Path, call: Call) -> None:
    code, _, err = call("restore", "--to", str(three / "checkpoint-1" / "w" / "x"))
    assert code == 64
    assert "--to" in err


def test_restore_dry_run_changes_nothing_and_no_reader_claims(three: Path, call: Call, tmp_path: Path) -> None:
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "store").rglob("*"))
    target = tmp_path / "to"
    target.mkdir()
    assert "would fetch" in call("restore", "--to", str(target), "--dry-run")[1]
    assert not list(target.iterdir())
    for verb in (
        ("ls",),
        ("status",),
        ("verify", "--deep"),
        ("gc", "--dry-run"),
        ("reset", "--dry-run"),
        ("run", "--dry-run", "--", "true"),
    ):
        assert call(*verb)[0] == 0, verb
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "store").rglob("*")) == before


def test_restore_passes_over_a_damaged_one_and_says_so(three: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "store" / "t" / "attempt-0001" / "checkpoint-3" / "w").write_bytes(b"damaged")
    target = tmp_path / "to"
    target.mkdir()
    code, out, err = call("restore", "--to", str(target))
    assert code == 0
    assert "checkpoint-2" in out
    assert "damaged" in err
    code, out, _ = call("verify")
    assert code == 1
    assert "checkpoint-3/w" in out


def test_restore_sets_a_different_directory_of_that_name_aside(three: Path, call: Call) -> None:
    (three / "checkpoint-3" / "w").write_bytes(b"local change")
    assert call("restore")[0] == 0
    (kept,) = (three / ".syncd" / "quarantine").iterdir()
    assert (kept / "w").read_bytes() == b"local change"


def test_verify_deep_finds_a_flipped_bit_that_sizes_do_not_show(three: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "store" / "t" / "attempt-0001" / "checkpoint-2" / "w"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    assert call("verify")[0] == 0
    code, out, _ = call("verify", "--deep", "--json")
    assert code == 1
    found = json.loads(out)
    assert not found["clean"]
    assert "checkpoint-2/w" in found["problems"][0]


def test_gc_keeps_what_was_asked_and_reset_asks_for_the_name(three: Path, call: Call) -> None:
    assert call("gc", "--keep", "2")[0] == 0
    assert committed(call) == ["checkpoint-3", "checkpoint-2"]
    code, _, err = call("reset")
    assert code == 64
    assert "--confirm t" in err
    assert call("reset", "--confirm", "wrong")[0] == 64
    assert committed(call) == ["checkpoint-3", "checkpoint-2"]
    assert call("reset", "--confirm", "t")[0] == 0
    assert committed(call) == []
    assert call("verify")[0] == 0


def test_the_disk_of_a_task_that_was_reset_by_another_says_77_once(three: Path, call: Call) -> None:
    assert call("reset", "--confirm", "t")[0] == 0
    assert call("run", "--", "true")[0] == 77
    assert [path.name.rsplit("-", 2)[-2:] for path in (three / ".syncd" / "quarantine").iterdir()]
    code, _, err = call("run", "--", "true")
    assert code == 0
    assert "nothing_committed" in err


def test_a_run_without_any_checkpoint_does_not_mark_the_task_as_done(call: Call, tmp_path: Path) -> None:
    code, out, err = call("run", "--json", "--", "true")
    assert code == 0
    assert json.loads(out)["durable"] is None
    assert "nothing_committed" in err
    assert not (tmp_path / "store" / "t" / "done.json").exists()


def test_sidecar_once_pushes_what_is_complete_in_order(call: Call, tmp_path: Path) -> None:
    for step in (5, 6):
        save(tmp_path / "root", step)
    (tmp_path / "root" / "checkpoint-7").mkdir()
    assert "would push checkpoint-5" in call("sidecar", "--once", "--dry-run")[1]
    code, out, _ = call("sidecar", "--once", "--json")
    assert code == 0
    assert [line["step"] for line in json.loads(out)["committed"]] == [5, 6]
    assert "nothing" in call("sidecar", "--once")[1]


def test_run_dry_run_says_what_it_would_do(three: Path, call: Call) -> None:
    out = call("run", "--dry-run", "--", "python", "train.py")[1]
    assert "go on with attempt 1" in out
    assert "checkpoint-3" in out
    assert "would start python train.py" in out


def test_a_push_beside_a_daemon_is_refused(three: Path, call: Call) -> None:
    from syncd.local.lock import locked

    with locked(three):
        code, _, err = call("push", str(three / "checkpoint-3"))
    assert code == 64
    assert "by itself" in err


def test_status_says_how_uploads_travel_and_leaves_out_what_is_not_known() -> None:
    whole = {"transfers_at_once": 2, "store_path": "fast", "upload_bytes_per_second": 3 << 20}
    assert _transfers(whole) == "2 at once, fast path, 3.0 MiB a second"
    assert _transfers({"transfers_at_once": 4, "store_path": None, "upload_bytes_per_second": None}) == "4 at once"


@pytest.mark.parametrize("damage", ["manifest cut", "manifest gone", "object flipped", "object gone"])
def test_a_damaged_result_is_told_in_one_line_and_older_ones_can_still_be_restored(
    call: Call, three: Path, tmp_path: Path, damage: str
) -> None:
    (three / "final").mkdir()
    (three / "final" / "model").write_bytes(b"finished")
    assert call("run", "--", "true")[0] == 0
    store = tmp_path / "store" / "t"
    (manifest,) = store.glob("attempt-*/manifests/final.json")
    spoilt = manifest if damage.startswith("manifest") else manifest.parents[1] / "final" / "model"
    if damage.endswith("gone"):
        spoilt.unlink()
    else:
        data = spoilt.read_bytes()
        spoilt.write_bytes(b"F" + data[1:] if damage.endswith("flipped") else data[:-9])
    for number, name in enumerate(("final", f"{manifest.parents[1].name}/final")):
        to = tmp_path / f"to-{number}"
        code, out, err = call("restore", name, "--to", str(to))
        told = [line for line in err.splitlines() if line.startswith("syncd: ")]
        gone = damage == "manifest gone" and "/" in name  # who asks for what nobody committed is told what there is
        assert (code, out) == (64 if gone else 78, ""), err
        assert gone or spoilt.relative_to(store).as_posix() in told[-1]
        assert not (to / "final").exists()
    code, out, _ = call("restore", "--to", str(tmp_path / "newest"), "--json")
    assert (code, json.loads(out)["checkpoint"]) == (0, "checkpoint-3")
    code, out, _ = call("verify", "--deep", "--json")
    assert code != 0
    assert any(spoilt.name in problem for problem in json.loads(out)["problems"])
    assert call("gc")[:2] == (0, "t is done: nothing is deleted; 'syncd reset' gives it up\n")
