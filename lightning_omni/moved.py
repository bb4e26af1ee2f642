"""Old names of modules and classes, kept for one release.

Exports, checkpoints and recipes name classes by their dotted path. An import of a path that moved
finds the class where it is now and logs the new path once.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

_PACKAGE = "lightning_omni."
MODULES = {
    "allocator": "nn.cpu",
    "arguments": "errors",
    "bench": "studies.bench",
    "bench.command": "studies.bench.command",
    "bench.data": "studies.bench.data",
    "bench.machine": "studies.bench.machine",
    "bench.peak_memory": "studies.bench.peak_memory",
    "bench.peer": "studies.bench.peer",
    "bench.plot": "studies.bench.plot",
    "bench.readers": "studies.bench.readers",
    "bench.sample": "studies.bench.sample",
    "bench.scale": "studies.bench.scale",
    "bench.suites": "studies.bench.suites",
    "bench.timing": "studies.bench.timing",
    "bench.train": "studies.bench.train",
    "bench.workload": "studies.bench.workload",
    "data.heard": "data.features_store",
    "data.tasks": "tasks",
    "diffusion.corrupt": "diffusion.forward_process",
    "diffusion.likelihood": "diffusion.nelbo",
    "evaluation.answerers": "evaluation.responses",
    "evaluation.asking": "evaluation.suite",
    "evaluation.calibrate": "studies.calibrate",
    "evaluation.calibration_table": "studies.calibrate",
    "evaluation.caption": "evaluation.emojiworld.captions",
    "evaluation.cases": "evaluation.examples",
    "evaluation.chance": "evaluation.random_baseline",
    "evaluation.choose": "studies.calibrate",
    "evaluation.judges": "evaluation.scorers",
    "evaluation.media": "evaluation.examples",
    "evaluation.normalize": "evaluation.emojiworld.captions",
    "evaluation.oracle_training": "evaluation.emojiworld.train_classifier",
    "evaluation.outcome": "evaluation.statistics",
    "evaluation.paired": "evaluation.statistics",
    "evaluation.pareto": "studies.calibrate",
    "evaluation.reading": "evaluation.predictions",
    "evaluation.reconstruction": "evaluation.codec_reconstruction",
    "evaluation.refilling": "evaluation.infilling",
    "evaluation.scene_oracle": "evaluation.emojiworld.scene_classifier",
    "evaluation.tokenizer_run": "evaluation.tokenizers",
    "experiments": "studies.experiments",
    "experiments.arms": "studies.experiments.variants",
    "experiments.bound": "studies.experiments.measurements",
    "experiments.command": "studies.experiments.command",
    "experiments.compare": "studies.experiments.table",
    "experiments.measure": "studies.experiments.measurements",
    "experiments.measured": "studies.experiments.measurements",
    "experiments.parts": "studies.experiments.recipe",
    "experiments.planning": "studies.experiments.variants",
    "experiments.plot": "studies.experiments.table",
    "experiments.resolve": "studies.experiments.recipe",
    "experiments.table": "studies.experiments.table",
    "experiments.training": "studies.experiments.training",
    "figures": "files",
    "inference": "generation",
    "inference.blank": "generation.canvas_builder",
    "inference.command": "generation.command",
    "inference.composite": "generation.decode",
    "inference.defaults": "generation.config",
    "inference.denoise": "generation.denoiser",
    "inference.draft": "generation.request",
    "inference.folder": "generation.model_folder",
    "inference.given_files": "generation.command",
    "inference.hole_filler": "generation.generator",
    "inference.hole_lengths": "generation.generator",
    "inference.layout": "generation.canvas_builder",
    "inference.lengths": "generation.lengths",
    "inference.media_coder": "generation.decode",
    "inference.omni": "generation.omni",
    "inference.part_filler": "generation.generator",
    "inference.plain_sampling": "generation.config",
    "inference.qualities": "generation.config",
    "inference.request": "generation.request",
    "inference.sampling": "generation.config",
    "inference.trace": "generation.history",
    "interop.own": "interop.native",
    "interop.weightless": "interop.meta_init",
    "interop.writing": "interop.shards_writer",
    "metrics.bound": "metrics.nelbo",
    "modules.muon": "optim.muon",
    "modules.optim": "optim.schedule",
    "modules.precision": "callbacks.precision_plugin",
    "modules.slices": "modules.metric_breakdown",
    "nn.conv": "nn.codec.conv",
    "nn.frames": "nn.codec.mel_codec",
    "nn.half_attention": "nn.cpu",
    "nn.lfq": "nn.codec.lookup_free",
    "nn.lfr_filter_bank": "tokenizers.speech_features",
    "nn.lora": "nn.adapters",
    "nn.mel": "nn.codec.mel_codec",
    "nn.memory": "nn.kv_cache",
    "nn.new_rows": "nn.adapters",
    "nn.patch_discriminator": "nn.codec.discriminators",
    "nn.precision": "nn.cpu",
    "nn.residual_vq": "nn.codec.residual_vq",
    "nn.seanet": "nn.codec.seanet",
    "nn.stft_discriminator": "nn.codec.discriminators",
    "planning": "studies.memory_plan",
    "planning.activations": "studies.memory_plan.memory",
    "planning.command": "studies.memory_plan.command",
    "planning.load": "studies.memory_plan.memory",
    "planning.memory": "studies.memory_plan.memory",
    "planning.plan": "studies.memory_plan.plan",
    "planning.settings": "studies.memory_plan.settings",
    "report": "studies.report",
    "report.build": "studies.report.build",
    "report.curves": "studies.report.curves",
    "report.gallery": "studies.report.gallery",
    "report.media": "studies.report.gallery",
    "report.run_files": "studies.report.build",
    "report.tables": "studies.report.tables",
    "samplers.blocks": "samplers.canvas",
    "samplers.fill": "samplers.loop",
    "samplers.ranking": "samplers.canvas",
    "samplers.score": "samplers.base",
    "shipped": "pretrained",
    "special_tokens": "vocab",
    "tokenizers.continuous_speech": "tokenizers.speech_features",
}
"""Old module: new module, both below this package."""
NAMES: dict[str, str] = {
    "Answered": "TaskResult",
    "Answerer": "ModelAdapter",
    "Arm": "Variant",
    "BoundPerToken": "NelboPerToken",
    "Case": "Example",
    "CodeSpanFeatures": "CodebookEmbedding",
    "Continuous": "ContinuousFeatures",
    "ContinuousSpeech": "SpeechFeatureEncoder",
    "Corrupted": "NoisyBatch",
    "Draft": "Infill",
    "Exhibit": "GalleryItem",
    "GenerationDefaults": "ModalityDefaults",
    "Grammar": "AllowedTokens",
    "Heard": "SpeechScores",
    "Hole": "MaskedSpan",
    "Isolation": "PromptIsolation",
    "LayerMemory": "LayerKVCache",
    "MediaCoder": "MediaDecoder",
    "Moment": "StepTimes",
    "OWN": "NATIVE",
    "OmniAnswerer": "OmniAdapter",
    "Outcome": "Score",
    "PartFiller": "PartGenerator",
    "Pictures": "Images",
    "Reader": "ResponseParser",
    "Reading": "Prediction",
    "Refiller": "Infiller",
    "Reply": "Response",
    "RotaryAngles": "RotaryEmbedding",
    "Runner": "CachedBackbone",
    "Sampling": "GenerationConfig",
    "SamplingOptions": "GenerationConfig",
    "SceneOracle": "SceneClassifier",
    "Scenes": "LabelledScenes",
    "Scored": "TaskScores",
    "Sequence": "TokenSequence",
    "TokenizerReconstructor": "CodecReconstructor",
    "Trace": "History",
    "WithoutWeights": "MetaInit",
    "counted_mask": "fixed_count_mask",
    "evaluation.statistics.Measured": "Estimate",
    "experiments.compare.Row": "ComparisonRow",
    "experiments.measured.Measured": "Measurement",
    "experiments.training.Stage": "StageRecipe",
    "locate": "resolve_pretrained",
    "merged": "merge_adapters",
    "nn.memory.Memory": "KVCache",
    "planning.memory.Memory": "DeviceMemory",
    "report.run_files.Stage": "LoggedStage",
}
"""Old name of a class or function: its new name; with its old module where a name had two uses."""
REMOVED_MODULES = {
    "inference.ears": "the encoder of speech features is given to Omni.from_pretrained",
    "inference.length_prediction": "response_length states a length",
    "inference.part_draft": "what is given of an answer is a Part with masked positions",
    "inference.unused_options": "options that change nothing are not refused",
    "modules.length_loss": "length heads were removed",
    "nn.length_head": "length heads were removed",
    "samplers.growth": "an answer that does not end is retried with more positions",
    "samplers.token_editing": "committed tokens are not edited",
}
"""Old module that has no successor: what is there instead."""
SETTINGS = {
    "quality": "preset",
    "refresh_every": "cache_interval",
    "shift": "timestep_shift",
    "trace": "history",
}
"""Old name of a setting of generation: its new name."""
CLASSES = {
    "lightning.pytorch.callbacks.EMAWeightAveraging": "lightning_omni.callbacks.ema.EMA",
}
"""Class of another package: ours, which takes its place."""
CLASS_ARGUMENTS: dict[str, dict[str, str]] = {
    "lightning_omni.callbacks.ema.EMA": {
        "decay": "decay",
        "update_every_n_steps": "every_n_steps",
        "every_n_steps": "every_n_steps",
    }
}
"""Class of ours that took another's place: arguments of either by their name now; others go."""
ARGUMENTS = {
    "bound_draws": "nelbo_draws",
    "is_shifted": "right_shift_logits",
    "rows_from": "trainable_rows_from",
}
"""Old name of a class's argument: its new name."""
REMOVED: dict[str, str] = {
    "length_loss": "length heads were removed",
    "modality_dropout": "a request is dropped as a whole, see condition_dropout",
}
"""Argument that no longer exists: why it is ignored, which is logged unless it was off."""


