"""The debug recipes, trained, resumed and sampled through the real command line."""

import json
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file

from lightning_omni.cli import build_cli, main
from lightning_omni.data.mixture import MixtureLane
from lightning_omni.data.omni_data import OmniData
from lightning_omni.data.packing import LOOKAHEAD
from lightning_omni.diffusion.noise import split_complementary
from lightning_omni.evaluation.statistics import summarize_metric
from lightning_omni.recipe import read_recipe
from lightning_omni.studies.experiments.measurements import measure_nelbo
from lightning_omni.studies.experiments.recipe import (
    load_recipe,
    with_output_folder,
    with_test_split,
    write_recipe,
)
from lightning_omni.tasks import TASKS_BY_NAME

RECIPES = Path(__file__).parents[2] / "recipes"
pytestmark = pytest.mark.xdist_group("workplace")
NINE = [name for name in TASKS_BY_NAME if name != "chat"]


def fit(name, *more):
    return main(["fit", "--config", str(RECIPES / "debug" / f"{name}.yaml"), *more])


def test_the_seanet_variant_trains_and_exports(workplace):
    assert fit("speech_tokenizer_seanet") == 0
    assert (workplace / "runs/debug/speech_tokenizer_seanet/export/model.safetensors").is_file()


def assert_same_weights(folder, other):
    one, two = (load_file(Path(f) / "export/model.safetensors") for f in (folder, other))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(two[name], value), name


@pytest.mark.parametrize(
    ("name", "stop"), [("image_tokenizer", 6), ("speech_tokenizer", 6), ("stage3", 4)]
)
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(workplace, beside, name, stop):
    beside(*{"image_tokenizer", "speech_tokenizer"} - {name})
    run = Path("runs/debug") / name
    assert fit(name, "--trainer.max_steps", str(stop)) == 0
    assert fit(name, "--ckpt_path", str(run / "checkpoints/last.ckpt")) == 0
    assert_same_weights(workplace / run, run)


@pytest.mark.parametrize("task", NINE)
def test_every_task_generates_well_formed_answers_the_same_for_the_same_seed(workplace, task):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(workplace / "in.png")
    soundfile.write(workplace / "in.wav", rng.normal(0, 0.1, 16000), 16000)
    given = {
        "text": ["--text", "what is it"],
        "image": ["--image", "in.png"],
        "speech": ["--audio", "in.wav"],
    }
    declared = TASKS_BY_NAME[task]
    args = [x for modality in declared.inputs for x in given[modality]]
    outs = [workplace / f"out/{task}-{n}" for n in range(2)]
    for out in outs:
        model = ["--model", "runs/debug/stage3/export"]
        assert main(["generate", "--task", task, *args, "--out", str(out), *model]) == 0
    suffixes = {"text": ".txt", "image": ".png", "speech": ".wav"}
    for modality in declared.outputs:
        first, second = (out.with_suffix(suffixes[modality]).read_bytes() for out in outs)
        assert first == second
    record = json.loads(outs[0].with_suffix(".json").read_text())
    assert record["task"] == task
    assert record["seed"] == 0
    for part in record["parts"].values():
        if part["modality"] == "image":
            assert len(part["ids"]) == 64


def test_changing_the_vocabulary_is_refused_by_name(workplace, capsys):
    vocab = '{"text": 1024, "speech": 33, "image": 64}'
    assert fit("stage3", "--data.vocab", vocab) == 2
    assert "the vocab has spans" in capsys.readouterr().err


# Lightning warns that averaging cannot go on; a checkpoint's own weights are the average
@pytest.mark.filterwarnings("ignore:.*WeightAveraging callback.*")
def test_a_checkpoint_is_measured_on_the_test_split(workplace, capsys):
    recipe = ["--config", str(RECIPES / "debug" / "stage3.yaml")]
    checkpoint = ["--ckpt_path", "runs/debug/stage3/checkpoints/last.ckpt"]
    assert main(["test", *recipe, *checkpoint, "--data.test_split", "val"]) == 0
    said = capsys.readouterr().out
    for name in ("loss", "nelbo_per_token/text", "nelbo_per_token_error/speech", "bits_per_second"):
        assert f"test/{name}" in said
    assert "test/bits_per_dimension/image" in said
    assert "test/bits_per_dimension_error/image" in said
    assert main(["test", *recipe, *checkpoint, "--data.test_split", "exam"]) == 2


