"""The test of the test: each rule, taken out of the real code, is missed by the model within so many examples."""

import os

import pytest
from hypothesis import seed

from .mutations import MUTATIONS, mutated
from .test_model import Nodes, run, run_overlaps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
STEPS = 10
EXAMPLES = int(os.environ.get("SYNCD_TEST_MUTANTS") or 20_000)


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_mutation_that_drops_the_rule_is_found(rule: str) -> None:
    mutation = MUTATIONS[rule]

    @seed(mutation.seed)
    class Few(Nodes):
        only = mutation.kinds

    with mutated(rule), pytest.raises(AssertionError) as found:
        if mutation.three:
            run_overlaps(mutation.kinds, EXAMPLES, shrink=False, start=mutation.seed)
        else:
            run(Few, EXAMPLES, steps=STEPS, shrink=False)
    print(f"{rule}: {str(found.value).splitlines()[0][:160]}")
