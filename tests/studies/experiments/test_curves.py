"""What a start saves is read off the validation curves of each seed."""

import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_omni.errors import OmniError
from lightning_omni.studies.experiments.curves import (
    ScalarCurve,
    curve_table,
    draw_curves,
    read_scalar_curve,
)
from lightning_omni.studies.experiments.training import Training

CURVE = ScalarCurve((10, 20, 30), (5.0, 4.0, 3.0), 100)


@pytest.mark.parametrize(
    ("value", "step"), [(6.0, 10.0), (5.0, 10.0), (4.25, 17.5), (3.0, 30.0), (2.9, None)]
)
def test_a_value_is_reached_at_the_step_between_two_measurements(value, step):
    assert CURVE.steps_to_reach(value) == step


def test_a_curve_that_rises_in_between_counts_from_its_first_time():
    curve = ScalarCurve((1, 2, 3, 4), (4.0, 2.0, 3.0, 1.0), 1)
    assert curve.steps_to_reach(2.0) == 2.0


def test_the_table_has_means_ranges_and_seeds_that_did_not_get_there(tmp_path):
    curves = {
        "slow": {1: CURVE, 2: CURVE},
        "fast": {
            1: ScalarCurve((5, 10), (4.5, 3.5), 100),
            2: ScalarCurve((5, 10), (3.5, 2.5), 100),
        },
    }
    lines = curve_table(curves, "val/loss").splitlines()
    assert lines[-2:] == [
        "| slow | 30 | 3.000 (3.000 to 3.000) | – | – |",
        "| fast | 10 | 3.000 (2.500 to 3.500) | 25 (25 to 25), 1 of 2 seeds not | "
        "15 (15 to 15), 1 of 2 seeds not |",
    ]
    draw_curves(curves, "val/loss", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_curve_of_a_training_is_its_logged_scalar_with_the_tokens_of_a_step(tmp_path):
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, value in ((5, 2.5), (10, 1.5)):
            writer.add_scalar("val/loss", value, step)
    recipe = {
        "data": {"init_args": {"rows": 2, "row_length": 512}},
        "trainer": {"accumulate_grad_batches": 2},
    }
    training = Training(tmp_path, recipe, tmp_path)
    assert read_scalar_curve(training, "val/loss") == ScalarCurve((5, 10), (2.5, 1.5), 2048)
    with pytest.raises(OmniError, match="no curve 'val/acc'; it has val/loss"):
        read_scalar_curve(training, "val/acc")
