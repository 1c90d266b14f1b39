"""The plan of `syncd chaos` and its judge. A judge that cannot fail is worthless: each loss is fed to it once."""

import dataclasses
from collections import Counter

import pytest

from syncd.decide.rehearsal import (
    WHAT,
    Begin,
    Damage,
    Death,
    Exit,
    Fault,
    Finish,
    Spread,
    disk_needed,
    judge,
    plan,
    spread,
)

FAULTS = len(Fault)


# ---- the plan


def test_a_seed_gives_the_same_rounds_and_another_seed_others() -> None:
    assert plan(7, 40) == plan(7, 40)
    assert plan(7, 40) != plan(8, 40)


def test_more_rounds_go_on_as_fewer_began() -> None:
    assert plan(7, 40)[:11] == plan(7, 11)
    assert [each.number for each in plan(7, 11)] == list(range(1, 12))


@pytest.mark.parametrize("seed", range(20))
def test_each_fault_comes_once_before_any_comes_again(seed: int) -> None:
    planned = plan(seed, 3 * FAULTS)
    for block in range(3):
        assert {each.fault for each in planned[block * FAULTS : (block + 1) * FAULTS]} == set(Fault)


def test_orders_damages_and_pairs_differ_between_seeds() -> None:
    many = [plan(seed, FAULTS) for seed in range(200)]
    assert len({tuple(each.fault for each in planned) for planned in many}) > 190
    damages = Counter(each.damage for planned in many for each in planned if each.fault is Fault.OBJECT_DAMAGED)
    assert set(damages) == set(Damage)
    assert min(damages.values()) > 25
    others = [each for planned in many for each in planned if each.fault is not Fault.STORE_FAILING]
    assert 0.2 < sum(each.failing for each in others) / len(others) < 0.3
    assert {each.keep_disk for each in others} == {True, False}
    assert 0.0 <= min(each.delay for each in others) < 0.1
    assert 1.1 < max(each.delay for each in others) <= 1.2


def test_a_damage_always_has_an_older_commit_to_fall_back_to() -> None:
    for seed in range(50):
        for each in plan(seed, FAULTS):
            assert each.commits >= (2 if each.fault is Fault.OBJECT_DAMAGED else 1)
            assert each.failing or each.fault is not Fault.STORE_FAILING


def test_every_fault_is_said_in_words() -> None:
    assert set(WHAT) == set(Fault)


# ---- the judge

GOOD_BEGIN = Begin(
    step=12, known=12, author="node-2", damaged=13, told=True, late=frozenset({("node-2", 13), ("node-1", 12)})
)
GOOD = [
    Death(told=12, stored=12),
    Death(told=11, stored=12),  # a commit whose answer was lost
    Death(told=0, stored=0),
    GOOD_BEGIN,
    Begin(step=0, known=0),
    Begin(step=14, known=12),
    Exit("a node", 75, 75, 3.0),
    Finish(done=True, saved=20, step=20),
]


@pytest.mark.parametrize("seen", GOOD, ids=str)
def test_what_is_as_promised_is_not_blamed(seen: Death | Begin | Exit | Finish) -> None:
    assert judge(seen) == []


def begin(**changes: object) -> Begin:
    return dataclasses.replace(GOOD_BEGIN, **changes)  # type: ignore[arg-type]


BAD: list[tuple[Death | Begin | Exit | Finish, list[str]]] = [
    (Death(told=12, stored=11), ["step 12 was told as committed, but the newest that the store holds is step 11"]),
    (Death(told=12, stored=0), ["step 12 was told as committed, but the newest that the store holds is none"]),
    (begin(step=11, damaged=None), ["resumed step 11, although step 12 was committed"]),
    (
        begin(step=11, damaged=None, because="on the disk that was kept"),
        ["resumed step 11, although step 12 was on the disk that was kept"],
    ),
    (begin(step=0, author=None, damaged=None), ["began from zero, although step 12 was committed"]),
    (begin(wrong=("model-1.bin",)), ["what was resumed at step 12 is not what was saved: model-1.bin"]),
    (
        begin(step=13, known=12, damaged=None),
        ["resumed step 13 of node-2, which it saved after it had been overtaken"],
    ),
    (
        begin(foreign=("attempt-0001/checkpoint-13 x:00",)),
        ["the recorded line holds what an overtaken node committed late: attempt-0001/checkpoint-13 x:00"],
    ),
    (begin(told=False), ["step 13 was damaged in the store and passed over, and nobody said so"]),
    (Exit("a node", 77, None, 60.0), ["a node did not end within 60 s (exit code 77 was to come)"]),
    (Exit("a node", 77, 0, 1.0), ["a node ended with exit code 0 instead of 77"]),
    (Exit("a node", 77, 77, 1.0, processes=2), ["a node left 2 processes behind"]),
    (Finish(done=False, saved=20, step=None), ["the trainer finished, but the task is not done"]),
    (
        Finish(done=True, saved=20, step=18),
        ["the trainer finished at step 20, but the stored model is that of step 18"],
    ),
    (
        Finish(done=True, saved=20, step=20, wrong=("model-2.bin",)),
        ["the finished model is not what was saved: model-2.bin"],
    ),
    (Finish(done=True, saved=20, step=20, problems=("t/x: is missing",)), ["verify --deep: t/x: is missing"]),
]


@pytest.mark.parametrize(("seen", "wrong"), BAD, ids=lambda each: None if isinstance(each, list) else str(each)[:60])
def test_every_kind_of_loss_is_found_and_said(seen: Death | Begin | Exit | Finish, wrong: list[str]) -> None:
    assert judge(seen) == wrong


def test_several_losses_at_once_are_all_said() -> None:
    wrong = judge(begin(step=0, wrong=("state.json",), told=False, foreign=("x",)))
    assert len(wrong) == 4


def test_a_damage_that_something_newer_made_harmless_needs_no_word() -> None:
    assert judge(begin(step=14, told=False)) == []


def test_the_spread_of_nothing_is_nothing() -> None:
    assert spread([]) == Spread(0.0, 0.0)


def test_the_room_grows_with_the_checkpoint() -> None:
    small, large = disk_needed(1), disk_needed(1 << 30)
    assert large[0] - small[0] > 10 << 30
    assert large[1] - small[1] > 5 << 30
