"""Faults of training use the data that other tests have made."""

import os

import pytest

import runs


@pytest.fixture(autouse=True)
def made_data(request, monkeypatch):
    if "training: " in request.node.name and runs.TRAINED not in os.environ:
        monkeypatch.setenv(runs.TRAINED, str(request.getfixturevalue("trained")))
