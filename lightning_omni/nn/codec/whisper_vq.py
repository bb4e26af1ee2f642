"""A Whisper encoder that is causal by blocks, pooled and quantized: GLM-4-Voice's tokenizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_omni.nn.codec.mel_codec import mel_filters
from lightning_omni.pretrained import Pretrained

SAMPLE_RATE, N_FFT, HOP = 16_000, 400, 160
_DYNAMIC_RANGE = 8.0
"""Decades below the loudest energy of a window that are kept."""
_FRAME = 2
"""Spectra per frame: the stride of the convolutions."""


class WhisperLogMel(nn.Module):
    """Log-mel spectra of Whisper, 100 per second.

    Args:
        num_mels: Number of bands M.

    Source: Whisper, arXiv:2212.04356, section 2.2.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        filters = mel_filters(num_mels, N_FFT, SAMPLE_RATE, max_hz=SAMPLE_RATE / 2)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B M S"]:
        """Return spectra of samples in [-1, 1] at 16 kHz, S = T / 160; T a multiple of 160."""
        spectrum = torch.stft(wave, N_FFT, HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        log_mel = (self.filters.T @ power).clamp_min(1e-10).log10()
        loudest = log_mel.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log_mel, loudest - _DYNAMIC_RANGE) + 4) / 4


class CausalConv1d(nn.Conv1d):
    """Convolution that sees no later frames."""

    def forward(self, x: Float[Tensor, "B C S"]) -> Float[Tensor, "B D N"]:
        """Convolve, silence standing before the first frame."""
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class WhisperAttention(nn.Module):
    """Self-attention whose keys have no bias.

    Args:
        dim: Width D.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "N N"]) -> Tensor:
        """Mix frames; `allowed` says which keys (columns) a query (row) attends to."""
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class WhisperLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        ffn_dim: Size between the layers of the feed-forward.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = WhisperAttention(dim, num_heads)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)

    def forward(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "N N"]) -> Tensor:
        """Transform frames."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), allowed)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class WhisperVqEncoder(Pretrained):
    """Samples to codes; its weights have the published names.

    Args:
        dim: Width D.
        num_layers: Layers before the codebook.
        num_heads: Attention heads.
        ffn_dim: Size between the layers of a feed-forward.
        num_mels: Bands of the spectra.
        max_frames: Frames of a window, which have positions.
        block_size: Frames of a block; a frame attends to its block and to earlier ones.
        pool: Frames that are averaged to a code.
        codebook_size: Number of codes K.

    Source: GLM-4-Voice, arXiv:2412.02612, section 3.1.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        num_mels: int,
        max_frames: int,
        block_size: int,
        pool: int,
        codebook_size: int,
    ) -> None:
        super().__init__()
        self.block_size, self.pool, self.max_frames = block_size, pool, max_frames
        self.log_mel = WhisperLogMel(num_mels)
        self.conv1 = CausalConv1d(num_mels, dim, 3)
        self.conv2 = CausalConv1d(dim, dim, 3, stride=_FRAME)
        self.embed_positions = nn.Embedding(max_frames, dim)
        self.layers = nn.ModuleList(
            WhisperLayer(dim, num_heads, ffn_dim) for _ in range(num_layers)
        )
        self.codebook = nn.Embedding(codebook_size, dim)

    @property
    def hop_length(self) -> int:
        """Samples per code."""
        return HOP * _FRAME * self.pool

    @property
    def window_length(self) -> int:
        """Most samples that are encoded at once."""
        return HOP * _FRAME * self.max_frames

    def forward(self, wave: Float[Tensor, "B T"]) -> Int[Tensor, "B N"]:
        """Return codes of at most a window of samples, N = ceil(T / hop_length)."""
        latents = self.encode_frames(wave)
        distances = self.codebook.weight.square().sum(1) - 2 * latents @ self.codebook.weight.T
        return distances.argmin(-1)

    def encode_frames(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N D"]:
        """Return the frame of each code before it is quantized."""
        padded = F.pad(wave, (0, -wave.shape[1] % self.hop_length))
        x = F.gelu(self.conv1(self.log_mel(padded)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        allowed = self._allowed_keys(x.shape[1], wave.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, allowed)
        return F.avg_pool1d(x.transpose(1, 2), self.pool).transpose(1, 2)

    def _allowed_keys(
        self, num_frames: int, num_samples: int, device: torch.device
    ) -> Bool[Tensor, "N N"]:
        """Return whether a query may attend to a key: in no later block, begun by a sample."""
        frame = torch.arange(num_frames, device=device)
        block = frame // self.block_size
        has_sound = frame * (HOP * _FRAME) < num_samples
        return (block[:, None] >= block) & has_sound
