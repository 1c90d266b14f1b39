"""On a slow link as many lanes as bring something; on a fast one all of them."""

from collections import Counter

import pytest

from syncd.decide.lanes import LARGE, REST, Lanes
from syncd.model.checkpoint import RANGE

MBIT = 125_000


class Link:
    """Pieces of one size over a link that all connections share, and of which one gets at most `each` bytes a second."""

    def __init__(self, lanes: Lanes, capacity: float, each: float) -> None:
        self.lanes, self.capacity, self.each = lanes, capacity, each
        self.now = 0.0
        self.used: Counter[int] = Counter()

    def carry(self, pieces: int, nbytes: int = RANGE, *, full: bool = True) -> int:
        """The number of lanes that was in use most often."""
        self.used.clear()
        for _ in range(pieces):
            self.now += nbytes / min(self.capacity, self.each * self.lanes.at_once)
            self.lanes.finished(nbytes, self.now, full=full)
            self.used[self.lanes.at_once] += 1
        return self.used.most_common(1)[0][0]


def test_one_lane_is_left_where_one_connection_fills_the_link() -> None:
    link = Link(Lanes(4), capacity=20 * MBIT, each=1000 * MBIT)
    link.carry(20)  # 4 + 4, 3 + 3, 2 + 2, and 2 more
    assert link.lanes.at_once == 1
    assert link.carry(300) == 1
    assert max(link.used) == 2, "more is tried now and then, one at a time"
    assert link.used[2] < 300 / REST


@pytest.mark.parametrize("most", [1, 2, 4, 8, 16, 32])
def test_all_lanes_stay_where_each_brings_its_share(most: int) -> None:
    link = Link(Lanes(most), capacity=1000 * MBIT, each=1.5 * MBIT)
    assert link.carry(400) == most
    assert min(link.used) >= most - 1
    assert link.used[most] > 300


def test_the_number_that_fills_the_link_is_found_from_above_and_from_below() -> None:
    link = Link(Lanes(8), capacity=20 * MBIT, each=10 * MBIT)
    link.carry(100)
    assert link.carry(200) == 2
    link.each = 5 * MBIT
    link.carry(200)
    assert link.carry(200) == 4


def test_a_fast_link_has_all_lanes_and_has_them_back_at_once() -> None:
    link = Link(Lanes(4), capacity=20 * MBIT, each=1000 * MBIT)
    link.carry(100)
    link.capacity = 1000 * MBIT
    link.carry(4)
    assert link.lanes.at_once == 4
    assert link.carry(100) == 4
    assert set(link.used) == {4}


@pytest.mark.parametrize(("nbytes", "full"), [(LARGE - 1, True), (RANGE, False)])
def test_small_pieces_and_free_lanes_say_nothing(nbytes: int, full: bool) -> None:
    link = Link(Lanes(4), capacity=20 * MBIT, each=1000 * MBIT)
    link.carry(500, nbytes, full=full)
    assert set(link.used) == {4}


def test_a_clock_that_stands_still_divides_by_nothing() -> None:
    lanes = Lanes(2)
    for _ in range(50):
        lanes.finished(RANGE, 1.0, full=True)
    assert lanes.at_once == 2


def test_small_losses_do_not_add_up() -> None:
    lanes, now = Lanes(4), 0.0
    goodput = {4: 1.0, 3: 0.91, 2: 0.83, 1: 0.76}
    used: Counter[int] = Counter()
    for _ in range(300):
        now += RANGE / (goodput[lanes.at_once] * 2_500_000)
        lanes.finished(RANGE, now, full=True)
        used[lanes.at_once] += 1
    assert used.most_common(1)[0][0] >= 3
    assert used[1] == 0


def test_a_trial_that_is_disturbed_ends_without_a_verdict() -> None:
    link = Link(Lanes(4), capacity=60 * MBIT, each=5 * MBIT)
    while link.lanes.at_once == 4:
        link.carry(1)
    link.lanes.disturb()
    assert link.lanes.at_once == 4


def test_a_link_that_became_slower_before_anything_was_tried_is_judged_as_it_is() -> None:
    link = Link(Lanes(4), capacity=40 * MBIT, each=1000 * MBIT)
    link.carry(6)
    link.capacity = 10 * MBIT
    link.carry(300)
    assert link.lanes.at_once <= 2
    assert link.carry(100) == 1
