"""The test of the test: each rule, taken out of the real code, is missed by the model within so many examples.

Rules of DESIGN.md that chance does not miss in reasonable time have tests of their own: a disk of another store or task
and a copied one, and that what is not of the line is set aside before the record (`tests/protocol/test_same_disk.py`); a commit's own mark (`tests/protocol/test_rules.py`).
"""

import os

import pytest

from .mutations import MUTATIONS, Mutation, mutated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
EXAMPLES = int(os.environ.get("SYNCD_TEST_MUTANTS") or 20_000)
CONTROLS = 30
PROTOCOL = {
    "CREATE_ONLY_CLAIM", "NONCE", "CLAIM_THEN_CHOOSE", "FENCE_AT_START", "RECHECK", "RESUME_RECORD", "RECORD_THE_TRUTH",
    "RECORD_BEFORE_TRAIN", "OWNER_CHECK", "CHECK_AFTER_COMMIT", "KEEP_TWO", "RETAIN_LINEAGE", "MANIFEST_FIRST",
    "GC_AFTER_RECORD", "GC_LOWER_ONLY", "VERIFY", "NEXT_FREE_NAME", "ORDER_BY_NUMBER", "FINAL_IN_ATTEMPT",
    "DONE_CREATE_ONLY", "KEEP_FINALS", "DONE_STOPS",
}  # fmt: skip
"""The rules of the protocol for tasks of one node, by the names that its model gives them."""
ADDED = {
    "CLOSE_BEFORE_DELETE", "CLOSE_BEFORE_RESULT", "CLOSED_IS_OVER", "MARKS_KEEP", "NUMBER_WITH_PIN", "ROOM",
    "PASSED_OVER_STAYS", "DISK_ASKS", "DISK_RESUMES_NEWEST", "ZOMBIE_ENDS_TRAINER", "ZOMBIE_SETS_ASIDE",
}  # fmt: skip
"""Those that DESIGN.md adds."""


def test_each_rule_has_its_mutation() -> None:
    assert set(MUTATIONS) == PROTOCOL | ADDED


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_mutation_that_drops_the_rule_is_found(rule: str) -> None:
    mutation = MUTATIONS[rule]
    with mutated(rule), pytest.raises(AssertionError, match=rf"^({mutation.breaks}|I1|I3|I4|I5):") as found:
        mutation.run(mutation.kinds, EXAMPLES, shrink=False, start=mutation.seed)
    print(f"{rule}: {str(found.value).splitlines()[0][:160]}")


CONTROL = {(each.run, each.kinds, each.seed): each for each in MUTATIONS.values()}


@pytest.mark.parametrize(
    "mutation", CONTROL.values(), ids=["-".join([*sorted(kinds), str(n)]) for _, kinds, n in CONTROL]
)
def test_the_real_code_stands_where_its_mutations_fall(mutation: Mutation) -> None:
    """The same runs, by the same chance."""
    mutation.run(mutation.kinds, CONTROLS, shrink=False, start=mutation.seed)
