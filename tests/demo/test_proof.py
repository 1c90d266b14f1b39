"""The proof fails whenever one of its parts does; the timeline and the price of the kill are said right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.demo_nodes import MARK, Event, Failed, Runner, environment
from trainer.demo_proof import Proof, collect, loss_of
from trainer.demo_timeline import Timeline, size, words

REPORT: dict[str, Any] = {"steps": 400, "error_before": 180.0, "error_after": 30.0, "error_median_guess": 100.0}


def commit(step: int, time: float) -> list[Event]:
    name = f"checkpoint-{step}"
    seen = {"event": "checkpoint_seen", "time": time, "checkpoint": name, "step": step, "waited": 0.5}
    return [seen, seen | {"event": "checkpoint_committed", "time": time + 0.25, "bytes": 1, "seconds": 0.25}]


class Case:
    """What two nodes and a twin have left; a test changes one thing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.a, self.b, self.twin = (Runner(name, directory) for name in ("node A", "node B", "twin"))
        self.a.events = commit(100, 10.0) + commit(200, 20.0)
        self.b.events = [{"event": "attempt_begun", "checkpoint": "checkpoint-200", "step": 200}]
        self.report = dict(REPORT)
        self.audit = {"clean": True, "checkpoints": 4, "bytes": 4096, "problems": []}
        self.adapter = b"weights"

    def proof(self, *, judge_error: bool = True) -> Proof:
        (self.twin.root / "final").mkdir(parents=True)
        (self.twin.root / "final" / "adapter_model.safetensors").write_bytes(b"weights")
        history = [{"step": 20, "loss": 0.8}, {"step": 400, "loss": 0.5}, {"step": 400, "train_runtime": 1.0}]
        (self.b.root / "checkpoint-400").mkdir(parents=True)
        (self.b.root / "checkpoint-400" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        return collect(self.directory, self.a, self.b, self.twin, self.syncd, judge_error=judge_error)

    def syncd(self, verb: str, *words: str) -> dict[str, Any]:
        if verb == "verify":
            assert words == ("--deep",)
            return self.audit
        final = Path(words[-1]) / "final"
        assert final.parent.is_dir()
        final.mkdir()
        (final / "adapter_model.safetensors").write_bytes(self.adapter)
        (final / "report.json").write_text(json.dumps(self.report))
        return {"path": str(final)}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_holds_when_all_is_well(case: Case) -> None:
    proof = case.proof()
    assert proof.holds
    assert proof.interrupted == proof.uninterrupted
    assert proof.losses == [(20, 0.8), (400, 0.5)]


def test_does_not_hold_when_one_byte_differs(case: Case) -> None:
    case.adapter = b"weightz"
    assert not case.proof().holds


def test_does_not_hold_when_the_store_is_damaged(case: Case) -> None:
    case.audit |= {"clean": False, "problems": ["a byte is wrong"]}
    proof = case.proof()
    assert not proof.holds
    assert any("a byte is wrong" in text for _, text in proof.checks)


@pytest.mark.parametrize("begun", [{"checkpoint": "checkpoint-100", "step": 100}, {}])
def test_does_not_hold_when_node_b_went_back_further_than_the_second_commit(case: Case, begun: Event) -> None:
    case.b.events = [{"event": "attempt_begun", **begun}]
    assert not case.proof().holds


@pytest.mark.parametrize(("judge_error", "holds"), [(True, False), (False, True)])
def test_half_of_the_median_guess_is_not_good_enough_for_a_full_run(case: Case, judge_error: bool, holds: bool) -> None:
    case.report["error_after"] = 50.0
    assert case.proof(judge_error=judge_error).holds is holds


def test_a_result_without_a_report_is_a_failure(case: Case) -> None:
    case.report = {}
    with pytest.raises(Failed):
        case.proof()


def test_what_the_kill_cost_is_counted_from_the_end_of_the_save(case: Case) -> None:
    loss = loss_of(case.a, killed_at=20.5, back_at=32.5)
    assert (loss.checkpoint, loss.seconds, loss.steps, loss.back_after) == ("checkpoint-200", 1.0, 10, 12.0)
    case.a.step = 215  # as its last beat said
    assert loss_of(case.a, killed_at=20.5, back_at=32.5).steps == 15


def test_log_lines_are_found_behind_half_a_line_of_the_trainer_and_across_reads(case: Case) -> None:
    node = case.a
    node.events = []
    node.start(["sleep", "60"], {})
    try:
        line = b'{"time": 1.0, "level": "info", "event": "checkpoint_committed", "step": 7}\n'
        for part in (b"Loading weights: 50%" + line[:20], line[20:] + b'{"time": broken}\nnot json\n'):
            with node.err.open("ab") as log:
                log.write(part)
            new = node.look()
        assert [event["step"] for event in new] == [7]
        assert node.durable == 7
    finally:
        node.power_off()
    assert node.killed


def test_events_are_said_in_order_and_only_those_that_matter() -> None:
    heard: list[str] = []
    timeline = Timeline(lambda seconds, who, what: heard.append(what), began=5.0)
    seen, committed = commit(100, 10.0)
    timeline.add("node A", "KILLED", at=11.0)
    timeline.heard("node A", [seen, committed])
    assert heard == ["KILLED", "committed checkpoint-100 (1 B, 0.25 s)"]
    assert timeline.table() == [
        ("5.2 s", "node A", "committed checkpoint-100 (1 B, 0.25 s)"),
        ("6.0 s", "node A", "KILLED"),
    ]


def test_warnings_are_never_left_out() -> None:
    assert words({"event": "store_away", "level": "warning", "why": "refused"}) == "store_away: refused"
    assert words({"event": "store_back", "level": "info"}) is None


def test_sizes_are_said_as_people_do() -> None:
    assert [size(count) for count in (12, 1536, 3 << 20, 5 << 30)] == ["12 B", "1.5 KiB", "3.0 MiB", "5.0 GiB"]


def test_the_environment_of_the_nodes_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNCD_STORE", "AWS_SECRET_ACCESS_KEY", "MQTT_HOST", "SLURM_JOB_ID", "RANK"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("KEPT", "y")
    found = environment("mark", SYNCD_TASK="prices")
    assert {name for name in found if name.startswith(("SYNCD_", "AWS_", "MQTT_", "SLURM_", "RANK"))} == {"SYNCD_TASK"}
    assert (found["KEPT"], found[MARK]) == ("y", "mark")
