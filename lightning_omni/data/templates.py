"""Which chat template places which special tokens."""

from __future__ import annotations

from lightning_omni.data.released_template import ReleasedTemplate
from lightning_omni.data.template import Template
from lightning_omni.special_tokens import SpecialTokensName
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab

TEMPLATES: dict[SpecialTokensName, type[Template]] = {
    "own": Template,
    "released": ReleasedTemplate,
}


def make_template(
    vocab: Vocab,
    text: TextTokenizer,
    *,
    image_columns: int,
    codebooks: int,
    max_tail_pads: dict[str, int],
) -> Template:
    """Build the template of a vocabulary's special tokens; arguments are those of `Template`."""
    return TEMPLATES[vocab.special_tokens](
        vocab, text, image_columns=image_columns, codebooks=codebooks, max_tail_pads=max_tail_pads
    )
