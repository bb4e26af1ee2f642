"""Read the published 24 kHz EnCodec model into our speech tokenizer."""

from __future__ import annotations

from lightning_omni.errors import OmniError
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.nn.codec.residual_vq import ResidualQuantizer
from lightning_omni.nn.codec.seanet import SEANetSpeechDecoder, SEANetSpeechEncoder
from lightning_omni.tokenizers.speech import SpeechTokenizer

CODEBOOKS = {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32}
"""Codebooks used at each bit rate in kbit/s: 75 frames per second, 10 bits per code."""

_RENAMED = (
    ("encoder.", "encoder.network."),
    ("decoder.", "decoder.network."),
    ("quantizer.vq.", "quantizer.layers."),
)


def build_encodec_on_meta(kbps: float) -> SpeechTokenizer:
    """Build the published network on the meta device, all codebooks included at every rate.

    Args:
        kbps: bit rate in kbit/s.

    Raises:
        OmniError: If EnCodec has no such rate.

    Source: EnCodec, arXiv:2210.13438, section 3; the model is `encodec`'s for 24 kHz.
    """
    if kbps not in CODEBOOKS:
        rates = ", ".join(f"{rate:g}" for rate in CODEBOOKS)
        raise OmniError(f"kbps is {kbps:g}, wanted one of EnCodec's rates: {rates}")
    ratios = [8, 5, 4, 2]
    with MetaInit():
        return SpeechTokenizer(
            SEANetSpeechEncoder(32, ratios, 128, 2, causal=True),
            ResidualQuantizer(128, max(CODEBOOKS.values()), 1024),
            SEANetSpeechDecoder(32, ratios, 128, 2, causal=True),
            24_000,
            CODEBOOKS[kbps],
            encoder_completes=True,
        )


def native_name(name: str) -> str:
    """Translate a published weight's name."""
    for theirs, ours in _RENAMED:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def published_name(ours: str) -> str:
    """Return the published name of one of our weights."""
    for theirs, name in _RENAMED:
        if ours.startswith(name):
            return theirs + ours.removeprefix(name)
    return ours
