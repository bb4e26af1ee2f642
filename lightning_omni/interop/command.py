"""`lightning_omni import`: convert a published checkpoint into a folder of our own format."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lightning_omni.errors import OmniError
from lightning_omni.files import check_folder_is_free, is_json_integer, write_folder_atomically
from lightning_omni.interop import encodec, magvitv2
from lightning_omni.interop.backbone import Backbone
from lightning_omni.interop.card import CARD_FILE, read_card
from lightning_omni.interop.checkpoint import (
    Rename,
    StoredTensor,
    match_weights,
    read_headers,
    read_metadata,
    weight_files,
)
from lightning_omni.interop.dream import (
    build_dream_on_meta,
    check_dream_weights,
    log_skipped_encoder,
    make_renaming,
    published_name,
    read_config,
)
from lightning_omni.interop.family import read_family
from lightning_omni.interop.glm4_voice import load_glm4_voice
from lightning_omni.interop.hub import check_repo, fetch_folder, open_hub
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.interop.native import build_meta_module_from_folder, copy_model_files
from lightning_omni.interop.qwen_tokenizer import QwenTokenizer, read_qwen_tokenizer
from lightning_omni.interop.shards_writer import copy_weights
from lightning_omni.interop.whole_model import check_whole_model
from lightning_omni.modules.initial_weights import KNOWN_IDS, NUM_KNOWN
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, Pretrained
from lightning_omni.tokenizers.text import RANKS_FILE

log = logging.getLogger(__name__)

Kind = Literal[
    "dream",
    "omni-diffusion",
    "qwen2",
    "qwen3",
    "magvitv2",
    "encodec",
    "glm-4-voice",
    "lightning_omni",
]
FULL_RATE = 24.0
_HUB = "hub:"


@dataclass(frozen=True, slots=True)
class _Network:
    """Network of a checkpoint, and how its weights are named.

    Attributes:
        module: network on the meta device.
        rename: map from published names to ours.
        published: map from our names to published ones.
        config: text of the `config.json` to write.
        metadata: header entries of the written weights: token ids that the checkpoint names.
        tokenizer: tokenizer to write beside them, None for a checkpoint that has none.
    """

    module: Pretrained
    rename: Rename
    published: Callable[[str], str]
    config: str
    metadata: dict[str, str] = field(default_factory=dict)
    tokenizer: QwenTokenizer | None = None


def import_checkpoint(
    kind: Kind,
    input: Path,
    output: Path,
    kbps: float = FULL_RATE,
    decoder: Path | None = None,
    image_tokenizer: Path | None = None,
    speech_tokenizer: Path | None = None,
) -> None:
    """Read a checkpoint in the hub's layout and write it in our own format.

    Weights are copied bit by bit, one at a time, and the output appears when it is complete. The
    speech encoder of Omni-Diffusion is skipped with a message; its projector is kept. With a
    next-token model (qwen2, qwen3) its text ids are written, too, as a file for `data.text_ranks`.

    Args:
        kind: Kind of checkpoint, also given as `--from`; `lightning_omni` joins an export's shards.
            `qwen2` and `qwen3` are dense next-token models, also Qwen2.5; with `is_causal: false`
            in their config.json they are bidirectional networks.
        input: Folder with safetensors and, except for magvitv2 and encodec, `config.json`, for
            next-token models with their tokenizer's files; or `hub:owner/name`, which is
            downloaded first, except for glm-4-voice.
        output: Folder to write; must not exist or must be empty.
        kbps: Bit rate of encodec in kbit/s; `num_codebooks` of the tokenizer changes it later.
        decoder: Folder of glm-4-voice's decoder; without it codes cannot be turned into speech.
        image_tokenizer: Folder of an imported magvitv2; with it and `speech_tokenizer`,
            omni-diffusion becomes a whole model, which generates.
        speech_tokenizer: Folder of an imported glm-4-voice.

    Raises:
        OmniError: If something is missing, damaged or does not fit.
    """
    _check_options(kind, kbps, decoder, image_tokenizer, speech_tokenizer)
    check_folder_is_free(output)
    if kind == "glm-4-voice":
        _import_glm4_voice(input, decoder, output)
        return
    if str(input).startswith(_HUB):
        repo = str(input).removeprefix(_HUB)
        check_repo(repo, f"--input {_HUB}")
        input = fetch_folder(repo, open_hub(f"--input {_HUB}"))
    files = weight_files(input)
    stored = read_headers(files)
    network = _describe_network(kind, input, stored, kbps)
    names = match_weights(
        network.module, stored, network.rename, network.published, about=f"'{input}'"
    )
    if isinstance(network.module, Backbone) and kind != "lightning_omni":
        check_dream_weights(network.module.transformer, stored, about=f"'{input}'")
    whole = None
    if image_tokenizer is not None and speech_tokenizer is not None:
        whole = check_whole_model(
            _transformer_of(network.module), image_tokenizer, speech_tokenizer
        )
        network, names = _unwrap_transformer(network, names)
    with write_folder_atomically(output) as partial:
        (partial / CONFIG_FILE).write_text(network.config, encoding="utf-8")
        copy_weights(files, names, partial, metadata=network.metadata)
        if whole is not None:
            whole.write(partial)
        if network.tokenizer is not None:
            network.tokenizer.write_ranks(partial / RANKS_FILE)
        if kind == "lightning_omni":
            copy_model_files(input, partial)
            (partial / CARD_FILE).write_text(read_card(input), encoding="utf-8")
    log_skipped_encoder(stored, about=f"'{input}'")
    count = sum(p.numel() for p in network.module.parameters())
    log.info("wrote %s: %s parameters", output, f"{count:,}")


def _check_options(
    kind: Kind,
    kbps: float,
    decoder: Path | None,
    image_tokenizer: Path | None,
    speech_tokenizer: Path | None,
) -> None:
    if kbps != FULL_RATE and kind != "encodec":
        raise OmniError(f"--kbps is a rate of encodec, but --from is {kind}; leave it out")
    if decoder is not None and kind != "glm-4-voice":
        raise OmniError(f"--decoder is a part of glm-4-voice, but --from is {kind}; leave it out")
    given = [part is not None for part in (image_tokenizer, speech_tokenizer)]
    if any(given) and kind != "omni-diffusion":
        raise OmniError(
            f"tokenizers make omni-diffusion a whole model, but --from is {kind}; leave them out"
        )
    if any(given) and not all(given):
        raise OmniError("a whole model needs --image_tokenizer and --speech_tokenizer; give both")


def _unwrap_transformer(
    network: _Network, names: dict[str, list[str]]
) -> tuple[_Network, dict[str, list[str]]]:
    """Return the network and its weights' names as in a model's folder, without `Backbone`."""
    transformer = _transformer_of(network.module)
    config = json.dumps(transformer.config(), indent=2) + "\n"
    bare = {
        theirs: [name.removeprefix("transformer.") for name in ours]
        for theirs, ours in names.items()
    }
    return replace(network, module=transformer, config=config), bare


def _transformer_of(backbone: Pretrained) -> Transformer:
    transformer = backbone.get_submodule("transformer")
    assert isinstance(transformer, Transformer)  # noqa: S101 - a Backbone's
    return transformer


def _import_glm4_voice(input: Path, decoder: Path | None, output: Path) -> None:
    """Write GLM-4-Voice's speech tokenizer; its decoder is pickled, so it is read whole."""
    tokenizer = load_glm4_voice(input, decoder)
    with write_folder_atomically(output) as partial:
        tokenizer.save_pretrained(partial)
    count = sum(p.numel() for p in tokenizer.parameters())
    log.info("wrote %s: %s parameters", output, f"{count:,}")
    if decoder is None:
        log.warning("%s can encode speech but not decode it: no --decoder was given", output)


