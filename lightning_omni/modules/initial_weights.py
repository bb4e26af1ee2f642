"""Where a training starts: the stage before, or an imported checkpoint whose tables grow."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.moved import rename_arguments
from lightning_omni.nn.adapters import base_name
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE
from lightning_omni.vocab import Vocab

log = logging.getLogger(__name__)

KNOWN_IDS = {"mask_token_id": "<|mask|>", "pad_token_id": "<|endoftext|>"}
"""Ids that a published `config.json` names, which `import` keeps in the header of the weights."""
_IMPORTED = "lightning_omni.interop.backbone.Backbone"
_PREFIX = "transformer."
_TABLES = ("embedding.tokens.weight", "embedding.head.weight")
_PROJECTOR = "feature_projector."
_LENGTH_HEAD = "length_head."
_OF_VOCAB = ("vocab_size", "code_spans")
_CHUNK = 4096
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Start:
    """What a folder says of itself.

    Attributes:
        folder: Of the weights.
        args: Arguments of its transformer.
        is_imported: It was a published checkpoint.
    """

    folder: Path
    args: dict[str, Any]
    is_imported: bool

    @property
    def prefix(self) -> str:
        """What the names of its weights begin with."""
        return _PREFIX if self.is_imported else ""


@torch.no_grad()
def load_initial(backbone: Transformer, folder: Path, vocab: Vocab, *, seed: int) -> None:
    """Copy a folder's weights into a backbone, one at a time.

    The tables of an imported text model grow to the vocabulary: rows of the ids that it knows are
    kept by id. Rows of new ids are drawn from a normal distribution with the mean and the spread
    of each column of the known rows, so they begin on that table's scale. What the checkpoint holds
    beyond the ids it knows, which is padding, is left out.

    A projector of continuous features that the folder does not have begins anew; one that an
    import has and the backbone does not is left out.

    Args:
        backbone: To be filled; adapters stay as they are.
        folder: Written by a stage or by `import`.
        vocab: The backbone's.
        seed: Of new rows.

    Raises:
        OmniError: If there are no weights, or they are of another architecture or vocabulary.
    """
    start = _read(folder)
    _require_alike(backbone, start)
    own = _pieces(backbone)
    with _opened(folder) as weights:
        _require_known_ids(weights.metadata() or {}, vocab, folder)
        names = {name.removeprefix(start.prefix): name for name in weights.keys()}  # noqa: SIM118
        shapes = {n: tuple(weights.get_slice(full).get_shape()) for n, full in names.items()}
    if not _has_projector(names):
        own = _without_projector(own)
    elif start.is_imported and not _has_projector(own):
        names, shapes = _without_projector(names), _without_projector(shapes)
        log.info("'%s' hears continuous features, the backbone does not: no projector", folder)
    rows = shapes.get(_TABLES[0], (vocab.size,))[0]
    grows = start.is_imported and rows != vocab.size
    _require_same_weights(own, shapes, folder, growing=_TABLES if grows else ())
    if grows:
        _require_inherited(rows, vocab, folder)
    for name, full in names.items():
        with _opened(folder) as weights:  # a file that stays open keeps what was read of it
            _fill(name, own[name], weights.get_tensor(full), vocab, grows=grows, seed=seed)
    if grows:
        _tell(rows, vocab, folder)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """The folder's open file of weights."""
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as weights:
            yield weights
    except (SafetensorError, OSError) as error:
        raise OmniError(f"'{path}' is damaged ({error}); copy or export the model again") from error


def _read(folder: Path) -> _Start:
    if not (folder / WEIGHTS_FILE).is_file():
        raise OmniError(
            f"no weights of the stage before in '{folder}'; run that stage first, import a "
            "checkpoint to that place, or pass --model.init_from null to start from random weights"
        )
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise OmniError(f"no {CONFIG_FILE} in '{folder}'; export or import the model again")
    config = read_json_object(path, remedy="export or import the model again")
    if "class_path" not in config:
        raise OmniError(
            f"'{folder}' holds a published checkpoint; run lightning_omni import --from ... "
            f"--input {folder} --output OTHER and give OTHER"
        )
    is_imported = config["class_path"] == _IMPORTED
    args = rename_arguments(config.get("init_args", {}))
    if is_imported:
        inner = args.get("transformer", {}).get("init_args", {})
        args = {**inner, "right_shift_logits": args.get("right_shift_logits", False)}
    return _Start(folder, args, is_imported)


def _require_alike(backbone: Transformer, start: _Start) -> None:
    """Refuse settings that no weight's shape would betray; of our own stages, the shift alone."""
    own = {k: v for k, v in backbone.init_args.items() if k not in _OF_VOCAB}
    compared = own if start.is_imported else {"right_shift_logits": own["right_shift_logits"]}
    theirs = {"right_shift_logits": False, **start.args}
    if None in (theirs.get("continuous_dim"), own["continuous_dim"]):  # one has no projector
        theirs["continuous_dim"] = own["continuous_dim"]
    differ = {name: value for name, value in compared.items() if theirs.get(name, value) != value}
    if differ:
        told = ", ".join(f"{name} is {theirs[name]}, not {value}" for name, value in differ.items())
        raise OmniError(
            f"'{start.folder}' holds another architecture: {told}; set model.backbone to it"
        )


