"""A few of each fault of the campaign; `make fault-report` runs it whole."""

import pytest
from report import AREAS, faults_of


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=f"{area}: {fault.name}")
        for area in AREAS
        for fault in faults_of(area)
        if fault.fast_calls
    ],
)
def test_what_follows_a_fault_is_right(fault, tmp_path):
    for number in range(fault.fast_calls):
        folder = tmp_path / str(number)
        folder.mkdir()
        for outcome in fault.run(number, folder):
            assert outcome.is_right, f"{outcome.what}: {outcome.detail}"