def test_sampling_configs_are_compared_on_the_same_cases(workplace):
    given = ["--model", "runs/debug/stage3/export", "--data", "data/smoke", "--out", "calibrated"]
    plan = ["--split", "val", "--limit", "5", "--speech_limit", "5", "--seed", "1"]
    threshold = {
        "class_path": "lightning_omni.samplers.threshold.Threshold",
        "init_args": {"threshold": 0.0},
    }
    configs = {"whole": {}, "same": {"num_steps": 64}, "at_once": {"sampler": threshold}}
    configs = ["--tasks", "[vqa]", "--configs", json.dumps(configs)]
    assert main(["calibrate", *given, *plan, *configs]) == 0
    rows = json.loads(Path("calibrated/calibration.json").read_text())["rows"]
    assert [row["config"] for row in rows] == ["whole", "same", "at_once"]
    assert {row["n"] for row in rows} == {5}
    assert rows[1]["difference"] == rows[1]["difference_error"] == 0
    assert rows[1]["forwards"] == rows[0]["forwards"] > rows[2]["forwards"]
    assert Path("calibrated/pareto_vqa.png").is_file()
    assert "| at_once |" in Path("calibrated/calibration.md").read_text()


def test_a_calibration_is_kept_with_the_model_and_read_by_generate(workplace, tmp_path):
    model = tmp_path / "model"
    shutil.copytree("runs/debug/stage3/export", model)
    given = ["--model", str(model), "--data", "data/smoke", "--out", str(tmp_path / "out")]
    plan = ["--split", "val", "--limit", "5", "--speech_limit", "5", "--seed", "1"]
    configs = ["--tasks", "[t2i]", "--configs", json.dumps({"two": {"num_steps": 2}})]
    assert main(["calibrate", *given, *plan, *configs, "--into_model", "true"]) == 0
    asked = ["generate", "--task", "t2i", "--text", "a cat", "--model", str(model)]
    for more, forwards in (([], 2), (["--num_steps", "5"], 5)):
        assert main([*asked, *more, "--out", str(tmp_path / "cat")]) == 0
        assert json.loads((tmp_path / "cat.json").read_text())["forwards"] == forwards


def experiment(name, recipe, variants):
    given = [
        "--name",
        name,
        "--claim",
        "c",
        "--out",
        "experiments",
        "--variants",
        json.dumps(variants),
    ]
    plan = ["--tasks", "[vqa]", "--split", "val", "--limit", "3", "--speech_limit", "3"]
    seeds = ["--evaluation_seed", "1", "--seeds", "[7]", "--recipes", json.dumps([str(recipe)])]
    return main(["experiment", *given, *plan, *seeds])


def short_recipe(path, steps, *callbacks):
    recipe = load_recipe(RECIPES / "debug" / "stage3.yaml")
    trainer = recipe["trainer"]
    trainer.update(max_steps=steps, val_check_interval=steps, plugins=None)
    trainer["callbacks"] = [c for c in trainer["callbacks"] if c["class_path"].endswith(callbacks)]
    write_recipe(recipe, path)
    return recipe


def test_the_bound_of_an_export_is_that_of_the_verb_test(workplace):
    recipe = with_output_folder(
        short_recipe(Path("plain.yaml"), 4, "ModelCheckpoint", "ExportOmni"), Path("plain")
    )
    recipe["trainer"]["precision"] = "32-true"  # exports are measured in float32
    write_recipe(recipe, Path("plain.yaml"))
    assert main(["fit", "--config", "plain.yaml"]) == 0
    more = ["--data.init_args.test_split", "val"]
    last = ["--ckpt_path", "plain/checkpoints/last.ckpt"]
    logged = build_cli(["test", "--config", "plain.yaml", *last, *more]).trainer.callback_metrics
    tested = with_test_split(
        recipe, tasks=list(recipe["data"]["init_args"]["tasks"]), split="val", limit=2, seed=956
    )
    found = measure_nelbo(tested, Path("plain/export"), device=torch.device("cpu"))
    for name in ("text", "speech", "image"):
        metric = f"{name}/nelbo_per_token"
        value = summarize_metric(found.scores, metric, seed=0).value
        assert value == pytest.approx(float(logged[f"test/nelbo_per_token/{name}"]), rel=1e-6)
        error = float(logged[f"test/nelbo_per_token_error/{name}"])
        assert found.errors[metric] == pytest.approx(error, rel=1e-5)


