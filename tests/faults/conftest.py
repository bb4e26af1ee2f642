"""Faults of training use the data that other tests have made."""

import os

import pytest
import small_runs


@pytest.fixture(autouse=True)
def made_data(request, monkeypatch):
    if "training: " in request.node.name and small_runs.TRAINED not in os.environ:
        monkeypatch.setenv(small_runs.TRAINED, str(request.getfixturevalue("trained")))
