"""Shared fixtures: a seeded generator, and one thread so that parallel tests do not fight."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# lightning 2.6.6 calls deprecated names of jsonargparse 4.53
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(956)
