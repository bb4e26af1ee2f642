"""Rotary position embedding over `(index, row, column)` positions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_omni.errors import OmniError


class RotaryEmbedding(nn.Module):
    """Cosine and sine tables from `(index, row, column)` positions.

    Args:
        head_dim: Size of an attention head.
        theta: Base of the frequencies.
        sections: `[a, b, c]`: the first `a` frequencies encode the index, the next `b` the row and
            the last `c` the column, which are a code's coordinates on its grid (an image code's row
            and column, a speech code's frame and codebook level). None encodes the index only.

    Raises:
        OmniError: If `sections` are not three numbers that sum to `head_dim / 2`.

    Source: arXiv:2104.09864; sections as in Qwen2-VL, arXiv:2409.12191 section 2.1.
    """

    axis: Tensor

    def __init__(self, head_dim: int, *, theta: float, sections: list[int] | None) -> None:
        super().__init__()
        half = head_dim // 2
        sections = sections or [half, 0, 0]
        if sum(sections) != half or len(sections) != 3:
            raise OmniError(
                f"rope_sections {sections} must be three numbers that sum to half the head "
                f"size, {half}"
            )
        steps = [torch.arange(n, device="cpu") / max(n, 1) for n in sections]
        # not a buffer, as a strategy may cast buffers to half precision
        self._inv_freq = {torch.device("cpu"): theta ** -torch.cat(steps)}
        axis = [i for i, n in enumerate(sections) for _ in range(n)]
        self.register_buffer("axis", torch.tensor(axis), persistent=False)

    def forward(
        self, position_ids: Int[Tensor, "T 3"]
    ) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
        """Return cosine and sine of every angle in float32."""
        angle = position_ids[:, self.axis].float() * self.inv_freq(position_ids.device)
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()

    def inv_freq(self, device: torch.device) -> Float[Tensor, " F"]:
        """Return the frequencies on a device, always in float32."""
        if device not in self._inv_freq:
            self._inv_freq[device] = self._inv_freq[torch.device("cpu")].to(
                device, non_blocking=True
            )
        return self._inv_freq[device]


def rotate(
    x: Float[Tensor, "T H K"], cos: Float[Tensor, "T K"], sin: Float[Tensor, "T K"]
) -> Float[Tensor, "T H K"]:
    """Rotate pairs (i, i + K/2) of each head by the token's angles, in the dtype of `x`.

    Source: RoFormer, arXiv:2104.09864, in the half-rotation form.
    """
    half = x.shape[-1] // 2
    cos, sin = (table[:, None, :half].to(x.dtype) for table in (cos, sin))
    if torch.compiler.is_compiling():  # compiled, the textbook form takes as few operations
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
    out: Tensor = _Rotation.apply(x, cos, sin)
    return out


class _Rotation(torch.autograd.Function):
    """Rotation in half the operations of the textbook form; its backward pass rotates back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, sin, -1), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Rotate by the angles (`sign` 1) or back (-1)."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (x1, x2), (y1, y2) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(x1, cos, out=y1).addcmul_(x2, sin, value=-sign)
    torch.mul(x2, cos, out=y2).addcmul_(x1, sin, value=sign)
    return out
