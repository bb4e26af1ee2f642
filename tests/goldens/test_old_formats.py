"""What the code before the redesign wrote, and its names, can still be used."""

import importlib
import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from cases import FIXTURES, Inputs
from compare import LOSS_TOLERANCE, STORED, read
from record import continuous_export

from lightning_omni import GenerationConfig, Omni
from lightning_omni.cli import build_cli, main, parse_options
from lightning_omni.cli_help import VERBS, verb_options
from lightning_omni.cli_options import OLD_VERBS, new_option_name
from lightning_omni.cli_trainer import OmniCLI
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import config_from_dict, config_to_dict
from lightning_omni.generation.presets import load_presets
from lightning_omni.old_names import MODULES, REMOVED_MODULES, REMOVED_OPTIONS, resolve_class_path
from lightning_omni.pretrained import FOLDER
from lightning_omni.recipe import read_recipe
from lightning_omni.tokenizers.speech import SpeechTokenizer
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder

RECIPES = FIXTURES / "recipes"
AVERAGING = {
    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.98, "use_buffers": False},
}
NAMES = json.loads((FIXTURES / "names.json").read_text())
"""Modules, classes and options of the old code."""
TRAINING = sorted(p for p in RECIPES.rglob("*.yaml") if "\ntrainer:" in p.read_text())
STUDIES = sorted(
    p for p in RECIPES.rglob("*.yaml") if p not in TRAINING and p.parent != RECIPES / "model"
)
EDITING = r"\S+TokenEditing' no longer exists: .*remdm\.ReMDM masks some of them again"
REMOVED_FROM_STUDIES = {
    "editing": f"editing.yaml': {EDITING}",
    "guidance": r"variants\.image_1\.sampling: guidance_scale is .*, wanted one number",
    "images": f"images.yaml': {EDITING}",
    "lengths": r"configs\.longest: the option 'length' no longer exists: response_length states",
    "speech": f"speech.yaml': {EDITING}",
    "text": f"text.yaml': {EDITING}",
}
"""Old recipe of a study: what the error names."""
REMOVED_CLASSES = {
    "bench.sample": "Canvases",
    "data.image_data": "Pictures",
    "data.omni_data": "PackedMixture",
    "data.resumable": "EndlessBatches",
    "data.shards": "SampleStream",
    "evaluation.answerers": "Reconstructor",
    "inference.blank": "Blank",
    "inference.denoise": "Guide",
    "inference.ears": "Ears",
    "inference.given_files": "Given GivenFiles",
    "inference.hole_filler": "HoleFiller",
    "inference.hole_lengths": "HoleLengths",
    "inference.part_draft": "ImageDraft SpeechDraft TextDraft",
    "inference.unused_options": "Scope",
    "modules.length_loss": "LengthLoss",
    "nn.length_head": "LengthHead Query",
    "samplers.growth": "Growing Grown Growth",
    "samplers.token_editing": "TokenEditing",
}
"""Classes of the old code, by module, that have no successor."""
REMOVED_FILES = {*REMOVED_MODULES, "inference.shrink", "option_files"}


# -------------------------------------------------------------------------------------- files
def test_an_export_with_a_length_head_loads_and_says_once_that_it_is_not_used(caplog):
    caplog.set_level(logging.INFO)
    model = Omni.from_pretrained(FIXTURES / "stage3_export")
    assert caplog.text.count("no longer used") == 1
    assert model.generate("t2i", text="a red cat").image is not None


def test_an_export_with_continuous_speech_loads_with_its_encoder_and_names_it_without():
    wave = Inputs().wave("caption0")
    with continuous_export() as folder:
        encoder = SpeechFeatureEncoder(torch.nn.Identity())
        model = Omni.from_pretrained(folder, continuous_speech=encoder)
        answer = model.generate("asr", speech=wave, config=GenerationConfig(num_steps=2))
        assert answer.text is not None
        with pytest.raises(OmniError, match="continuous_speech"):
            Omni.from_pretrained(folder).generate("asr", speech=wave)


