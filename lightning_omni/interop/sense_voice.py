"""SenseVoiceSmall's encoder from a local folder: speech features for the joint model."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.files import expand_home
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.interop.published_files import (
    assign_weights,
    check_published_files,
    check_settings,
    read_part,
    read_pickled_weights,
    read_plain_settings,
    read_size,
)
from lightning_omni.nn.codec.sanm import SanmEncoder
from lightning_omni.tokenizers.speech_features import (
    DIM,
    NUM_MELS,
    STACKED,
    STRIDE,
    SpeechFeatureEncoder,
)

WEIGHTS, SETTINGS, CMVN = "model.pt", "config.yaml", "am.mvn"
NUM_QUERIES = 16
_QUERIES = (0, 1, 2, 15)
"""Rows before the frames: any language, event, emotion, text without inverse normalisation."""
_SOURCE = "SenseVoiceSmall"
_FRONTEND = {
    "fs": 16_000,
    "window": "hamming",
    "n_mels": NUM_MELS,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": STACKED,
    "lfr_n": STRIDE,
}
_LAYERS = {"normalize_before": True, "sanm_shfit": 0, "selfattention_layer_type": "sanm"}


class QueryEncoder(nn.Module):
    """Four query rows, then the frames, through the encoder; the outputs of all are features.

    Args:
        encoder: Encoder of frames.
        input_dim: Size of a frame that comes in.

    Source: SenseVoice, arXiv:2407.04051, section 2.1.
    """

    def __init__(self, encoder: SanmEncoder, input_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed = nn.Embedding(NUM_QUERIES, input_dim)

    def forward(self, frames: Float[Tensor, "B N C"]) -> Float[Tensor, "B N+4 D"]:
        """Encode normalised frames."""
        rows = self.embed.weight[list(_QUERIES)].to(frames.dtype)
        queries = rows.expand(len(frames), -1, -1)
        out: Tensor = self.encoder(torch.cat((queries, frames), dim=1))
        return out


class SenseVoice(SpeechFeatureEncoder):
    """Features of SenseVoiceSmall: 512 numbers per 60 ms, behind those of four queries.

    The folder is a copy of the published one; of its files `model.pt`, `config.yaml` and `am.mvn`
    are read. The head that predicts words is left out. The network is frozen, in evaluation mode,
    and computes in float32; the filter bank has no dither, so features are deterministic.

    Args:
        folder: Local folder; nothing is downloaded.

    Raises:
        OmniError: If a file is missing or damaged, or weights or settings are not those of
            SenseVoiceSmall's network.
    """

    def __init__(self, folder: str) -> None:
        path = Path(expand_home(folder))
        check_published_files(path, (WEIGHTS, SETTINGS, CMVN), source=_SOURCE)
        super().__init__(load_sense_voice(path), str(path / CMVN))


def load_sense_voice(folder: Path) -> QueryEncoder:
    """Build the encoder that a folder describes, with its weights in float32.

    Raises:
        OmniError: If a file is damaged, or weights or settings do not fit.
    """
    about = str(folder / SETTINGS)
    settings = read_plain_settings(folder / SETTINGS)
    check_settings(settings, {"encoder": "SenseVoiceEncoderSmall"}, about=about)
    check_settings(
        read_part(settings, "frontend_conf", about=about),
        _FRONTEND,
        about=about,
        part="frontend_conf",
    )
    found = read_part(settings, "encoder_conf", about=about)
    check_settings(found, _LAYERS, about=about, part="encoder_conf")

    def size(name: str) -> int:
        return read_size(found, name, about=about, part="encoder_conf")

    with MetaInit():
        network = QueryEncoder(
            SanmEncoder(
                DIM,
                size("output_size"),
                size("attention_heads"),
                size("linear_units"),
                size("num_blocks"),
                size("tp_blocks"),
                size("kernel_size"),
            ),
            DIM,
        )
    file = folder / WEIGHTS
    assign_weights(network, read_pickled_weights(file), file, rename=_name_without_head)
    return network.float()


def _name_without_head(name: str) -> str | None:
    """Return the name of a weight; None for those of the head that predicts words."""
    return None if name.startswith("ctc.") else name
