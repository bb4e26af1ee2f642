"""Two layouts of one run are compared batch by batch."""

from copy import deepcopy
from pathlib import Path

import pytest

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.studies.topology import compare_runs, count_devices, verify_topology

RECIPES = Path(__file__).parents[2] / "recipes"
RUN = {n: {"loss": 3.0 + n, "tokens": f"t{n}", "masks": f"m{n}"} for n in range(4)}


def test_equal_runs_agree_and_each_difference_is_seen():
    table, agrees = compare_runs(RUN, RUN, batches_per_step=2)
    assert agrees
    assert table.splitlines()[1].split()[:2] == ["1", "3.500000"]
    for number, key, value in ((0, "loss", 3.001), (3, "loss", 6.1), (2, "masks", "?")):
        other = deepcopy(RUN)
        other[number][key] = value
        assert not compare_runs(RUN, other, batches_per_step=2)[1]
    assert not compare_runs(RUN, {n: RUN[n] for n in range(3)}, batches_per_step=2)[1]
    later = deepcopy(RUN)
    later[3]["loss"] += 0.001
    assert compare_runs(RUN, later, batches_per_step=2)[1]


@pytest.mark.parametrize(
    ("given", "count"), [(3, 3), ("2", 2), ([0, 1], 2), ("auto", 1), (None, 1)]
)
def test_devices_are_counted(given, count):
    assert count_devices(given, "cpu") == count


def test_one_device_and_nonsense_are_refused(monkeypatch, capsys):
    with pytest.raises(OmniError, match=r"give --trainer\.devices 2"):
        verify_topology([], {"devices": 1}, MaskedDiffusionModule, 2)
    assert main(["fit", "--verify_topology", "many"]) == 2
    assert "wanted a number of steps" in capsys.readouterr().err
    assert main(["fit", "--verify_topology"]) == 2
    assert "needs a value" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("workplace")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("name", "compared"),
    [
        ("stage3", 2),
        ("image_tokenizer", 1),
        ("speech_tokenizer", 1),
        ("speech_tokenizer_seanet", 1),
    ],
)
def test_a_recipe_on_two_devices_agrees_with_one(
    beside, capsys, monkeypatch, name, compared, strategy
):
    beside("image_tokenizer", "speech_tokenizer")
    monkeypatch.setenv("PYTHONPATH", str(RECIPES.parent))
    recipe = ["--config", str(RECIPES / f"debug/{name}.yaml"), "--trainer.accelerator", "cpu"]
    layout = ["--config", str(RECIPES / f"strategy/{strategy}.yaml"), "--trainer.devices", "2"]
    assert main(["fit", *recipe, *layout, "--verify_topology", "5"]) == 0, capsys.readouterr()
    assert capsys.readouterr().out.count("equal") == 5 * compared
