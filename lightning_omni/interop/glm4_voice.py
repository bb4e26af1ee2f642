"""Read GLM-4-Voice's published tokenizer and decoder into our speech tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.interop.checkpoint import load_module, weight_files
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.interop.published_files import (
    TAG,
    assign_weights,
    check_published_files,
    check_settings,
    check_weights_are_finite,
    read_part,
    read_pickled_weights,
    read_plain_settings,
    read_size,
)
from lightning_omni.nn.codec.block_conformer import BlockConformer
from lightning_omni.nn.codec.flow_unet import NUM_GROUPS, FlowUnet
from lightning_omni.nn.codec.hift import (
    DECODED_RATE,
    DILATIONS,
    KERNELS,
    LEAST_HZ,
    LIMIT,
    N_FFT,
    NOISE_SIZE,
    SINE_SIZE,
    SOURCE_KERNELS,
    UPSAMPLE_RATES,
    Hift,
)
from lightning_omni.nn.codec.speech_flow import NUM_CONVS, ConditionalFlow, SpeechFlow
from lightning_omni.nn.codec.whisper_vq import HOP as SPECTRUM_HOP
from lightning_omni.nn.codec.whisper_vq import N_FFT as SPECTRUM_FFT
from lightning_omni.nn.codec.whisper_vq import SAMPLE_RATE, WhisperVqEncoder
from lightning_omni.tokenizers.glm4_voice import Glm4VoiceTokenizer

_SETTINGS, _FEATURES = "config.json", "preprocessor_config.json"
_DECODER_SETTINGS, _FLOW, _HIFT = "config.yaml", "flow.pt", "hift.pt"
_TOKENIZER_SOURCE, _DECODER_SOURCE = "GLM-4-Voice's tokenizer", "GLM-4-Voice's decoder"
_MAX_GUIDANCE, _MAX_LEVELS = 100, 16
_PREFIX = re.compile(r"^(?:model\.)?(?:encoder\.)?")
_NOT_USED = re.compile(r"^(?:layer_norm\.|ema_count$|ema_weight$|embed_positions2\.)")
"""What only training and the decoder of Whisper use: averages, and what is behind the codebook."""
_ENCODER = {
    "pooling_type": "avg",
    "encoder_causal_convolution": True,
    "activation_function": "gelu",
    "scale_embedding": False,
}
_CONFORMER = {
    "input_layer": "linear",
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "block_rel_selfattn",
    "activation_type": "swish",
    "normalize_before": True,
    "use_cnn_module": False,
    "macaron_style": False,
    "key_bias": True,
    "static_chunk_size": 0,
    "use_dynamic_chunk": False,
}
_HIFT_SETTINGS = {
    "sampling_rate": DECODED_RATE,
    "nsf_alpha": SINE_SIZE,
    "nsf_sigma": NOISE_SIZE,
    "nsf_voiced_threshold": LEAST_HZ,
    "upsample_rates": list(UPSAMPLE_RATES),
    "upsample_kernel_sizes": [2 * rate for rate in UPSAMPLE_RATES],
    "istft_params": {"n_fft": N_FFT, "hop_len": 4},
    "resblock_kernel_sizes": list(KERNELS),
    "resblock_dilation_sizes": [list(DILATIONS)] * len(KERNELS),
    "source_resblock_kernel_sizes": list(SOURCE_KERNELS),
    "source_resblock_dilation_sizes": [list(DILATIONS)] * len(SOURCE_KERNELS),
    "lrelu_slope": 0.1,
    "audio_limit": LIMIT,
}


def load_glm4_voice(tokenizer: str | Path, decoder: str | Path | None = None) -> Glm4VoiceTokenizer:
    """Build the speech tokenizer from copies of the published folders, in float32.

    Args:
        tokenizer: Folder with `config.json`, `preprocessor_config.json` and safetensors.
        decoder: Folder with `config.yaml`, `flow.pt` and `hift.pt`; None for a tokenizer that only
            encodes.

    Raises:
        OmniError: If a file is missing or damaged, or weights or settings are not those of the
            published networks.
    """
    encoder = load_encoder(Path(tokenizer))
    if decoder is None:
        return Glm4VoiceTokenizer(encoder).eval()
    rate = SAMPLE_RATE / encoder.hop_length
    flow, vocoder = load_decoder(Path(decoder), encoder.codebook.num_embeddings, rate)
    return Glm4VoiceTokenizer(encoder, flow, vocoder).eval()


def load_encoder(folder: Path) -> WhisperVqEncoder:
    """Build the encoder of a published folder.

    Raises:
        OmniError: See `load_glm4_voice`.
    """
    check_published_files(folder, (_SETTINGS, _FEATURES), source=_TOKENIZER_SOURCE)
    about = str(folder / _SETTINGS)
    found = read_json_object(folder / _SETTINGS, remedy="download it again")
    features = read_json_object(folder / _FEATURES, remedy="download it again")

    def size(name: str) -> int:
        return read_size(found, name, about=about)

    layers, num_mels = size("quantize_position"), size("num_mel_bins")
    check_settings(found, {**_ENCODER, "pooling_position": layers}, about=about)
    check_settings(
        features,
        {
            "feature_size": num_mels,
            "hop_length": SPECTRUM_HOP,
            "n_fft": SPECTRUM_FFT,
            "sampling_rate": SAMPLE_RATE,
        },
        about=str(folder / _FEATURES),
    )
    with MetaInit():
        encoder = WhisperVqEncoder(
            size("d_model"),
            layers,
            size("encoder_attention_heads"),
            size("encoder_ffn_dim"),
            num_mels,
            size("max_source_positions"),
            size("quantize_causal_block_size"),
            size("pooling_kernel_size"),
            size("quantize_vocab_size"),
        )
    _check_multiple(found, "d_model", size("encoder_attention_heads"), about=about)
    _check_multiple(found, "max_source_positions", size("pooling_kernel_size"), about=about)

    def rename(name: str) -> str | None:
        bare = _PREFIX.sub("", name)
        layer = re.match(r"layers\.(\d+)\.", bare)
        is_behind = layer is not None and int(layer[1]) >= layers
        return None if is_behind or _NOT_USED.match(bare) else bare

    load_module(encoder, weight_files(folder), rename, str, about=f"'{folder}'")
    return encoder.float()


def load_decoder(folder: Path, codebook_size: int, frame_rate: float) -> tuple[SpeechFlow, Hift]:
    """Build flow and vocoder of a published folder.

    Args:
        folder: Folder with `config.yaml`, `flow.pt` and `hift.pt`.
        codebook_size: Number of codes of the tokenizer that it belongs to.
        frame_rate: Codes per second of that tokenizer.

    Raises:
        OmniError: See `load_glm4_voice`.
    """
    check_published_files(folder, (_DECODER_SETTINGS, _FLOW, _HIFT), source=_DECODER_SOURCE)
    about = str(folder / _DECODER_SETTINGS)
    plain = read_plain_settings(folder / _DECODER_SETTINGS)
    settings = {name: _resolve_references(value, plain) for name, value in plain.items()}
    found = _read_class(settings, "flow", "MaskedDiffWithXvec", about=about)
    wanted = {"vocab_size": codebook_size, "input_frame_rate": frame_rate, "output_type": "mel"}
    check_settings(found, wanted, about=about, part="flow")
    with MetaInit():
        flow, vocoder = _build_flow(found, frame_rate, about), _build_vocoder(settings, about)
    assign_weights(flow, read_pickled_weights(folder / _FLOW), folder / _FLOW)
    weights = fold_weight_norms(read_pickled_weights(folder / _HIFT))
    check_weights_are_finite(weights, folder / _HIFT)  # a direction of length zero has none
    assign_weights(vocoder, weights, folder / _HIFT)
    return flow.float(), vocoder.float()


def _build_flow(found: Mapping[str, Any], frame_rate: float, about: str) -> SpeechFlow:
    encoder = _read_class(found, "encoder", "BlockConformerEncoder", about=about)
    regulator = _read_class(found, "length_regulator", "InterpolateRegulator", about=about)
    solver = _read_class(found, "decoder", "ConditionalCFM", about=about)
    unet = _read_class(solver, "estimator", "ConditionalDecoder", about=about)
    params = _read_class(solver, "cfm_params", "DictConfig", about=about)
    params = read_part(params, "content", about=about)
    num_mels = read_size(found, "output_size", about=about, part="flow")
    check_settings(encoder, _CONFORMER, about=about, part="encoder")
    regulated = {"channels": num_mels, "sampling_ratios": [1] * NUM_CONVS}
    check_settings(regulator, regulated, about=about, part="length_regulator")
    check_settings(
        params, {"solver": "euler", "t_scheduler": "cosine"}, about=about, part="cfm_params"
    )
    wanted = {"in_channels": 4 * num_mels, "out_channels": num_mels, "act_fn": "gelu"}
    check_settings(unet, wanted, about=about, part="estimator")

    def size(part: str, name: str) -> int:
        parts = {"flow": found, "encoder": encoder, "estimator": unet}
        return read_size(parts[part], name, about=about, part=part)

    return SpeechFlow(
        size("flow", "vocab_size"),
        size("flow", "input_size"),
        num_mels,
        size("flow", "spk_embed_dim"),
        frame_rate,
        BlockConformer(
            size("encoder", "input_size"),
            size("encoder", "output_size"),
            size("encoder", "attention_heads"),
            size("encoder", "linear_units"),
            size("encoder", "num_blocks"),
            size("encoder", "block_size"),
        ),
        ConditionalFlow(
            FlowUnet(
                size("estimator", "in_channels"),
                num_mels,
                _read_channels(unet, about=about),
                size("estimator", "n_blocks"),
                size("estimator", "num_mid_blocks"),
                size("estimator", "num_heads"),
                size("estimator", "attention_head_dim"),
            ),
            _read_guidance(params, about=about),
        ),
    )


def _read_guidance(params: Mapping[str, Any], *, about: str) -> float:
    """Return the weight of guidance.

    Raises:
        OmniError: If it is missing, or no number from 0 to 100.
    """
    value = params.get("inference_cfg_rate")
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= _MAX_GUIDANCE
    ):
        raise OmniError(
            f"'{about}' has cfm_params.inference_cfg_rate {value!r}, wanted a number from 0 to "
            f"{_MAX_GUIDANCE}; give the published folder"
        )
    return float(value)


def _read_channels(unet: Mapping[str, Any], *, about: str) -> list[int]:
    """Return the channels of each level of the flow's network.

    Raises:
        OmniError: If they are no list of sizes that its norms can group.
    """
    channels = unet.get("channels")
    if not isinstance(channels, list) or not 1 <= len(channels) <= _MAX_LEVELS:
        raise OmniError(
            f"'{about}' has estimator.channels {channels!r}, wanted a list of 1 to {_MAX_LEVELS} "
            "sizes; give the published folder"
        )
    levels = {f"channels[{level}]": size for level, size in enumerate(channels)}
    for name in levels:
        _check_multiple(levels, name, NUM_GROUPS, about=about, part="estimator")
    return channels


def _check_multiple(
    found: Mapping[str, Any], name: str, of: int, *, about: str, part: str = ""
) -> None:
    """Refuse a size that does not divide into equal parts; see `read_size`.

    Raises:
        OmniError: If it is no multiple.
    """
    value = read_size(found, name, about=about, part=part)
    if value % of:
        full_name = f"{part}.{name}" if part else name
        raise OmniError(
            f"'{about}' has {full_name} {value}, wanted a multiple of {of}; give the published "
            "folder"
        )


def _build_vocoder(settings: Mapping[str, Any], about: str) -> Hift:
    found = _read_class(settings, "hift", "HiFTGenerator", about=about)
    pitch = _read_class(found, "f0_predictor", "ConvRNNF0Predictor", about=about)
    check_settings(found, _HIFT_SETTINGS, about=about, part="hift")
    return Hift(
        read_size(found, "in_channels", about=about, part="hift"),
        read_size(found, "base_channels", about=about, part="hift", least=4),
        read_size(found, "nb_harmonics", about=about, part="hift", least=0),
        read_size(pitch, "cond_channels", about=about, part="f0_predictor"),
    )


def _read_class(
    settings: Mapping[str, Any], name: str, class_name: str, *, about: str
) -> dict[str, Any]:
    """Return the settings of a class that our network stands for; nothing is imported by name.

    Raises:
        OmniError: If they are missing or name another class.
    """
    part = read_part(settings, name, about=about)
    tag = str(part.get(TAG, "nothing"))
    if tag.rpartition(".")[2] != class_name:
        raise OmniError(
            f"'{about}' builds '{name}' from {tag}, but this network is written for {class_name}; "
            "give the published folder"
        )
    return part


def _resolve_references(value: Any, settings: Mapping[str, Any]) -> Any:
    """Replace `!ref <name>` by the value of that name."""
    if isinstance(value, dict):
        return {key: _resolve_references(inner, settings) for key, inner in value.items()}
    named = re.fullmatch(r"!ref <(\w+)>", value) if isinstance(value, str) else None
    return value if named is None else settings.get(named[1])


_NORMS = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)
"""Endings of length and direction of a normalised weight, as torch named them and names them."""


def fold_weight_norms(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which each pair of length and direction is one weight."""
    folded = dict(weights)
    for length, direction in _NORMS:
        for name in [name for name in weights if name.endswith(length)]:
            layer = name.removesuffix(length)
            other = layer + direction
            if other in folded:
                size, along = folded.pop(name), folded.pop(other)
                axes = tuple(range(1, along.ndim))
                norm = torch.linalg.vector_norm(along, dim=axes, keepdim=True)
                folded[f"{layer}.weight"] = along * (size / norm)
    return folded