def test_a_seanet_tokenizer_decodes_as_it_did():
    tokenizer = SpeechTokenizer.from_pretrained(FIXTURES / "speech_tokenizer_seanet_export")
    wave = tokenizer.decode(torch.arange(60)[None] % 32).detach().flatten()
    assert wave.shape == (38400,)
    assert wave[1000:5000:1000].tolist() == pytest.approx(
        [0.344658, 0.345449, 0.344649, 0.345489], abs=1e-4
    )


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")  # fewer callbacks here
def test_a_checkpoint_with_a_length_head_resumes_with_its_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prep-data", "--preset", "smoke", "--out", "data/smoke", "--cache", "c"]) == 0
    checkpoint = shutil.copy(FIXTURES / "stage3_step4.ckpt", "old.ckpt")
    recipe = ["--config", str(RECIPES / "debug/stage3.yaml"), "--trainer.plugins", "null"]
    for kind in ("image_tokenizer", "speech_tokenizer"):
        recipe += [f"--data.{kind}", str(FIXTURES / "stage3_export" / kind)]
    recipe += ["--trainer.callbacks", json.dumps([AVERAGING]), "--trainer.limit_val_batches", "0"]
    seen = {}

    def keep(cli):
        seen.update(cli.trainer.logged_metrics, step=cli.trainer.global_step)

    monkeypatch.setattr(OmniCLI, "after_fit", keep, raising=False)
    assert main(["fit", *recipe, "--trainer.max_steps", "5", "--ckpt_path", checkpoint]) == 0
    stored = read(STORED["losses"])["losses"]["stage3@resumed"]["batches"][0]["train/loss"]
    assert math.isclose(float(seen["train/loss"]), stored, rel_tol=LOSS_TOLERANCE)
    assert seen["step"] == 5
    assert Path("runs/debug/stage3/export/model.safetensors").is_file()


# ------------------------------------------------------------------------------------ presets
def test_presets_under_their_old_name_are_those_of_today():
    old, new = load_presets(FIXTURES / "qualities" / "shipped"), load_presets(FOLDER)
    assert {p: {t: config_to_dict(c) for t, c in own.items()} for p, own in old.items()} == {
        p: {t: config_to_dict(c) for t, c in own.items()} for p, own in new.items()
    }


def test_old_settings_are_read_or_named():
    plain = json.loads((FIXTURES / "qualities" / "handmade" / "qualities.json").read_text())
    assert config_from_dict(plain["balanced"]["tqa"]).history
    assert config_from_dict(plain["balanced"]["tqa"]).preset == "best"
    assert config_from_dict(plain["fast"]["asr"]).cache_interval == 2
    for preset, task, words in (
        ("fast", "tts", "timestep_shift is .*, wanted one number"),
        ("fast", "t2i", "'final_guidance_scale' no longer exists: .* guidance_scale"),
        ("fast", "caption", "'grow' no longer exists: .* adjust_length: true"),
        ("balanced", "sqa", "'length' no longer exists: response_length"),
        ("balanced", "svqa", "guidance_scale is .*, wanted one number"),
        ("best", "s2i", "guidance_scale is .*, wanted one number"),
    ):
        with pytest.raises(OmniError, match=words):
            config_from_dict(plain[preset][task])
    sampler = plain["fast"]["vqa"]["sampler"]
    with pytest.raises(OmniError, match=r"token_editing\.TokenEditing' no longer exists"):
        config_from_dict({"sampler": sampler})
    nested = config_from_dict({"sampler": sampler["init_args"]["sampler"]}).sampler
    assert (type(nested).__name__, nested.threshold) == ("KLASS", 0.8)