def _describe_network(
    kind: Kind, folder: Path, stored: Mapping[str, StoredTensor], kbps: float
) -> _Network:
    if kind == "encodec":
        return _describe_new_network(
            encodec.build_encodec_on_meta(kbps), encodec.native_name, encodec.published_name
        )
    if kind == "magvitv2":
        with MetaInit():
            tokenizer = magvitv2.build_magvitv2()
        return _describe_new_network(tokenizer, magvitv2.native_name, magvitv2.published_name)
    config = read_config(folder)
    if kind == "lightning_omni":
        text = (folder / CONFIG_FILE).read_text("utf-8")
        metadata = read_metadata(weight_files(folder)[0])
        return _Network(build_meta_module_from_folder(folder), str, str, text, metadata)
    if "class_path" in config:
        raise OmniError(f"'{folder}' is in our own format; give --from lightning_omni")
    return _describe_published_backbone(kind, folder, config, stored)


def _describe_published_backbone(
    kind: Kind, folder: Path, config: dict[str, Any], stored: Mapping[str, StoredTensor]
) -> _Network:
    family = read_family(config, folder)
    if family.name != ("dream" if kind == "omni-diffusion" else kind):
        found = config.get("model_type")
        raise OmniError(
            f"'{folder}' holds a model of type '{found}', but --from is {kind}; give "
            f"--from {family.name}"
        )
    transformer = build_dream_on_meta(folder, stored)
    inner = make_renaming(transformer)

    def rename_with_prefix(name: str) -> str | None:
        ours = inner(name)
        return None if ours is None else f"transformer.{ours}"

    def published_without_prefix(ours: str) -> str:
        return published_name(ours.removeprefix("transformer."))

    module = Backbone(transformer, right_shift_logits=family.right_shift_logits)
    tokenizer = None
    if family.is_causal:
        tokenizer = read_qwen_tokenizer(folder, rows=config["vocab_size"])
        ids = {"pad_token_id": tokenizer.pad_token_id, NUM_KNOWN: tokenizer.num_known}
        metadata = {key: str(value) for key, value in ids.items()}
    else:
        metadata = _token_ids_as_text(config, folder)
    return replace(
        _describe_new_network(module, rename_with_prefix, published_without_prefix),
        metadata=metadata,
        tokenizer=tokenizer,
    )


def _token_ids_as_text(config: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return token ids that a published `config.json` names, as text for a weights header."""
    ids = {key: config[key] for key in KNOWN_IDS if config.get(key) is not None}
    for key, value in ids.items():
        if not is_json_integer(value) or not 0 <= value < config["vocab_size"]:
            raise OmniError(
                f"'{folder / CONFIG_FILE}' has {key} {value!r}, wanted an integer below its "
                f"vocab_size {config['vocab_size']}"
            )
    return {key: str(value) for key, value in ids.items()}


def _describe_new_network(
    module: Pretrained, rename: Rename, published: Callable[[str], str]
) -> _Network:
    return _Network(module, rename, published, json.dumps(module.config(), indent=2) + "\n")
