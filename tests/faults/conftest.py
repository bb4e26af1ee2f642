"""Faults of training use the data that other tests have made."""

import pytest
import runs


@pytest.fixture(autouse=True)
def made_data(request, monkeypatch):
    if "training: " in request.node.name:
        monkeypatch.setenv(runs.TRAINED, str(request.getfixturevalue("trained")))
