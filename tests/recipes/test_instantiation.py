"""Every recipe parses and builds its objects, the largest ones on the meta device."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from published_speech import write_sense_voice

from lightning_omni.cli import build_cli, parse_options
from lightning_omni.cli_devices import check_devices
from lightning_omni.cli_trainer import OmniCLI
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import config_from_dict, config_to_dict
from lightning_omni.recipe import read_recipe
from lightning_omni.studies.experiments.variants import resolve_recipes

RECIPES = Path(__file__).parents[2] / "recipes"
EXPERIMENTS = sorted((RECIPES / "experiments").glob("*.yaml"))
CALIBRATIONS = [RECIPES / "eval/calibrate.yaml", *(RECIPES / "experiments/sampling").glob("*.yaml")]
TRAINING = sorted(
    p
    for p in RECIPES.rglob("*.yaml")
    if p.parent.name not in ("base", "strategy") and "trainer" in yaml.safe_load(p.read_text())
)
STRATEGIES = sorted((RECIPES / "strategy").glob("*.yaml"))


PAPER = sorted((RECIPES / "paper").glob("stage*.yaml"))


def build(*args: str):
    """Objects of a recipe; the trainer of one that needs GPUs is only parsed."""
    needs_gpu = read_recipe(Path(args[1]))["trainer"].get("strategy", "auto") != "auto"
    with torch.device("meta"):
        return build_cli(list(args), run=False, with_trainer=not needs_gpu)


@pytest.mark.parametrize("path", TRAINING, ids=lambda p: str(p.relative_to(RECIPES)))
def test_a_recipe_builds_and_its_config_round_trips(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "SenseVoice" in path.read_text():
        write_sense_voice(tmp_path / "checkpoints" / "SenseVoiceSmall")
    line = next(x for x in path.read_text().splitlines() if x.startswith("# Run: "))
    command, verb, option, _, *more = line.removeprefix("# Run: ").split()
    assert (command, verb, option) == ("lightning_omni", "fit", "--config")
    cli = build("--config", str(path), *more)
    text = cli.parser.dump(cli.config, skip_none=False)
    again = tmp_path / "again.yaml"
    again.write_text(text)
    second = build("--config", str(again))
    assert second.parser.dump(second.config, skip_none=False) == text


@pytest.mark.parametrize("path", TRAINING, ids=lambda p: str(p.relative_to(RECIPES)))
def test_a_recipe_opens_with_what_source_cost_and_run(path):
    head = path.read_text().split("trainer:")[0]
    assert all(word in head for word in ("# Source:", "# Cost:", "Expected:", "# Run:"))
    assert str(path.relative_to(RECIPES.parent)) in head


@pytest.mark.parametrize(
    "option", ["devices 0", "devices many", "devices -3", "num_nodes 0", "num_nodes -1"]
)
def test_devices_that_cannot_be_are_refused_before_a_large_model_is_built(
    option, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(OmniCLI, "instantiate_classes")
    monkeypatch.setattr(OmniCLI.__base__, "instantiate_classes", lambda _: pytest.fail("built"))
    name, value = option.split()
    with pytest.raises(OmniError, match=rf"trainer\.{name} '?{value}.*: .*{name}"):
        build_cli(["--config", str(PAPER[0]), f"--trainer.{name}", value], run=False)


def check_strategy(**settings):
    trainer = {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "strategy": Namespace(settings)}
    check_devices(Namespace(trainer))


def test_a_strategy_of_a_class_is_asked_before_the_model_is_built():
    check_strategy(class_path="lightning_omni.modules.sharding.ShardedStrategy")
    fsdp = "lightning.pytorch.strategies.FSDPStrategy"
    said = rf"trainer.devices 2, .*trainer.strategy '{fsdp}': .*GPU"
    with pytest.raises(OmniError, match=said):
        check_strategy(class_path=fsdp, init_args=Namespace(cpu_offload=True))
    parts = Namespace(mixed_precision=Namespace(class_path="a.b"))
    check_strategy(class_path=fsdp, init_args=parts)  # left to the trainer


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda p: p.stem)
@pytest.mark.parametrize("recipe", ["stage2", "paper/stage1", "image_tokenizer"])
def test_a_strategy_goes_behind_any_recipe(path, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    behind = ["--config", str(RECIPES / f"{recipe}.yaml"), "--config", str(path)]
    with torch.device("meta"):
        trainer = build_cli(behind, run=False, with_trainer=False).config.trainer
    wanted = yaml.safe_load(path.read_text())["trainer"]
    assert trainer.devices == wanted["devices"]
    named = wanted["strategy"]
    assert getattr(trainer.strategy, "class_path", trainer.strategy) == (
        named if isinstance(named, str) else named["class_path"]
    )
    head = path.read_text().split("trainer:")[0]
    assert all(word in head for word in ("# Source:", "# Cost:", "Expected:", "# Run:"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_variant_of_an_experiment_builds_and_no_two_are_the_same(path, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    options = parse_options("experiment", ["--config", str(path)])
    assert options["name"] == path.stem
    recipes = options["recipes"] or []
    kinds = []
    for name, variant in options["variants"].items():
        built = [recipe for _, recipe, _ in resolve_recipes(name, variant, recipes)]
        kinds.append((built, variant.sampling))
    assert all(kind not in kinds[:n] for n, kind in enumerate(kinds))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_opens_with_what_source_cost_and_run(path):
    head = path.read_text().split("name:")[0]
    assert all(word in head for word in ("# Source:", "# Cost:", "Expected:", "# Run:"))
    assert f"experiment --config {path.relative_to(RECIPES.parent)}" in head


@pytest.mark.parametrize("path", CALIBRATIONS, ids=lambda p: p.stem)
def test_every_config_of_a_calibration_differs_from_the_others_and_can_be_kept(path):
    options = parse_options("calibrate", ["--config", str(path)])
    plain = {name: config_to_dict(config) for name, config in options["configs"].items()}
    assert all(config_to_dict(config_from_dict(config)) == config for config in plain.values())
    kinds = [json.dumps(config, sort_keys=True) for config in plain.values()]
    assert len(set(kinds)) == len(kinds) > 1
    head = path.read_text().split("model:")[0]
    assert all(word in head for word in ("# Source:", "# Cost:", "Expected:", "# Run:"))
    assert f"calibrate --config {path.relative_to(RECIPES.parent)}" in head


def test_the_paper_s_backbone_has_the_published_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = str(RECIPES / "stage3.yaml")
    model = str(RECIPES / "model" / "7b.yaml")
    cli = build("--config", stage, "--model.backbone", model)
    blocks = cli.model.backbone.blocks
    assert sum(p.numel() for p in blocks[0].parameters()) == 233_057_792
    assert len(blocks) == 28


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_the_paper_s_stages_train_the_published_model_on_the_published_ids(path):
    cli = build("--config", str(path))
    assert sum(p.numel() for p in cli.model.backbone.parameters()) == 7_789_082_112
    assert cli.model.backbone.right_shift_logits
    start = {"stage1": "checkpoints/dream", "stage2": "runs/paper/stage1/export"}
    assert cli.model.init_from == start.get(path.stem, "runs/paper/stage2/export")
    assert cli.model.vocab.size == 176_264
    assert cli.model.vocab.special_tokens == cli.datamodule.special_tokens == "released"
    assert cli.model.forward_process.tail_pad_ratio == 0.6
    assert cli.datamodule.row_length == 3072
    trainer = cli.config.trainer
    assert trainer.devices * trainer.accumulate_grad_batches * cli.datamodule.rows == 128
    rate = cli.model.optimizer_factory([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    assert rate.defaults["lr"] == {"stage1": 1e-4, "stage2": 1e-4, "stage3": 1e-5}[path.stem]
