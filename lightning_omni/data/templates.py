"""Which chat template places which special tokens."""

from __future__ import annotations

from lightning_omni.data.released_template import CONTEXT, ReleasedTemplate
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.speech_features import ContinuousSpeech
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import SETS, SpecialTokensName, Vocab

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


def check_hears(
    special_tokens: SpecialTokensName, continuous_speech: ContinuousSpeech | None
) -> None:
    """Refuse continuous speech where no token stands for a frame of it.

    Raises:
        OmniError: If so.
    """
    if continuous_speech is not None and CONTEXT not in SETS[special_tokens].names:
        raise OmniError(
            f"continuous_speech needs the token {CONTEXT}, which the special tokens "
            f"'{special_tokens}' have not; set special_tokens: released"
        )
