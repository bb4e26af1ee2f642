"""Initial weights: those of the stage before, or of an imported checkpoint with resized tables."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_omni.deferred_init import set_initial_value
from lightning_omni.errors import OmniError, fold_text
from lightning_omni.files import read_json_object
from lightning_omni.nn.adapters import base_name
from lightning_omni.nn.transformer import Transformer
from lightning_omni.old_names import rename_arguments
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE
from lightning_omni.vocab import Vocab

log = logging.getLogger(__name__)

KNOWN_IDS = {"mask_token_id": "<|mask|>", "pad_token_id": "<|endoftext|>"}
"""Ids of a published `config.json`, which `import` keeps in the header of the weights."""
NUM_KNOWN = "num_known_ids"
"""Entry of that header: how many leading ids the checkpoint's own tokenizer has, too."""
_IMPORTED = "lightning_omni.interop.backbone.Backbone"
_PREFIX = "transformer."
_TABLES = ("embedding.tokens.weight", "embedding.head.weight")
_PROJECTOR = "feature_projector."
_LENGTH_HEAD = "length_head."
_LOGITS = ("right_shift_logits", "is_causal")
_OF_VOCAB = ("vocab_size", "code_spans")
_CHUNK = 4096
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Start:
    """A folder of initial weights.

    Attributes:
        folder: Path of the folder.
        args: Arguments of its transformer.
        is_imported: Whether it was imported from a published checkpoint.
    """

    folder: Path
    args: dict[str, Any]
    is_imported: bool

    @property
    def prefix(self) -> str:
        """Prefix of the names of its weights."""
        return _PREFIX if self.is_imported else ""


@dataclass(frozen=True, slots=True)
class _Resize:
    """What becomes of the rows of a table.

    Attributes:
        known: Number of leading rows that are kept, and whose statistics new ones have.
        rows: Number of rows of the result.
        mask: Row that becomes the mean of the known ones, None for no row.
    """

    known: int
    rows: int
    mask: int | None


@torch.no_grad()
def load_initial_weights(backbone: Transformer, folder: Path, vocab: Vocab, *, seed: int) -> None:
    """Copy a folder's weights into a backbone, one at a time.

    Weights on the meta device will begin with them, and are read when they are shared out.

    The embedding tables of an imported text model are resized to the vocabulary: rows of known ids
    are kept by id. Rows of new ids are drawn from a normal distribution with the mean and standard
    deviation of each column of the known rows. Padding rows beyond the known ids are dropped.

    From a next-token model, which knows no mask, the mask's rows are the mean of the known ones:
    at the output it then begins with less than its even share of the probability.

    A projector of continuous features that the folder lacks keeps its random weights; one that an
    imported folder has and the backbone lacks is dropped.

    Args:
        backbone: Network to be filled; its adapters are left unchanged.
        folder: Folder written by a stage or by `import`.
        vocab: Vocabulary of the backbone.
        seed: Seed of new rows.

    Raises:
        OmniError: If there are no weights, or they belong to another architecture or vocabulary.
    """
    start = _read_start(folder)
    _require_same_settings(backbone, start)
    own = _pieces_by_name(backbone)
    with _open_weights(folder) as weights:
        header = weights.metadata() or {}
        _require_known_ids(header, vocab, folder)
        names = {name.removeprefix(start.prefix): name for name in weights.keys()}  # noqa: SIM118
        shapes = {n: tuple(weights.get_slice(full).get_shape()) for n, full in names.items()}
    if not _has_projector(names):
        own = _drop_projector(own)
    elif start.is_imported and not _has_projector(own):
        names, shapes = _drop_projector(names), _drop_projector(shapes)
        log.info("'%s' has a projector, which the backbone lacks: dropped", folder)
    rows = shapes.get(_TABLES[0], (vocab.size,))[0]
    is_resized = start.is_imported and rows != vocab.size
    _require_same_weights(own, shapes, folder, resized=_TABLES if is_resized else ())
    known = vocab.num_inherited if is_resized else vocab.span("special").stop
    known = min(known, _read_num_known(header, rows, folder) or known)
    if is_resized:
        _require_rows_of_text_model(rows, known, vocab, folder)
    is_converted = bool(start.args.get("is_causal")) and not backbone.is_causal
    resize = _Resize(
        known, vocab.size if is_resized else rows, vocab.mask_token_id if is_converted else None
    )
    for name, full in names.items():
        read = partial(_read_weight, folder, full)
        write = partial(_write_weight, name, resize=resize, seed=seed)
        if own[name][0].is_meta:
            set_initial_value(own[name][0], partial(_read_and_write, read, write))
        else:
            write(own[name], read())
    if is_resized:
        _log_resized_tables(rows, known, vocab, folder)
    if is_converted:
        log.info(
            "'%s' holds a next-token model: it attends in both directions from now on, and the "
            "mask's rows are the mean of %s known ones",
            folder,
            f"{known:,}",
        )


@contextlib.contextmanager
def _open_weights(folder: Path) -> Iterator[Any]:
    """Open the folder's file of weights."""
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as weights:
            yield weights
    except (SafetensorError, OSError) as error:
        raise OmniError(f"'{path}' is damaged ({error}); copy or export the model again") from error


