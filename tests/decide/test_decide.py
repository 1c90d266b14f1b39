"""Decisions are functions of values: no store, no disk, no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.decide.choose import LONGEST_LINE, candidates, line_to_record
from syncd.decide.life import Restarts, stalled, trainer_share, verdict
from syncd.decide.push import auto_rate, auto_reserve, burned, free_name, relieve, triage
from syncd.decide.retain import group, plan_retention
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import MAX_RANGES, RANGE, Committed, Manifest, range_size, ranges
from syncd.model.keys import Keys, attempt_name, attempt_number

SHA = "sha256:" + "0" * 64


def committed(number: int, commit: str, attempt: int = 1) -> Committed:
    manifest = Manifest(
        task="t",
        attempt=attempt,
        number=number,
        name=commit,
        commit=commit,
        kind="directory",
        step=1,
        rule="r",
        time=0.0,
        files=(),
    )
    return Committed(manifest, SHA)


def test_I4_candidates_go_by_number_and_leave_finished_models_out() -> None:
    found = [
        committed(1, "checkpoint-9"),
        committed(3, "checkpoint-2"),
        committed(4, "final"),
        committed(2, "checkpoint-5"),
    ]
    line = [LineItem(1, "old", SHA)]
    assert [item.commit for item in candidates(found, line)] == ["checkpoint-2", "checkpoint-5", "checkpoint-9", "old"]


def test_I4_the_line_begins_with_what_was_restored() -> None:
    tried = [LineItem(1, f"c{n}", SHA) for n in range(5)]
    assert line_to_record(tried, 2) == tuple(str(item) for item in tried[2:])
    assert line_to_record(tried, None) == ()
    assert len(line_to_record([LineItem(1, f"c{n}", SHA) for n in range(500)], 0)) == LONGEST_LINE


@given(st.lists(st.sampled_from(["a", "b", "a/b", "a/b/c", "a.2", "runs/x", "runs"]), max_size=12))
def test_I1_no_two_commits_ever_share_a_key(names: list[str]) -> None:
    used: set[str] = set()
    for name in names:
        free = free_name(name, used)
        assert free not in used
        assert not any(free.startswith(other + "/") or other.startswith(free + "/") for other in used)
        used.add(free)


def test_I1_a_name_that_was_begun_is_not_given_to_other_bytes() -> None:
    begun = burned(["checkpoint-200/model.bin", "runs/a/checkpoint-1/x"])
    assert free_name("checkpoint-200", set(), begun) == "checkpoint-200.2"
    assert free_name("runs/a/checkpoint-2", set(), begun) == "runs/a/checkpoint-2"


@given(st.lists(st.integers(), max_size=10), st.integers(1, 5))
def test_I8_older_ones_are_skipped_first_and_order_is_kept(waiting: list[int], backlog: int) -> None:
    chosen, dropped = triage(waiting, backlog)
    kept = waiting[len(dropped) :]
    assert dropped + kept == waiting
    assert len(kept) == min(backlog, len(waiting))
    assert chosen == (kept[0] if kept else None)


@given(st.integers(-100, 1000), st.lists(st.integers(0, 300), max_size=6))
def test_I8_pins_go_in_order_until_there_is_room_and_none_that_frees_nothing(lacking: int, held: list[int]) -> None:
    chosen = relieve(lacking, held)
    assert chosen == sorted(chosen)
    assert all(held[place] for place in chosen)
    freed = sum(held[place] for place in chosen)
    assert freed >= min(max(lacking, 0), sum(held))
    assert not chosen or freed - held[chosen[-1]] < lacking, "none more than needed"


def test_the_reserve_follows_the_last_save() -> None:
    assert auto_reserve(None) == 0
    assert auto_reserve(100) == 105


@given(st.integers(0, 1 << 45))
def test_ranges_cover_a_file_exactly_and_never_exceed_ten_thousand_parts(size: int) -> None:
    step = range_size(size)
    assert step % RANGE == 0
    count = max(1, -(-size // step))
    assert count <= MAX_RANGES
    if count < 50:
        pieces = ranges(size)
        assert len(pieces) == count
        assert sum(length for _, length in pieces) == size
        assert [offset for offset, _ in pieces] == [n * step for n in range(count)]


def test_the_plan_of_a_three_tebibyte_file() -> None:
    pieces = ranges(3 << 40)
    assert len(pieces) <= MAX_RANGES
    assert sum(length for _, length in pieces) == 3 << 40


@pytest.mark.parametrize(
    "name", ["attempt-1", "attempt-00001", "attempt-", "attempt-0001x", "xattempt-0001", "attempt-٠٠٠١"]
)
def test_only_canonical_attempt_names_are_attempts(name: str) -> None:
    assert attempt_number(name) is None


@given(st.integers(1, 10**9))
def test_attempt_names_round_trip(number: int) -> None:
    assert attempt_number(attempt_name(number)) == number


KEYS = Keys("t")


def listing(*commits: tuple[int, str, bool]) -> list[str]:
    keys = []
    for attempt, commit, manifest in commits:
        keys += [
            KEYS.claim(attempt),
            KEYS.record(attempt),
            KEYS.file(attempt, commit, "w"),
            KEYS.file(attempt, commit, "d/x"),
        ]
        if manifest:
            keys.append(KEYS.manifest(attempt, commit))
    return [*dict.fromkeys(keys), KEYS.events(1) + "000001.jsonl", KEYS.heartbeat(1), KEYS.extra(1) + "log", KEYS.done]


def deleted(
    attempt: int, keys: list[str], line: list[LineItem], keep: int = 2, marked: frozenset[tuple[int, str]] = frozenset()
):  # type: ignore[no-untyped-def]
    return [step.key for step in plan_retention(attempt, group(KEYS, keys), line, keep, marked)]


def test_I7_two_of_the_line_stay_whatever_is_asked() -> None:
    keys = listing((1, "c1", True), (1, "c2", True), (1, "c3", True))
    line = [LineItem(1, name, SHA) for name in ("c3", "c2", "c1")]
    assert deleted(1, keys, line, keep=0) == [
        KEYS.manifest(1, "c1"),
        KEYS.file(1, "c1", "w"),
        KEYS.file(1, "c1", "d/x"),
    ]


def test_I7_a_line_item_that_is_gone_does_not_count_as_kept() -> None:
    keys = listing((1, "c1", True), (1, "c2", True))
    line = [LineItem(1, name, SHA) for name in ("c4", "c3", "c2", "c1")]
    assert deleted(2, keys, line) == []


def test_I1_manifests_go_before_files() -> None:
    keys = listing(*((1, f"c{n}", True) for n in range(6)))
    plan = deleted(1, keys, [LineItem(1, f"c{n}", SHA) for n in range(6)])
    manifests = [n for n, key in enumerate(plan) if "/manifests/" in key]
    files = [n for n, key in enumerate(plan) if "/manifests/" not in key]
    assert max(manifests) < min(files)


def test_I3_nothing_of_a_higher_attempt_and_no_own_orphan_is_deleted() -> None:
    keys = listing((1, "c1", True), (2, "running", False), (2, "c2", True), (3, "c3", True), (3, "half", False))
    plan = deleted(2, keys, [LineItem(2, "c2", SHA), LineItem(1, "c1", SHA)])
    assert plan == []


def test_I7_outside_the_line_goes_in_lower_attempts_but_for_finals_and_marks() -> None:
    keys = listing((1, "dead", True), (1, "orphan", False), (1, "final", True), (1, "kept", True), (1, "c1", True))
    plan = deleted(2, keys, [LineItem(1, "c1", SHA)], marked=frozenset({(1, "kept")}))
    assert {key.split("/")[2] for key in plan if "/manifests/" not in key} == {"dead", "orphan"}
    assert KEYS.manifest(1, "dead") in plan


def test_claims_records_events_logs_and_heartbeats_are_never_in_a_plan() -> None:
    keys = listing((1, "c1", True))
    plan = deleted(5, keys, [])
    assert set(plan) == {KEYS.manifest(1, "c1"), KEYS.file(1, "c1", "w"), KEYS.file(1, "c1", "d/x")}


@pytest.mark.parametrize(
    ("code", "requested", "said"),
    [
        (0, False, "finished"),
        (0, True, "left"),
        (75, False, "left"),
        (75, True, "left"),
        (1, False, "failed"),
        (143, True, "left"),
        (137, False, "failed"),
    ],
)
def test_what_a_trainers_exit_means(code: int, requested: bool, said: str) -> None:
    assert verdict(code, requested=requested) == said


def test_restarts_are_counted_from_the_last_new_checkpoint() -> None:
    one = Restarts(2).after_failure()
    assert one and one.used == 1
    two = one.after_failure()
    assert two and two.after_failure() is None
    assert two.after_checkpoint() == Restarts(2)
    assert one.pause < two.pause
    assert Restarts(0).after_failure() is None


def test_a_stall_needs_silence_and_zero_means_never() -> None:
    assert stalled(100.0, 40.0, 60.0)
    assert not stalled(99.0, 40.0, 60.0)
    assert not stalled(1e9, 0.0, 0.0)


@given(st.floats(0, 1e5), st.none() | st.floats(0, 1e5))
def test_the_trainers_share_of_the_grace_leaves_time_for_the_upload(grace: float, upload: float | None) -> None:
    share = trainer_share(grace, upload)
    assert 0.25 * grace - 1e-6 <= share <= 0.75 * grace + 1e-6


@pytest.mark.parametrize(
    ("waiting", "interval", "rate"),
    [
        (100 << 20, None, 0),  # the first save: nothing is known, and it is the most precious one
        (0, 60.0, 0),
        (600 << 20, 60.0, 20 << 20),
        (3 * (600 << 20), 60.0, 3 * (20 << 20)),
        (1000, 3600.0, 1 << 20),
    ],
)
def test_auto_spreads_what_waits_over_half_of_the_time_between_saves(
    waiting: int, interval: float | None, rate: int
) -> None:
    assert auto_rate(waiting, interval) == rate
