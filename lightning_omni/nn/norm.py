"""Root-mean-square norm that never sums in half precision, and is one kernel in every format."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """Norm in the wider format of its input and its weight.

    Kernels sum in float32 whatever the format, and are fused only where both formats are the same.
    In half precision, where a sharded network's gathered weights are, autocast is turned off: on
    GPUs it would widen, and thereby copy, what the kernel widens in registers.

    Source: arXiv:1910.07467.
    """

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Divide by the root of the mean square, and scale."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        if dtype.itemsize < torch.float32.itemsize and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._normalise(x, dtype)
        return self._normalise(x, dtype)

    def _normalise(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        weight = self.weight.to(dtype)
        return F.rms_norm(x.to(dtype), self.normalized_shape, weight, self.eps)
