"""The toy folder, built once per session."""

import pytest
from toy_world import NINE, build_toy_data


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return build_toy_data(folder, {"train": 400, "val": 40, "test_iid": 60}, NINE)