def _read_start(folder: Path) -> _Start:
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


def _require_same_settings(backbone: Transformer, start: _Start) -> None:
    """Refuse other settings that no shape reveals; of our own stages only those of the logits."""
    own = {k: v for k, v in backbone.init_args.items() if k not in _OF_VOCAB}
    compared = own if start.is_imported else {k: own[k] for k in _LOGITS}
    theirs = {"right_shift_logits": False, "is_causal": False, **start.args}
    if not own["is_causal"]:  # a next-token model may become a bidirectional one
        theirs["is_causal"] = False
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


def _drop_projector(values: dict[str, _T]) -> dict[str, _T]:
    return {name: value for name, value in values.items() if not name.startswith(_PROJECTOR)}


def _require_known_ids(header: dict[str, str], vocab: Vocab, folder: Path) -> None:
    """Refuse a checkpoint with other ids for the same tokens."""
    for key, token in KNOWN_IDS.items():
        theirs, own = header.get(key), str(vocab.special_id(token))
        if theirs not in (None, own):
            raise OmniError(
                f"'{folder}' has {key} {theirs} but the vocab has {own}; for the ids of Dream and "
                "Omni-Diffusion set data.special_tokens: released, data.text_ranks: qwen and text: "
                "151643 in data.vocab"
            )


def _read_num_known(header: dict[str, str], rows: int, folder: Path) -> int | None:
    """Return how many leading ids the header says are known; None if it says nothing.

    Raises:
        OmniError: If that is no number of rows.
    """
    stated = header.get(NUM_KNOWN)
    if stated is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", stated) or not 1 <= int(stated) <= rows:
        raise OmniError(
            f"'{folder / WEIGHTS_FILE}' has {NUM_KNOWN} {fold_text(stated)!r} in its header, "
            f"wanted a number from 1 to its {rows} rows; import the model again"
        )
    return int(stated)


def _pieces_by_name(backbone: Transformer) -> dict[str, list[Tensor]]:
    """Return the tensors that make up each weight, row below row, by its name without adapters."""
    pieces: dict[str, list[Tensor]] = {}
    for name, value in backbone.state_dict(keep_vars=True).items():
        if plain := base_name(name):
            pieces.setdefault(plain, []).append(value)
    return pieces


def _require_same_weights(
    own: dict[str, list[Tensor]],
    shapes: dict[str, tuple[int, ...]],
    folder: Path,
    *,
    resized: tuple[str, ...],
) -> None:
    """Compare names and shapes, ignoring the number of rows of resized tables."""
    wanted = {n: (sum(map(len, parts)), *parts[0].shape[1:]) for n, parts in own.items()}
    one, two = (
        {n: shape[1:] if n in resized else shape for n, shape in each.items()}
        for each in (wanted, shapes)
    )
    differ = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    if differ:
        raise OmniError(
            f"'{folder}' holds another architecture: {len(differ)} tensors differ, first "
            f"'{differ[0]}'; use the backbone and vocab of the stage before"
        )


def _require_rows_of_text_model(rows: int, known: int, vocab: Vocab, folder: Path) -> None:
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


def _read_weight(folder: Path, name: str) -> Tensor:
    with _open_weights(folder) as weights:  # an open file keeps what was read in memory
        value: Tensor = weights.get_tensor(name)
        return value


def _read_and_write(
    read: Callable[[], Tensor], write: Callable[[list[Tensor], Tensor], None], target: Tensor
) -> None:
    write([target], read())


def _write_weight(
    name: str, pieces: list[Tensor], value: Tensor, *, resize: _Resize, seed: int
) -> None:
    """Write a weight into its pieces, with new rows for a resized table."""
    blocks = [value]
    if name in _TABLES:
        known = value[: resize.known]
        if resize.rows != len(value):
            rng = torch.Generator().manual_seed(seed + _TABLES.index(name))
            blocks = [known, _draw_new_rows(known, resize.rows - len(known), rng)]
        if resize.mask is not None:
            mean, _ = _column_statistics(known)
            first = 0 if len(blocks) == 1 or resize.mask < len(known) else len(known)
            blocks[-1 if first else 0][resize.mask - first] = mean.to(value.dtype)
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


def _draw_new_rows(known: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return rows with the mean and deviation of each column of the known ones, Float[count D]."""
    mean, deviation = _column_statistics(known)
    noise = torch.randn(count, len(mean), generator=rng)
    return noise.mul_(deviation.float()).add_(mean.float())


def _column_statistics(known: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each column, Float64[D], in bounded memory."""
    total = torch.zeros(known.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(known), _CHUNK):
        chunk = known[start : start + _CHUNK].double()
        total += chunk.sum(0)
        squares += chunk.square().sum(0)
    mean = total / len(known)
    return mean, (squares / len(known) - mean.square()).clamp_min(0).sqrt()


def _log_resized_tables(rows: int, known: int, vocab: Vocab, folder: Path) -> None:
    log.info(
        "'%s' has rows for %s ids: %s are kept, %s have no counterpart and are dropped, and %s new "
        "rows are drawn with the mean and deviation of the known ones",
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