def test_an_experiment_trains_what_its_variants_share_once_and_resumes(workplace):
    short_recipe(Path("short.yaml"), 3, "ModelCheckpoint", "EMA", "ExportOmni")
    variants = {"base": {}, "few.steps": {"sampling": {"num_steps": 1}}}
    assert experiment("two", "short.yaml", variants) == 0
    (run,) = Path("experiments/trained").iterdir()
    rows = json.loads(Path("experiments/two/results.json").read_text())["rows"]
    by_name = {(row["variant"], row["metric"]): row for row in rows}
    assert by_name["few.steps", "text/nelbo_per_token"]["difference"] == 0
    assert {row["n"] for row in rows} == {3}
    assert by_name["few.steps", "exact"]["forwards"] < by_name["base", "exact"]["forwards"]
    assert Path("experiments/two/two.png").is_file()
    assert "| vqa | exact | base |" in Path("experiments/two/results.md").read_text()

    weights, kept = (run / "export/model.safetensors").read_bytes(), times_of(run / "measured")
    for lost in ("trained.json", "export/model.safetensors"):
        (run / lost).unlink()
    more = {**variants, "fewer": {"sampling": {"num_steps": 2}}}
    assert experiment("three", "short.yaml", more) == 0
    assert list(Path("experiments/trained").iterdir()) == [run]
    assert json.loads((run / "trained.json").read_text())["resumed_from"].endswith("last.ckpt")
    assert (run / "export/model.safetensors").read_bytes() == weights
    assert len(times_of(run / "measured")) == len(kept) + 1
    assert kept.items() <= times_of(run / "measured").items()


def times_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def infill(name, *args):
    model = ["--model", "runs/debug/stage3/export"]
    assert main(["generate", *args, "--out", f"out/{name}", *model]) == 0
    parts = json.loads(Path(f"out/{name}.json").read_text())["parts"]
    return next(part for key, part in parts.items() if key != "transcript")


def test_words_of_a_text_are_filled(workplace):
    Image.new("RGB", (64, 64), "green").save("own.png")
    part = infill("words", "--task", "caption", "--image", "own.png", "--text", "a ___ cat, ___{2}")
    text = Path("out/words.txt").read_text()
    assert text.startswith("a ")
    assert " cat, " in text
    assert part["masked"] == sum(part["blanks"])
    same = infill(
        "same", "--task", "vqa", "--text", "x", "--image", "own.png", "--infill_text", "___"
    )
    assert same["masked"] == same["positions"]


def test_a_part_of_a_picture_is_drawn_anew(workplace):
    own = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(own).save("own.png")
    mask = Image.new("RGB", (64, 64))
    mask.paste((255, 255, 255), (0, 0, 20, 64))
    mask.save("mask.png")
    part = infill(
        "half", "--task", "t2i", "--text", "x", "--image", "own.png", "--mask", "mask.png"
    )
    made = np.asarray(Image.open("out/half.png"))
    assert part["masked"] == 24
    assert (made[:, 24:] == own[:, 24:]).all()
    assert (made[:, :24] != own[:, :24]).any()
    hidden = infill("seen", "--task", "caption", "--image", "own.png", "--mask", "mask.png")
    assert hidden["masked"] == hidden["positions"]


def test_a_part_of_speech_is_said_anew(workplace):
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).clip(-1, 1).astype(np.float32)
    soundfile.write("own.wav", wave, 16000)
    own, rate = soundfile.read("own.wav", dtype="float32")
    part = infill(
        "bit", "--task", "tts", "--text", "x", "--audio", "own.wav", "--intervals", "0.2-0.6"
    )
    made, _ = soundfile.read("out/bit.wav", dtype="float32")
    assert 0 < part["masked"] < part["positions"]
    assert len(made) == len(own)
    assert (made[: round(0.1 * rate)] == own[: round(0.1 * rate)]).all()
    assert (made[round(0.7 * rate) :] == own[round(0.7 * rate) :]).all()
    assert (made != own).any()


