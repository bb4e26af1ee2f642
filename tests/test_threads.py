"""Threads that wait sleep, unless the user wants otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = (
    "import os, sys, lightning_omni; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
)


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_the_wait_policy_is_set_before_torch_reads_it(given, found):
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given is not None:
        env["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [found, "False"]
