"""A published text model becomes a joint one through the real command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import QWEN_SHAPE, import_small_dream

from lightning_omni.cli import main
from lightning_omni.interop import load_backbone
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.nn.adapters import TARGET_MODULES
from lightning_omni.nn.transformer import Transformer
from lightning_omni.studies.experiments.recipe import load_recipe, write_recipe
from lightning_omni.tokenizers.text import DEFAULT_RANKS, RANKS_FILE
from lightning_omni.vocab import Vocab

pytestmark = pytest.mark.xdist_group("workplace")
RECIPE = Path(__file__).parents[2] / "recipes" / "debug" / "stage3.yaml"
EXPORT, LAST = Path("runs/debug/stage3/export"), "runs/debug/stage3/checkpoints/last.ckpt"
KNOWN, PADDING = 1024 + 24, 8
IDS = {"mask_token_id": KNOWN - 1, "pad_token_id": 1024}
TABLES = {"embedding.tokens.weight", "embedding.head.weight"}


@pytest.fixture
def imported(beside, tmp_path):
    """A tiny Dream, imported, and a recipe in the current folder that starts from it."""
    beside("image_tokenizer", "speech_tokenizer")
    folder = import_small_dream(tmp_path / "dream", KNOWN + PADDING, token_ids=IDS)
    recipe = load_recipe(RECIPE)
    shape = {**QWEN_SHAPE, "right_shift_logits": True}
    recipe["model"]["init_args"].update(
        backbone={"class_path": "lightning_omni.nn.transformer.Transformer", "init_args": shape},
        code_feature_dims={},
        init_from=["runs/debug/gone", str(folder)],
    )
    recipe["data"]["init_args"].update(
        special_tokens="released", tasks={"tqa": 1, "vqa": 1, "t2i": 1}, transcribe_first=[]
    )
    recipe["trainer"].update(val_check_interval=2)
    write_recipe(recipe, Path("recipe.yaml"))
    return folder


def fit(*more, steps=2):
    return main(["fit", "--config", "recipe.yaml", "--trainer.max_steps", str(steps), *more])


def generate(task, *given):
    return main(["generate", "--model", str(EXPORT), "--task", task, *given, "--out", "answer"])


def test_two_steps_from_dream_resume_export_and_sample(imported):
    assert fit() == 0
    assert fit("--ckpt_path", LAST, steps=4) == 0
    before, after = load_backbone(imported), load_backbone(EXPORT)
    assert after.right_shift_logits
    assert len(after.transformer.embedding.tokens.weight) == 1024 + 45 + 32 + 64
    for name in TABLES:
        old, new = (b.transformer.state_dict()[name][:KNOWN] for b in (before, after))
        assert not torch.equal(old, new)
        assert (new - old).abs().max() < 0.02  # a few steps away, row by row
    assert generate("tqa", "--text", "what is it?") == 0
    assert json.loads(Path("answer.json").read_text())["parts"]["0"]["modality"] == "text"
    assert Path("answer.txt").is_file()
    assert generate("t2i", "--text", "a cat") == 0
    assert Path("answer.png").is_file()


def test_text_ids_other_than_those_of_the_weights_are_refused(imported, capsys):
    lines = DEFAULT_RANKS.read_text().splitlines()
    (one, low), (two, high) = lines[300].split(), lines[301].split()
    ranks = imported / RANKS_FILE
    ranks.write_text("\n".join([*lines[:300], f"{two} {low}", f"{one} {high}", *lines[302:]]))
    assert fit() == 2
    said = capsys.readouterr().err
    assert f"not those of the initial weights in '{ranks}'" in said
    assert f"data.text_ranks '{DEFAULT_RANKS}'" in said
    assert fit("--data.text_ranks", str(ranks)) == 0


def test_a_resumed_run_is_an_unbroken_one(imported):
    assert fit(steps=4) == 0
    unbroken = load_file(EXPORT / "model.safetensors")
    shutil.rmtree(EXPORT.parent)
    assert fit() == 0
    assert fit("--ckpt_path", LAST, steps=4) == 0
    resumed = load_file(EXPORT / "model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def test_adapters_and_new_rows_alone_are_trained(imported):
    pytest.importorskip("peft")
    args = {"rank": 2, "alpha": 4, "trainable_rows_from": KNOWN}
    lora = {"class_path": "lightning_omni.nn.adapters.Lora", "init_args": args}
    assert fit("--model.lora", json.dumps(lora)) == 0
    assert fit("--model.lora", json.dumps(lora), "--ckpt_path", LAST, steps=4) == 0
    before = load_backbone(imported).transformer.state_dict()
    after = load_file(EXPORT / "model.safetensors")
    assert after.keys() == before.keys()
    # the recipe averages all weights over time, which rounds those that do not change
    near = {"atol": 1e-6, "rtol": 0}
    changed = {
        n for n in before if n not in TABLES and not torch.allclose(before[n], after[n], **near)
    }
    assert {name.split(".")[-2] for name in changed} == set(TARGET_MODULES)
    for name in TABLES:
        torch.testing.assert_close(after[name][:KNOWN], before[name][:KNOWN], **near)
        moved = (after[name][KNOWN:] - begun(imported)[name][KNOWN:]).abs().amax(1) > 1e-5
        assert moved.all() if "head" in name else moved.any()  # not every new id was in a prompt
    assert generate("tqa", "--text", "what is it?") == 0


def begun(imported):
    """Weights before the first step."""
    vocab = Vocab(1024, {"speech": 32, "image": 64}, "released")
    model = Transformer(vocab.size, [], **QWEN_SHAPE, right_shift_logits=True)
    load_initial_weights(model, imported, vocab, seed=956)
    return model.state_dict()


def test_a_recipe_that_forgets_the_shift_is_one_sentence(imported, capsys):
    assert fit("--model.backbone.right_shift_logits", "false") == 2
    assert (
        "right_shift_logits is True, not False; set model.backbone to it" in capsys.readouterr().err
    )


def test_a_missing_import_says_what_to_do(imported, capsys):
    assert fit("--model.init_from", "checkpoints/dream") == 2
    said = capsys.readouterr().err
    assert "no weights of the stage before in 'checkpoints/dream'" in said
    assert "import a checkpoint" in said
