"""Choose the chat template of a set of special tokens."""

from __future__ import annotations

from lightning_omni.data.released_template import CONTEXT, ReleasedTemplate
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import SETS, SpecialTokensName, Vocab, canonical_special_tokens

TEMPLATES: dict[SpecialTokensName, type[Template]] = {
    "native": Template,
    "released": ReleasedTemplate,
}


def make_template(
    vocab: Vocab,
    text: TextTokenizer,
    *,
    image_columns: int,
    codebooks: int,
    max_tail_pads: dict[str, int],
    request_image_columns: int | None = None,
) -> Template:
    """Return the template of a vocabulary's special tokens; arguments are those of `Template`."""
    return TEMPLATES[vocab.special_tokens](
        vocab,
        text,
        image_columns=image_columns,
        codebooks=codebooks,
        max_tail_pads=max_tail_pads,
        request_image_columns=request_image_columns,
    )


def check_continuous_speech(
    special_tokens: SpecialTokensName, continuous_speech: SpeechFeatureEncoder | None
) -> None:
    """Refuse continuous speech for special tokens that have no context token for its frames.

    Raises:
        OmniError: If so.
    """
    name = canonical_special_tokens(special_tokens)
    if continuous_speech is not None and CONTEXT not in SETS[name].names:
        raise OmniError(
            f"continuous_speech needs the token {CONTEXT}, which the special tokens "
            f"'{name}' do not define; set special_tokens: released"
        )
