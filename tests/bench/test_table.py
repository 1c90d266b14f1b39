"""The benchmark's table on given numbers: medians, spread, ratios, what is met and what is missed."""

import pytest

from .table import Outcome, Sample, Target, ratio, spread, table, verdict

OWN = [Sample(1.0, 0.5, 80), Sample(1.2, 0.4, 90), Sample(9.0, 0.6, 85)]
RCLONE = [Sample(2.4, 4.0, 100), Sample(2.0, 5.0, 100), Sample(3.0, 4.5, 120)]
OUTCOMES: dict[str, Outcome] = {"syncd": OWN, "rclone": RCLONE, "s5cmd": "absent: no such command"}


def test_a_median_does_not_follow_one_slow_run_and_the_spread_shows_it() -> None:
    assert spread([1.0, 1.2, 9.0], 2) == "1.20 (1.00–9.00)"
    assert spread([2.0, 4.0], 0) == "3 (2–4)"


def test_a_ratio_is_the_peers_median_divided_by_ours() -> None:
    assert ratio("wall", RCLONE, OWN) == pytest.approx(2.0)
    assert ratio("cpu", RCLONE, OWN) == pytest.approx(9.0)


def test_nothing_is_divided_by_what_the_clock_did_not_see() -> None:
    own: list[Sample] = [Sample(1.0, 0.0, 80)]
    assert ratio("cpu", RCLONE, own) is None
    assert "too short" in verdict(Target("cpu", "rclone", 8), {"syncd": own, "rclone": RCLONE})


@pytest.mark.parametrize(("aim", "said"), [(8, "met"), (9, "met"), (9.1, "missed")])
def test_a_target_is_met_from_its_ratio_on(aim: float, said: str) -> None:
    assert verdict(Target("cpu", "rclone", aim), OUTCOMES) == f"9.00x, target {aim:g}x: {said}"


def test_not_slower_than_is_a_target_below_one() -> None:
    assert verdict(Target("wall", "peer", 0.8), {"syncd": OWN, "peer": [Sample(1.0, 1, 1)]}).endswith("met")
    assert verdict(Target("wall", "peer", 0.8), {"syncd": OWN, "peer": [Sample(0.9, 1, 1)]}).endswith("missed")


def test_a_target_of_an_absent_peer_is_neither_met_nor_missed() -> None:
    for outcomes in (OUTCOMES, {"syncd": OWN}, {"syncd": "failed: x", "s5cmd": RCLONE}):
        said = verdict(Target("wall", "s5cmd", 1.2), outcomes)
        assert said.startswith("unknown, target 1.2x: ")


def test_every_tool_has_a_row_absent_ones_too() -> None:
    lines = table("upload", "GiB", OUTCOMES, [Target("cpu", "rclone", 8), Target("wall", "s5cmd", 1.2)])
    assert lines[0] == "upload"
    assert lines[1].split("  ")[-1] == "CPU /syncd"
    assert lines[2].split() == [
        "syncd",
        "1.20",
        "(1.00–9.00)",
        "0.50",
        "(0.40–0.60)",
        "85",
        "(80–90)",
        "1.00x",
        "1.00x",
    ]
    assert lines[3].split()[-2:] == ["2.00x", "9.00x"]
    assert lines[4].split(maxsplit=1) == ["s5cmd", "absent: no such command"]
    assert lines[5:] == [
        "  CPU rclone/syncd: 9.00x, target 8x: met",
        "  wall s5cmd/syncd: unknown, target 1.2x: absent: no such command",
    ]


def test_peers_are_shown_where_our_own_run_is_missing() -> None:
    lines = table("upload", "GiB", {"syncd": "failed: x", "rclone": RCLONE}, [])
    assert lines[2].split(maxsplit=1) == ["syncd", "failed: x"]
    assert "2.40 (2.00–3.00)" in lines[3]
    assert not lines[3].endswith("x")
