"""Threads that wait soon sleep, unless the user wants otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, lightning_omni
print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [
        ({}, "passive", "1000"),
        ({"OMP_WAIT_POLICY": "active"}, "active", "None"),
        ({"GOMP_SPINCOUNT": "0"}, "passive", "0"),
    ],
)
def test_the_wait_policy_is_set_before_torch_reads_it(given, policy, spins):
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    env = {k: v for k, v in os.environ.items() if k not in ours} | given
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [policy, spins, "False"]
