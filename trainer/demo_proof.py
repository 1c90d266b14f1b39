"""Is what came out of two nodes what one node would have made? Read from the store and from the twin's disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.demo_nodes import Event, Failed, Runner
from trainer.demo_timeline import size

ADAPTER = "adapter_model.safetensors"
Syncd = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Loss:
    """What the kill cost: training since the last commit, and the time until a trainer was past it again."""

    checkpoint: str
    seconds: float
    steps: int
    back_after: float


@dataclass(frozen=True)
class Proof:
    """What was found, and whether it is what was promised."""

    interrupted: str
    uninterrupted: str
    report: dict[str, Any]
    losses: list[tuple[int, float]]
    checks: list[tuple[bool, str]]

    @property
    def holds(self) -> bool:
        return all(good for good, _ in self.checks)


def collect(directory: Path, a: Runner, b: Runner, twin: Runner, syncd: Syncd, *, judge_error: bool) -> Proof:
    """Fetch the result from the store, as a user would, and compare.

    Args:
        directory: where to put what is fetched.
        syncd: runs a syncd verb and returns its JSON.
        judge_error: whether the training was long enough for its error to count.

    Raises:
        Failed: something that must be there is not.
    """
    (directory / "fetched").mkdir()
    fetched = Path(syncd("restore", "final", "--to", str(directory / "fetched"))["path"])
    audit = syncd("verify", "--deep")
    try:
        report = json.loads((fetched / "report.json").read_bytes())
        interrupted, uninterrupted = _sha256(fetched / ADAPTER), _sha256(twin.root / "final" / ADAPTER)
        losses = _losses(b.root, report["steps"])
    except (OSError, ValueError, KeyError) as error:
        raise Failed(f"the result is not what a trainer leaves: {error!r}") from error
    checks = [_resumed(a, b), _same(interrupted, uninterrupted), _whole(audit)]
    if judge_error:
        checks.append(_learned(report))
    return Proof(interrupted, uninterrupted, report, losses, checks)


def loss_of(a: Runner, killed_at: float, back_at: float) -> Loss:
    """Return what killing node A at its newest commit cost; the steps follow from the pace between its last two."""
    before, last = a.commits()[-2:]
    complete = _completed(a, last)
    seconds = max(0.0, killed_at - complete)
    pace = (last["step"] - before["step"]) / max(complete - _completed(a, before), 1e-3)
    steps = max(round(seconds * pace), a.step - last["step"])
    return Loss(last["checkpoint"], seconds, steps, back_at - killed_at)


def _completed(runner: Runner, commit: Event) -> float:
    """When the trainer had finished a checkpoint: training goes on from there while it is being pushed."""
    for event in runner.events:
        if event["event"] == "checkpoint_seen" and event.get("checkpoint") == commit["checkpoint"]:
            return float(event["time"] - event.get("waited", 0.0))
    return float(commit["time"])


def _resumed(a: Runner, b: Runner) -> tuple[bool, str]:
    """Equal results prove nothing where node B trained it all by itself."""
    begun = next((event for event in b.events if event["event"] == "attempt_begun"), {})
    step, least = begun.get("step"), a.commits()[1]["step"]
    said = f"went on from node A's {begun['checkpoint']}" if step else "began from zero"
    return step is not None and step >= least, f"node B, with an empty disk, {said}"


def _same(interrupted: str, uninterrupted: str) -> tuple[bool, str]:
    same = interrupted == uninterrupted
    return same, f"the two final adapters are {'identical, byte for byte' if same else 'NOT the same'}"


def _whole(audit: dict[str, Any]) -> tuple[bool, str]:
    found = "nothing wrong" if audit["clean"] else "; ".join(audit["problems"])
    return bool(
        audit["clean"]
    ), f"syncd verify --deep: {found} in {audit['checkpoints']} checkpoints, {size(audit['bytes'])}"


def _learned(report: dict[str, Any]) -> tuple[bool, str]:
    after, half = report["error_after"], report["error_median_guess"] / 2
    learned = after < half
    return learned, f"the error is {'under' if learned else 'NOT under'} half of the median guess's (${half:.0f})"


def _losses(root: Path, steps: int) -> list[tuple[int, float]]:
    """Return the training loss at each logged step: of both nodes, for the history travels in the checkpoints."""
    state = json.loads((root / f"checkpoint-{steps}" / "trainer_state.json").read_bytes())
    return [(entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
