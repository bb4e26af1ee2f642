"""Any backbone on disk as a function from token ids to logits."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.interop.checkpoint import load_module, weight_files
from lightning_omni.interop.dream import load_dream, read_config
from lightning_omni.interop.family import read_family
from lightning_omni.interop.native import build_meta_module_from_folder
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import Pretrained
from lightning_omni.types import ContinuousFeatures


class Backbone(Pretrained):
    """A transformer whose logits at position i score token i, shifted checkpoints included.

    Args:
        transformer: network; its own setting of the shift is overwritten.
        right_shift_logits: see `Transformer`.
    """

    def __init__(self, transformer: Transformer, *, right_shift_logits: bool) -> None:
        super().__init__()
        transformer.init_args["right_shift_logits"] = transformer.right_shift_logits = (
            right_shift_logits
        )
        self.transformer = transformer

    @property
    def right_shift_logits(self) -> bool:
        """Whether the network's output at position i - 1 scores token i."""
        return self.transformer.right_shift_logits

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        position_ids: Int[Tensor, "B L"] | Int[Tensor, "1 L"] | Int[Tensor, " L"] | None = None,
        continuous: ContinuousFeatures | None = None,
    ) -> Float[Tensor, "B L V"]:
        """Return logits of every id at every position.

        Args:
            input_ids: token ids.
            position_ids: positions; a 0 begins a new segment, and segments do not attend to each
                other. One row is used for all rows; None means one segment per row.
            continuous: features that replace some tokens, whose index counts over all rows.

        Raises:
            OmniError: If ids are unknown or not in rows, positions have another shape, or features
                have no projector of their width.
        """
        _check_token_ids(input_ids, self.transformer.embedding.tokens.num_embeddings)
        rows, length = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)
        if position_ids.shape not in ((rows, length), (1, length), (length,)):
            raise OmniError(
                f"position_ids have the shape {tuple(position_ids.shape)}, wanted that of "
                f"input_ids, {(rows, length)}, or one row for all"
            )
        position_ids = position_ids.expand(rows, length)
        starts_here = position_ids == 0
        starts_here[:, 0] = True
        starts = starts_here.flatten().nonzero().squeeze(1)
        ends = torch.cat((starts[1:], starts.new_tensor([rows * length])))
        layout = self.transformer.segment_layout(
            (ends - starts).tolist(), torch.ones_like(input_ids.flatten(), dtype=torch.bool)
        )
        index = position_ids.flatten()
        positions = torch.stack((index, torch.zeros_like(index), torch.zeros_like(index)), dim=1)
        hidden = self.transformer(input_ids.flatten(), positions, layout, continuous=continuous)
        return self.transformer.logits(hidden).view(rows, length, -1)


def _check_token_ids(input_ids: Tensor, vocab_size: int) -> None:
    if input_ids.ndim != 2 or not input_ids.numel():
        raise OmniError(f"input_ids have the shape {tuple(input_ids.shape)}, wanted rows, (B, L)")
    least, most = (int(extreme) for extreme in torch.aminmax(input_ids))
    if least < 0 or most >= vocab_size:
        raise OmniError(f"input_ids reach from {least} to {most}, wanted 0 to {vocab_size - 1}")


def load_backbone(path: str | Path) -> Backbone:
    """Load a backbone: an export of this package, or a published Dream, Omni-Diffusion or Qwen.

    Next-token models attend causally; row i of their logits scores token i, and row 0 is the state
    of token 0 itself. Weights keep their stored format; call `.float()` to compute in float32.

    Args:
        path: folder with `config.json` and safetensors, in one file or in shards with an index.

    Raises:
        OmniError: If files are missing or damaged, or the network is of an unsupported kind.
    """
    folder = Path(path)
    config = read_config(folder)
    if "class_path" in config:
        return _load_native_backbone(folder)
    shifts = read_family(config, folder).right_shift_logits
    return Backbone(load_dream(folder), right_shift_logits=shifts).eval()


def _load_native_backbone(folder: Path) -> Backbone:
    module = build_meta_module_from_folder(folder)
    load_module(module, weight_files(folder), str, str, about=f"'{folder}'")
    if isinstance(module, Transformer):
        return Backbone(module, right_shift_logits=module.right_shift_logits).eval()
    if not isinstance(module, Backbone):
        raise OmniError(f"'{folder}' holds a {type(module).__name__}, wanted a backbone")
    return module.eval()
