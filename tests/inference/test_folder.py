"""An exported model with the released ids is read as it was written."""

from importlib.util import find_spec

import pytest
import torch

from lightning_omni.data.released_template import ReleasedTemplate
from lightning_omni.data.templates import make_template
from lightning_omni.inference.folder import read_model_folder, write_model_folder
from lightning_omni.nn.transformer import Transformer
from lightning_omni.shipped import FOLDER
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
    tokenizers = {f"{name}_tokenizer": FOLDER / f"{name}_tokenizer" for name in ("image", "speech")}
    folder = write_model_folder(
        tmp_path, backbone, weights, template, {}, voices=[], hears="ab", card="", **tokenizers
    )
    assert (folder / "text.tiktoken").exists() == (ranks != "qwen")
    read = read_model_folder(folder)
    assert isinstance(read.template, ReleasedTemplate)
    assert read.hears == "ab"
    assert read.template.vocab.fingerprint() == vocab.fingerprint()
    assert read.template.text.encode("Hello world") == text.encode("Hello world")
    torch.testing.assert_close(read.backbone.state_dict(), weights)
