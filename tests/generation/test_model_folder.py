"""An exported model with the released ids is read as it was written."""

from importlib.util import find_spec

import pytest
import torch
from lightning_omni.nn.length_head import LengthHead

from lightning_omni.data.released_template import ReleasedTemplate
from lightning_omni.data.templates import make_template
from lightning_omni.errors import OmniError
from lightning_omni.generation.model_folder import read_model_folder, write_model_folder
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


def written(folder, head):
    """A small model's folder, with a length head or none."""
    text = TextTokenizer()
    vocab = Vocab(text.size, {"speech": 1024, "image": 2048})
    template = make_template(vocab, text, image_columns=8, codebooks=1, max_tail_pads={})
    backbone = Transformer(vocab.size, [], **SMALL)
    tokenizers = {f"{name}_tokenizer": FOLDER / f"{name}_tokenizer" for name in ("image", "speech")}
    return write_model_folder(
        folder,
        backbone,
        backbone.state_dict(),
        template,
        {},
        voices=[],
        hears=None,
        card="",
        length_head=head,
        **tokenizers,
    )


def test_a_length_head_is_kept_with_its_backbone_and_leaves_with_it(tmp_path):
    head = LengthHead(SMALL["dim"], 3, longest=9, ratio=1.1)
    read = read_model_folder(written(tmp_path, head)).length_head
    torch.testing.assert_close(read.state_dict(), head.state_dict())
    assert read.ends.tolist() == list(range(1, 10))
    assert read_model_folder(written(tmp_path, None)).length_head is None


def test_a_length_head_of_another_width_is_refused(tmp_path):
    folder = written(tmp_path, LengthHead(SMALL["dim"] + 1, 3, longest=9, ratio=1.1))
    with pytest.raises(OmniError, match="states of width 5 but the backbone's have 4"):
        read_model_folder(folder)