def _has_projector(names: Iterable[str]) -> bool:
    return any(name.startswith(_PROJECTOR) for name in names)


def _without_projector(values: dict[str, _T]) -> dict[str, _T]:
    return {name: value for name, value in values.items() if not name.startswith(_PROJECTOR)}


def _require_known_ids(said: dict[str, str], vocab: Vocab, folder: Path) -> None:
    """Refuse a checkpoint whose ids mean something else."""
    for key, token in KNOWN_IDS.items():
        theirs, own = said.get(key), str(vocab.special(token))
        if theirs not in (None, own):
            raise OmniError(
                f"'{folder}' has {key} {theirs} but the vocab has {own}; for the ids of Dream and "
                "Omni-Diffusion set data.special_tokens: released, data.text_ranks: qwen and text: "
                "151643 in data.vocab"
            )


def _pieces(backbone: Transformer) -> dict[str, list[Tensor]]:
    """By name without adapters, the tensors that make up a weight, row below row."""
    pieces: dict[str, list[Tensor]] = {}
    for name, value in backbone.state_dict().items():
        if plain := base_name(name):
            pieces.setdefault(plain, []).append(value)
    return pieces


def _require_same_weights(
    own: dict[str, list[Tensor]],
    shapes: dict[str, tuple[int, ...]],
    folder: Path,
    *,
    growing: tuple[str, ...],
) -> None:
    """Compare names and shapes, of growing tables all but the rows."""
    wanted = {n: (sum(map(len, parts)), *parts[0].shape[1:]) for n, parts in own.items()}
    one, two = (
        {n: shape[1:] if n in growing else shape for n, shape in each.items()}
        for each in (wanted, shapes)
    )
    differ = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    if differ:
        raise OmniError(
            f"'{folder}' holds another architecture: {len(differ)} tensors differ, first "
            f"'{differ[0]}'; use the backbone and vocab of the stage before"
        )


def _require_inherited(rows: int, vocab: Vocab, folder: Path) -> None:
    known = vocab.num_inherited
    if not known:
        raise OmniError(
            f"'{folder}' has {rows} rows, those of Qwen's text ids and special tokens, but the "
            f"vocab has {vocab.size} ids and special tokens of its own; set data.special_tokens: "
            "released and data.text_ranks: qwen"
        )
    if rows < known:
        raise OmniError(
            f"'{folder}' has {rows} rows, but a text model of this vocab has at least {known}; set "
            "data.vocab to its text ids"
        )


def _fill(
    name: str, pieces: list[Tensor], value: Tensor, vocab: Vocab, *, grows: bool, seed: int
) -> None:
    """Write a weight into its pieces, a growing table with new rows."""
    blocks = [value]
    if grows and name in _TABLES:
        known = value[: vocab.num_inherited]
        rng = torch.Generator().manual_seed(seed + _TABLES.index(name))
        blocks = [known, _new_rows(known, vocab.size - len(known), rng)]
    start = 0
    for piece in pieces:
        first = 0
        for block in blocks:
            low = max(start, first)
            high = min(start + len(piece), first + len(block))
            if low < high:
                piece[low - start : high - start].copy_(block[low - first : high - first])
            first += len(block)
        start += len(piece)


def _new_rows(known: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Rows with the mean and the spread of each column of the known ones, Float[count D]."""
    total = torch.zeros(known.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(known), _CHUNK):
        chunk = known[start : start + _CHUNK].double()
        total += chunk.sum(0)
        squares += chunk.square().sum(0)
    mean = total / len(known)
    spread = (squares / len(known) - mean.square()).clamp_min(0).sqrt()
    noise = torch.randn(count, len(mean), generator=rng)
    return noise.mul_(spread.float()).add_(mean.float())


def _tell(rows: int, vocab: Vocab, folder: Path) -> None:
    known = vocab.num_inherited
    log.info(
        "'%s' has rows for %s ids: %s keep theirs, %s have no counterpart and are left out, and %s "
        "new ids begin with the mean and spread of the known ones",
        *(folder, f"{rows:,}", f"{known:,}", f"{rows - known:,}", f"{vocab.size - known:,}"),
    )


def drop_length_head(checkpoint: dict[str, Any], num_groups: int) -> None:
    """Remove the weights of a length head, which this version does not have, and their states.

    Args:
        checkpoint: Lightning checkpoint, changed in place.
        num_groups: Parameter groups of the backbone, which come first in the optimizer.
    """
    if not any(name.startswith(_LENGTH_HEAD) for name in checkpoint["state_dict"]):
        return
    log.info("the checkpoint's length head is dropped: this version has none")
    for key in ("state_dict", "current_model_state"):  # the latter of averaged weights
        state = checkpoint.get(key, {})
        for name in [name for name in state if name.startswith(_LENGTH_HEAD)]:
            del state[name]
    for optimizer in checkpoint.get("optimizer_states", []):
        optimizer["param_groups"] = optimizer["param_groups"][:num_groups]
        kept = {name for group in optimizer["param_groups"] for name in group["params"]}
        optimizer["state"] = {k: v for k, v in optimizer["state"].items() if k in kept}
    for schedule in checkpoint.get("lr_schedulers", []):
        for key in ("base_lrs", "_last_lr", "lr_lambdas"):
            schedule[key] = schedule[key][:num_groups]
