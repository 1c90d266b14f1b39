"""What answers mean for a run: pure, by the table of questions."""

from syncd.decide.doctor import LOCAL, QUESTIONS, STORE, disk, exit_code, judge, memory, second_measurement, verdict
from syncd.model.answer import Answer, clocks
from syncd.model.keys import scratch

SAYS_ITSELF = {"disk", "reach"}


def test_every_question_says_what_is_done_without_and_what_to_do() -> None:
    assert tuple(QUESTIONS) == LOCAL + STORE
    for key, question in QUESTIONS.items():
        assert question.asks, key
        assert question.without or question.figure or key in SAYS_ITSELF, key
        assert question.now or not question.needed or key == "reach", key
        line = judge(key, Answer(False, "why")).line
        assert "\n" not in line
        assert line.startswith(question.asks)


def test_what_a_run_needs_ends_in_78_and_what_it_does_not_is_done_without() -> None:
    needed = judge("create", Answer(False))
    without = judge("delete", Answer(False, "no right"))
    fine, unknown = judge("put", Answer(True)), judge("clock", Answer(None, "nobody tells"))
    assert [each.weight for each in (needed, without, fine, unknown)] == ["no", "note", "yes", "unknown"]
    assert exit_code([fine, without, unknown], away=False) == 0
    assert exit_code([fine, needed, without], away=False) == 78
    assert exit_code([fine, without], away=True) == 75
    assert exit_code([needed], away=True) == 78, "what is known to be wrong is told first"
    assert "create-only" in verdict([fine, needed], away=False)
    assert "away" in verdict([fine], away=True)
    assert "nothing is ever cleaned up" in without.line
    assert without.line.endswith("(no right)")


def test_the_risk_of_a_store_without_create_only_puts_can_be_taken_by_name_and_no_other() -> None:
    assert judge("create", Answer(False), single_writer=True).weight == "note"
    assert judge("list", Answer(False), single_writer=True).weight == "no"


def test_a_slow_link_is_measured_by_little_and_a_fast_one_by_all_that_is_allowed() -> None:
    most = 32 << 20
    assert second_measurement(0.0, most) == most
    assert second_measurement(0.05, most) == most
    assert second_measurement(1.0, most) == 4 << 20
    assert second_measurement(3.0, most) == 0, "the first measurement took long enough to tell"
    assert second_measurement(0.01, 1 << 20) == 0


def test_clocks_are_one_within_what_can_be_told_and_near_within_a_minute() -> None:
    assert clocks(0.9) == Answer(True, "within 1 s", 0.0)
    assert clocks(-30).yes is True
    assert clocks(61) == Answer(False, "it is 61 s ahead", 61)
    assert clocks(-1000) == Answer(False, "it is 1000 s behind", -1000)


def test_a_disk_is_told_by_the_kernels_name_of_its_file_system() -> None:
    assert disk("ext4") == Answer(True, "ext4")
    for kind, word in (("tmpfs", "memory"), ("overlay", "container"), ("nfs4", "events"), ("fuse.s3fs", "events")):
        answer = disk(kind)
        assert answer.yes is False
        assert word in answer.said
    assert disk("").yes is None


def test_the_memory_budget_must_leave_room_for_the_daemon_itself() -> None:
    assert memory(200 << 20, 64 << 20).yes is True
    answer = memory(128 << 20, 64 << 20)
    assert (answer.yes, answer.value) == (False, 128 << 20)
    assert answer.said == "128 MiB are there, and 64 MiB may be used"


def test_no_task_can_have_the_name_under_which_a_store_is_tried() -> None:
    import pytest

    from syncd.config.values import check_name

    top = scratch("0123").split("/")[0]
    with pytest.raises(ValueError, match="allowed"):
        check_name(top)
