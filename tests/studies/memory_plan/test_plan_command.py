"""What cannot be planned."""

import pytest

from lightning_omni.errors import OmniError
from lightning_omni.studies.memory_plan.command import plan
from lightning_omni.studies.memory_plan.settings import PlanOptions


def test_other_modules_are_refused():
    with pytest.raises(OmniError, match="the recipe trains a str on int; plan a recipe"):
        plan("module", 3, {}, PlanOptions())