def resolve(path: str) -> str:
    """Return the dotted path of a class or function as it is now.

    Raises:
        OmniError: If its module was removed.
    """
    module, _, name = path.rpartition(".")
    own = module.removeprefix(_PACKAGE)
    if own in REMOVED_MODULES:
        raise OmniError(f"'{path}' no longer exists: {REMOVED_MODULES[own]}")
    return f"{_PACKAGE}{MODULES.get(own, own)}.{_new_name(own, name)}"


def _new_name(module: str, name: str) -> str:
    """Return the new name of a class or function of an old module."""
    return NAMES.get(f"{module}.{name}", NAMES.get(name, name))


def rename_arguments(plain: Any, *, level: int = logging.DEBUG) -> Any:
    """Return a recipe or saved configuration, nested or not, with the arguments' new names.

    Args:
        plain: Anything made of dictionaries, lists and plain values.
        level: Logging level of the message about a new name.
    """
    if isinstance(plain, list):
        return [rename_arguments(value, level=level) for value in plain]
    if not isinstance(plain, dict):
        return plain
    return {
        _argument(name, level): rename_arguments(value, level=level)
        for name, value in plain.items()
        if not _is_removed(name, value, level)
    }


def rename_class_paths(plain: Any) -> Any:
    """Return a recipe or saved configuration whose `class_path`s lead to where classes are now."""
    if isinstance(plain, list):
        return [rename_class_paths(value) for value in plain]
    if not isinstance(plain, dict):
        return plain
    renamed = {
        name: rename_class(value) if name == "class_path" else rename_class_paths(value)
        for name, value in plain.items()
    }
    names = CLASS_ARGUMENTS.get(str(renamed.get("class_path")))
    if plain.get("class_path") in CLASSES and names and isinstance(renamed.get("init_args"), dict):
        given = renamed["init_args"]
        renamed["init_args"] = {names[n]: given[n] for n in given if n in names}
        for name in given:
            if name not in names and given[name]:
                log_once(logging.WARNING, "the argument '%s' of %s is ignored", name, "averaging")
    return renamed