def test_masked_pieces_are_infilled_and_scored(workplace):
    given = ["--model", "runs/debug/stage3/export", "--data", "data/smoke", "--out", "infilled"]
    plan = ["--split", "val", "--limit", "3", "--speech_limit", "2", "--seed", "1"]
    assert main(["evaluate-infilling", *given, *plan]) == 0
    rows = json.loads(Path("infilled/infilling.json").read_text())["rows"]
    variants = {"caption": 2, "t2i": 4, "tts": 4}
    assert [row["task"] for row in rows] == [task for task, n in variants.items() for _ in range(n)]
    assert {row["n"] for row in rows} == {2, 3}
    assert all(row["value"] >= 0 for row in rows)


def test_every_preset_and_a_sampler_of_one_s_own_generate(workplace):
    asked = ["--task", "t2i", "--text", "a cat", "--model", "runs/debug/stage3/export"]
    sampler = ["--sampler", "lightning_omni.samplers.margin.Margin"]
    for name, more in (
        ("fast", ["--preset", "fast"]),
        ("best", ["--preset", "best", "--precision", "bfloat16"]),
        ("margin", [*sampler, "--num_steps", "3"]),
    ):
        assert main(["generate", *asked, *more, "--out", f"out/{name}"]) == 0
    steps = {
        name: json.loads(Path(f"out/{name}.json").read_text())["forwards"]
        for name in ("fast", "best", "margin")
    }
    assert steps["margin"] == 3
    assert steps["best"] == 64
    assert steps["fast"] == 8


def data_of(**changes) -> OmniData:
    """The debug stage's data with some options changed, ready to be read."""
    recipe = read_recipe(RECIPES / "debug" / "stage3.yaml")
    data = OmniData(**{**recipe["data"]["init_args"], **changes})
    data.setup("fit")
    return data


def test_every_visit_comes_with_its_complement_if_that_is_asked_for(workplace):
    data = data_of(complementary=True, lanes=1)
    batches = [one.batch for one in islice(data.train_dataloader(), 12)]
    shown = torch.cat([b.sample_index[b.tasks >= 0] for b in batches])
    numbers, is_complement = split_complementary(shown)
    first, second = (numbers[chosen].tolist() for chosen in (~is_complement, is_complement))
    assert len(set(first)) == len(first)
    assert len(set(second)) == len(second)
    # all but those that wait for the next batch
    assert len(set(first) ^ set(second)) <= LOOKAHEAD + 1 < 0.3 * len(first)


def test_the_condition_is_dropped_as_often_as_the_recipe_says(workplace):
    drawn = Counter()

    class Recorder:
        def render(self, sample, *, rng, drop):
            drawn[drop] += 1

    mixture = data_of(condition_dropout=0.3, tasks={"vqa": 1, "t2i": 1}).mixture()
    lane = MixtureLane(mixture, Recorder(), mixture.make_readers(), 0)
    for _ in range(2000):
        lane.render(lane.draw_sample())
    assert set(drawn) == {(), ("text",), ("text", "image")}
    assert abs(drawn["text", "image"] / 1000 - 0.3) < 0.05
    assert abs(drawn[("text",)] / 1000 - 0.3) < 0.05


def test_an_isolated_prompt_trains_and_generates(beside):
    beside("image_tokenizer", "speech_tokenizer")
    isolated = ["--model.backbone.init_args.isolate_prompt", "true"]
    assert fit("stage3", "--trainer.max_steps", "3", *isolated) == 0
    model = ["--model", "runs/debug/stage3/export"]
    asked = ["generate", "--task", "t2i", "--text", "a cat", *model]
    assert main([*asked, "--out", "cat"]) == 0
    Image.new("L", (2, 2), 255).save("mask.png")
    assert main([*asked, "--out", "again", "--image", "cat.png", "--mask", "mask.png"]) == 0
    from lightning_omni.generation.omni import Omni

    assert Omni.from_pretrained("runs/debug/stage3/export").backbone.isolate_prompt
