"""No word lost, by the real parts of instances: each labelled sample lies in one accepted final, whatever dies."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.server.promise.machine import Promise
from tests.server.promise.planted_faults import FAULTS
from tests.server.promise.world import PromiseBrokenError

MORE = os.environ.get("TRIO_STT_TEST_EXAMPLES")
"""So many other examples each time, for a longer run by hand; unset: few, always the same."""

FEW = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)

Promise.TestCase.settings = settings(FEW, max_examples=int(MORE), derandomize=False, print_blob=True) if MORE else FEW
test_promise = Promise.TestCase


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_noticed(fault):
    found_at_once = settings(FEW, max_examples=200, phases=[Phase.generate])
    with fault(), pytest.raises(PromiseBrokenError):
        run_state_machine_as_test(Promise, settings=found_at_once)