def rename_class(path: Any) -> Any:
    """Return the dotted path of a class of this package as it is now; log a change once."""
    if not (isinstance(path, str) and (path.startswith(_PACKAGE) or path in CLASSES)):
        return path
    new = CLASSES[path] if path in CLASSES else resolve(path)
    if new != path:
        log_once(logging.WARNING, "the class '%s' is now '%s'", path, new)
    return new


def rename_option(arg: str) -> str:
    """Return a command-line option such as `--model.lora.rows_from=3` with its new name."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    path, dot, last = name.rpartition(".")
    return f"{path}{dot}{_argument(last, logging.WARNING)}{equals}{value}" if dot else arg


def _is_removed(name: Any, value: Any, level: int) -> bool:
    if name in REMOVED and value:
        log_once(level, "the argument '%s' is ignored: %s", name, REMOVED[name])
    return name in REMOVED


def _argument(name: Any, level: int) -> Any:
    new = ARGUMENTS.get(name, name)
    if new != name:
        log_once(level, "the argument '%s' is now '%s'", name, new)
    return new


@functools.cache
def log_once(level: int, message: str, old: str, new: str) -> None:
    """Log a message about an old name, once per process."""
    log.log(level, message, old, new)


class _Moved(ModuleType):
    """Stands in for a module that moved."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        own = self.__name__.removeprefix(_PACKAGE)
        target, new = MODULES[own], _new_name(own, name)
        value = getattr(importlib.import_module(_PACKAGE + target), new)
        self.__dict__[name] = value
        log.warning("'%s.%s' is now '%s%s.%s'", self.__name__, name, _PACKAGE, target, new)
        return value


class _Finder(MetaPathFinder, Loader):
    """Finds modules that moved; asked only when no module of the name exists."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(_PACKAGE)
        is_package = any(old.startswith(f"{name}.") for old in MODULES)
        if name == fullname or not (is_package or name in MODULES):
            return None
        return ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Attributes are looked up when they are used."""


def install() -> None:
    """Make old paths importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
