"""Fine-tuning that is killed, stopped and restarted leaves the very adapter of a run that was not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import Run, environment, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_killed_twice_and_resumed_past_a_torn_directory_gives_the_same_adapter(short: Run, uninterrupted: Run) -> None:
    for step in (10, 30):
        process = short.start()
        wait_until(lambda: short.marked(step) or process.poll() is not None)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL, short.text
        torn = short.output / "checkpoint-39"
        if not torn.exists():
            shutil.copytree(short.output / "checkpoint-10", torn, ignore=shutil.ignore_patterns("_SUCCESS"))
            (torn / "trainer_state.json").write_text("{")
    short.finish()
    assert f"resuming from {short.output / 'checkpoint-10'}" in short.text
    assert "checkpoint-39" not in short.text
    assert short.adapter == uninterrupted.adapter


def test_sigterm_saves_after_the_step_and_exits_75_and_the_resumed_run_gives_the_same_adapter(
    short: Run, uninterrupted: Run
) -> None:
    process = short.start()
    wait_until(lambda: "step 15/40" in short.text or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, short.text
    steps = sorted(int(path.parent.name.split("-")[1]) for path in short.output.glob("*/_SUCCESS"))
    assert steps[-1] not in (10, 20, 30, 40)
    assert f"step {steps[-1]} is saved and marked" in short.text
    assert not (short.output / "finished.json").exists()
    short.finish()
    assert f"resuming from {short.output / f'checkpoint-{steps[-1]}'}" in short.text
    assert short.adapter == uninterrupted.adapter


def test_a_marker_lists_what_the_trainer_saves(uninterrupted: Run) -> None:
    marker = json.loads((uninterrupted.output / "checkpoint-20" / "_SUCCESS").read_text())
    assert marker["step"] == 20
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= set(marker["files"])


def test_a_run_that_is_finished_is_not_trained_again_and_a_lost_final_is_rebuilt(uninterrupted: Run) -> None:
    before = uninterrupted.adapter
    assert "nothing to do" in uninterrupted.finish().text
    (uninterrupted.output / "final" / "_SUCCESS").unlink()
    trained = uninterrupted.text.count("step 40/40")
    uninterrupted.finish()
    assert uninterrupted.text.count("step 40/40") == trained
    assert uninterrupted.adapter == before


def test_with_syncd_the_trainer_waits_until_the_restore_is_over(short: Run) -> None:
    process = short.start(SYNCD_ROOT=str(short.output))
    wait_until(short.output.is_dir)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75


def test_on_two_ranks_the_marker_waits_for_both_and_a_signal_to_one_stops_both(tmp_path: Path) -> None:
    output = tmp_path / "out"
    script = Path(__file__).with_name("two_ranks.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["--output_dir", str(output), "--max_steps", "8", "--save_steps", "2", "--no_eval"]
    done = subprocess.run(
        [*launch, str(script), *options], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    said = done.stdout + done.stderr
    assert "EARLY MARKER" not in said
    assert "late checkpoint-2" in said, said
    assert "step 3 is saved and marked" in said, said
    for step in (2, 3):
        marker = json.loads((output / f"checkpoint-{step}" / "_SUCCESS").read_text())
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(marker["files"])
    assert not (output / "checkpoint-4").exists()


def test_the_full_run_halves_the_error_of_the_median_guess(full: Run) -> None:
    report = json.loads((full.output / "final" / "report.json").read_text())
    assert report["steps"] == 400
    assert 90 < report["error_median_guess"] < 120
    assert report["error_after"] < report["error_median_guess"] / 2 < report["error_before"]
    assert len(report["predictions"]) == 3


def test_the_full_run_leaves_everything_marked_and_says_that_it_has_finished(full: Run) -> None:
    marked = {path.parent.name for path in full.output.glob("*/_SUCCESS")}
    assert marked == {"checkpoint-200", "checkpoint-400", "final"}
    assert json.loads((full.output / "finished.json").read_text())["step"] == 400
    progress = json.loads((full.output / "progress.json").read_text())
    assert (progress["phase"], progress["step"], progress["total"]) == ("finish", 400, 400)
    assert "step 120/400 loss" in full.text
