"""An exported model with the released ids is read as it was written."""

import json
import logging
from importlib.util import find_spec

import pytest
import torch

from lightning_omni.data.make_template import make_template
from lightning_omni.data.released_template import ReleasedTemplate
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.model_folder import read_model_folder, write_model_folder
from lightning_omni.generation.presets import save_presets
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import FOLDER
from lightning_omni.tokenizers.text import DEFAULT_RANKS, TextTokenizer
from lightning_omni.vocab import Vocab

HAS_RANKS = find_spec("dashscope") is not None
SMALL = {
    "dim": 4,
    "num_layers": 1,
    "num_heads": 1,
    "num_kv_heads": 1,
    "ffn_dim": 4,
    "rope_theta": 1e4,
    "rope_sections": None,
    "qkv_bias": True,
    "qk_norm": False,
    "tie_embeddings": False,
}
TOKENIZERS = {f"{name}_tokenizer": FOLDER / f"{name}_tokenizer" for name in ("image", "speech")}


@pytest.mark.parametrize(
    "ranks",
    [
        str(DEFAULT_RANKS),
        pytest.param(
            "qwen",
            marks=pytest.mark.skipif(not HAS_RANKS, reason="dashscope is not installed"),
        ),
    ],
    ids=["file", "qwen"],
)
def test_the_released_template_survives_an_export(ranks, tmp_path):
    text = TextTokenizer(ranks)
    vocab = Vocab(text.size, {"speech": 1024, "image": 2048}, "released")
    template = make_template(vocab, text, image_columns=8, codebooks=1, max_tail_pads={})
    backbone = Transformer(vocab.size, [], **SMALL)
    weights = {name: value + 1 for name, value in backbone.state_dict().items()}
    folder = write_model_folder(
        tmp_path,
        backbone,
        weights,
        template,
        {},
        voices=[],
        encoder_fingerprint="ab",
        card="",
        **TOKENIZERS,
    )
    assert (folder / "text.tiktoken").exists() == (ranks != "qwen")
    read = read_model_folder(folder)
    assert isinstance(read.template, ReleasedTemplate)
    assert read.encoder_fingerprint == "ab"
    assert read.template.vocab.fingerprint() == vocab.fingerprint()
    assert read.template.text.encode("Hello world") == text.encode("Hello world")
    torch.testing.assert_close(read.backbone.state_dict(), weights)


def written(folder):
    """Write a small model's folder."""
    text = TextTokenizer()
    vocab = Vocab(text.size, {"speech": 1024, "image": 2048})
    template = make_template(vocab, text, image_columns=8, codebooks=1, max_tail_pads={})
    backbone = Transformer(vocab.size, [], **SMALL)
    return write_model_folder(
        folder,
        backbone,
        backbone.state_dict(),
        template,
        {},
        voices=[],
        encoder_fingerprint=None,
        card="",
        **TOKENIZERS,
    )


def test_a_folder_with_a_length_head_is_read_without_it_and_loses_it_when_written(tmp_path, caplog):
    folder = written(tmp_path)
    (folder / "length_head").mkdir()
    (folder / "length_head" / "config.json").write_text("{}")
    with caplog.at_level(logging.INFO):
        read_model_folder(folder)
    assert "holds a length head, which is no longer used" in caplog.text
    assert not (written(tmp_path) / "length_head").exists()


def test_presets_are_read_with_the_model_also_under_the_old_name(tmp_path):
    folder = written(tmp_path)
    assert read_model_folder(folder).presets == {}
    (folder / "qualities.json").write_text(json.dumps({"fast": {"t2i": {"num_steps": 3}}}))
    assert read_model_folder(folder).presets == {"fast": {"t2i": GenerationConfig(num_steps=3)}}
    save_presets({"fast": {"t2i": GenerationConfig(num_steps=5)}}, folder)
    assert read_model_folder(folder).presets == {"fast": {"t2i": GenerationConfig(num_steps=5)}}


def test_a_next_token_model_cannot_fill_in_masks(tmp_path):
    folder = written(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["init_args"] |= {"is_causal": True, "right_shift_logits": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OmniError, match="a next-token model, which cannot fill in masks"):
        read_model_folder(folder)
