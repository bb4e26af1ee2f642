"""The synthesizer of `prep-data --speak`: read its config, build it, and name its clips' folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from data_prep.hashing import sha1_hex
from data_prep.speech.synthesizers import voice_source_and_licence
from data_prep.speech.voices import BUILT_IN, BuiltInVoices, Synthesizer
from lightning_omni.errors import OmniError
from lightning_omni.recipe import read_yaml


def read_synthesizer_config(given: str) -> dict[str, Any]:
    """Return `class_path` and `init_args` of a class's dotted path or of a YAML file of both.

    Raises:
        OmniError: If the file cannot be read or names no class.
    """
    is_file = given.endswith((".yaml", ".yml"))
    plain = read_yaml(Path(given)) if is_file else {"class_path": given}
    if not isinstance(plain, dict) or not isinstance(plain.get("class_path"), str):
        raise OmniError(f"'{given}' has no class_path; wanted class_path and init_args")
    arguments = plain.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise OmniError(f"init_args of '{given}' is {arguments!r}, wanted `name: value` lines")
    return {"class_path": plain["class_path"], "init_args": arguments}


def build_synthesizer(config: dict[str, Any]) -> Synthesizer:
    """Build a synthesizer of `class_path` and `init_args`; the class may be the user's own.

    Raises:
        OmniError: If there is no such class, its arguments do not fit, or it is no synthesizer.
    """
    path = str(config["class_path"])
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OmniError(f"no class '{path}' ({error}); give --synthesizer MODULE.CLASS") from error
    try:
        built = cls(**config["init_args"])
    except TypeError as error:
        raise OmniError(f"'{path}' cannot be built ({error}); correct its init_args") from error
    if not isinstance(built, Synthesizer) or not built.question_voices:
        raise OmniError(
            f"'{path}' is no synthesizer; wanted question_voices, answer_voice, licence and "
            "synthesize(text, voice)"
        )
    return built


def synthesizer_source_and_licence(
    config: dict[str, Any], synthesizer: Synthesizer, voice: str
) -> tuple[str, str]:
    """Return the source and the licence of the speech of a voice."""
    if isinstance(synthesizer, BuiltInVoices):
        return voice_source_and_licence(voice)
    return config["class_path"], synthesizer.licence


def clip_cache_folder(config: dict[str, Any], cache: Path) -> Path:
    """Return the folder of a synthesizer's clips, another one for other arguments."""
    if config["class_path"] == BUILT_IN:
        return cache / "speech"
    return cache / f"speech-{sha1_hex(sorted(config.items()))[:12]}"
