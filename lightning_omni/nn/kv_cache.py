"""States that outlive a denoising step, so that what hardly changes is not computed again.

After a full pass a step computes its live tokens only; all others answer with the keys and values
they had. That is exact where their states do not depend on the live ones, else an approximation.

Source: Fast-dLLM, arXiv:2505.22618, prefix cache; dKV-Cache, arXiv:2505.15781.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from lightning_omni.nn.attention import LayerMemory
from lightning_omni.nn.segments import SegmentLayout


class Memory:
    """Keys and values of every layer, and which tokens are live.

    Args:
        live: Places of the tokens that change, ascending, Int[R].
        layout: Where the segments of the whole run lie.
        num_layers: Layers of the network.
    """

    def __init__(self, live: Int[Tensor, " R"], layout: SegmentLayout, *, num_layers: int) -> None:
        self.layout, self.num_layers = layout, num_layers
        self.live, self.live_layout = live, layout.of_some(live)
        self.forget()

    def narrow(self, live: Int[Tensor, " R"]) -> None:
        """Bring only these tokens up to date from now on; what is remembered of others stays."""
        self.live, self.live_layout = live, self.layout.of_some(live)
        for layer in self.layers:
            layer.live = live

    def forget(self) -> None:
        """Make the next pass a full one."""
        self.layers = [LayerMemory(self.live, self.layout) for _ in range(self.num_layers)]

    @property
    def is_filled(self) -> bool:
        """Whether a full pass has been remembered."""
        return self.layers[-1].key is not None