# ------------------------------------------------------------------------------------ recipes
@pytest.mark.parametrize("path", TRAINING, ids=lambda p: str(p.relative_to(RECIPES)))
def test_an_old_recipe_builds(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needs_gpu = read_recipe(path)["trainer"].get("strategy", "auto") != "auto"
    with torch.device("meta"):
        cli = build_cli(["--config", str(path)], run=False, with_trainer=not needs_gpu)
    assert next(cli.model.parameters()).is_meta


def test_removed_arguments_of_old_recipes_are_named_once(caplog):
    from lightning_omni.old_names import log_once

    log_once.cache_clear()
    read_recipe(RECIPES / "debug/stage3.yaml")
    assert "the argument 'length_loss' is ignored: length heads were removed" in caplog.text


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: str(p.relative_to(RECIPES)))
def test_an_old_recipe_of_a_study_parses_or_names_what_was_removed(path, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)  # variants name recipes relative to it
    if path.parent.name == "eval":
        verbs = {"infilling": "evaluate-infilling", "tokenizers": "evaluate-tokenizers"}
        verb = verbs.get(path.stem, "calibrate" if path.stem == "calibrate" else "evaluate")
    else:
        verb = "calibrate" if path.parent.name == "sampling" else "experiment"
    if (words := REMOVED_FROM_STUDIES.get(path.stem)) is None:
        assert parse_options(verb, ["--config", str(path)])
    else:
        with pytest.raises(OmniError, match=words):
            parse_options(verb, ["--config", str(path)])


# -------------------------------------------------------------------------------------- names
def own_name(path):
    return path.removeprefix("lightning_omni.")


def find(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_old_class_is_found_or_was_removed():
    removed = {f"{m}.{name}" for m, names in REMOVED_CLASSES.items() for name in names.split()}
    missing = set()
    for path in NAMES["classes"]:
        try:
            find(resolve_class_path(path))
        except (OmniError, ImportError, AttributeError):
            missing.add(own_name(path))
    assert missing == removed


def test_every_old_module_is_importable_or_was_removed():
    missing = set()
    for path in NAMES["modules"]:
        try:
            importlib.import_module(path)
        except ImportError:
            missing.add(own_name(path))
    assert missing == REMOVED_FILES


@pytest.mark.parametrize("target", sorted(set(MODULES.values())))
def test_a_moved_module_is_where_the_table_says(target):
    assert target not in MODULES
    assert (
        importlib.import_module(f"lightning_omni.{target}").__name__ == f"lightning_omni.{target}"
    )


def test_no_class_of_today_has_an_old_name():
    for path in (resolve_class_path(path) for path in NAMES["classes"] if is_kept(path)):
        assert resolve_class_path(path) == path


def is_kept(path):
    module, _, name = own_name(path).rpartition(".")
    return module not in REMOVED_MODULES and name not in REMOVED_CLASSES.get(module, "").split()


def is_in_place(path):
    return own_name(path).rpartition(".")[0] not in MODULES and resolve_class_path(path) != path


RENAMED_IN_PLACE = sorted(path for path in NAMES["classes"] if is_kept(path) and is_in_place(path))


def test_some_classes_were_renamed_in_place():
    assert len(RENAMED_IN_PLACE) >= 5


@pytest.mark.parametrize("path", RENAMED_IN_PLACE)
def test_a_class_renamed_in_place_is_importable_under_its_old_name(path, caplog):
    module = importlib.import_module(path.rpartition(".")[0])
    name = path.rpartition(".")[2]
    vars(module).pop(name, None)  # kept since its first use
    assert getattr(module, name) is find(resolve_class_path(path))
    assert f"'{path}' is now '{resolve_class_path(path)}'" in caplog.text


def test_a_name_that_never_was_is_no_attribute():
    with pytest.raises(ImportError, match="Nothing"):
        from lightning_omni.evaluation.statistics import Nothing  # noqa: F401


def options_in(verb):
    return [option.name for option in verb_options(verb)]


@pytest.mark.parametrize("verb", sorted(set(NAMES["options"]) - set(OLD_VERBS)))
def test_every_old_option_has_a_new_name_or_an_error_that_says_what_is_there_instead(verb):
    known = options_in(verb)
    sections = {name.partition(".")[0] for name in known}
    for old in NAMES["options"][verb]:
        if old in REMOVED_OPTIONS and old not in known:
            with pytest.raises(
                OmniError, match=f"'{old}' no longer exists: {REMOVED_OPTIONS[old]}"
            ):
                new_option_name(old, known)
        else:
            assert new_option_name(old, known) in {*known, *sections}


@pytest.mark.parametrize("verb", OLD_VERBS)
def test_options_of_an_old_verb_are_those_of_its_successor(verb):
    (successor, *_), renamed = OLD_VERBS[verb]
    assert successor in VERBS
    known = options_in(successor)
    for old in NAMES["options"][verb]:
        assert renamed.get(old, old) in known
