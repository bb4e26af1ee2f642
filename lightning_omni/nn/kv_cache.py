"""Key-value cache across denoising steps: states that hardly change are not computed again.

After a full forward pass, later passes recompute some of the tokens; the others contribute their
cached keys and values. This is exact if the cached states do not depend on the recomputed tokens,
and an approximation otherwise.

Source: Fast-dLLM, arXiv:2505.22618, prefix cache; dKV-Cache, arXiv:2505.15781.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from lightning_omni.nn.attention import LayerKVCache
from lightning_omni.nn.segments import SegmentLayout


class KVCache:
    """Keys and values of all tokens in every layer, and which tokens a pass recomputes.

    Args:
        recomputed: Positions of the tokens that later passes recompute, ascending, Int[R].
        layout: Segments of all tokens.
        num_layers: Number of layers of the network.

    Attributes:
        recomputed_layout: Segments of the recomputed tokens alone.
    """

    def __init__(
        self, recomputed: Int[Tensor, " R"], layout: SegmentLayout, *, num_layers: int
    ) -> None:
        self.layout, self.num_layers = layout, num_layers
        self.recomputed, self.recomputed_layout = recomputed, layout.select(recomputed)
        self.reset()

    def set_recomputed(self, positions: Int[Tensor, " R"]) -> None:
        """Recompute only the tokens at `positions` from now on; states of all others stay."""
        self.recomputed, self.recomputed_layout = positions, self.layout.select(positions)
        for layer in self.layers:
            layer.recomputed = positions

    def reset(self) -> None:
        """Discard all states, so that the next pass must be a full one."""
        self.layers = [LayerKVCache(self.recomputed, self.layout) for _ in range(self.num_layers)]

    @property
    def is_initialized(self) -> bool:
        """True once the states of a full pass are cached."""
        return self.layers[-1].key is not None
