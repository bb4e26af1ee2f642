"""The forward process of a packed batch: masks, replacements and the weight of every loss."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.diffusion.noise import sample_t, split_complementary, uniform
from lightning_omni.diffusion.schedule import T_MIN, NoiseSchedule
from lightning_omni.errors import OmniError
from lightning_omni.modalities import modality_named
from lightning_omni.types import Batch, NoisyBatch
from lightning_omni.vocab import Vocab


def bernoulli_mask(
    u: Float[Tensor, " T"], maskable: Bool[Tensor, " T"], alpha_t: Float[Tensor, " T"]
) -> Bool[Tensor, " T"]:
    """Mask each maskable token independently with probability 1 - alpha_t.

    `alpha_t` must be constant within a segment. With one draw per token every mask ratio would be
    close to one half, and the all-masked canvas where sampling starts would never be trained.

    Args:
        u: Uniform noise in [0, 1).
        maskable: True for answer tokens; False for prompts and padding.
        alpha_t: Probability that a token is kept, in [0, 1].

    Source: MDLM, arXiv:2406.07524, section 3.1.
    """
    return (u >= alpha_t) & maskable


def fixed_count_mask(
    u: Float[Tensor, " T"],
    maskable: Bool[Tensor, " T"],
    ratio: Float[Tensor, " N"],
    segment: Int[Tensor, " T"],
) -> tuple[Bool[Tensor, " T"], Float[Tensor, " N"]]:
    """Mask exactly ceil(ratio * n) of the n maskable tokens of each segment, at least one.

    For uniform ratios the expected weighted loss equals that of independent masking, but the weight
    of a short answer is bounded by its length instead of by 1/t.

    Args:
        u: Uniform noise in [0, 1), which orders the tokens of a segment.
        maskable: True for answer tokens.
        ratio: Mask ratio of each segment, in (0, 1].
        segment: Segment of each token, non-decreasing where `maskable`.

    Returns:
        True where a token is masked, and the realised ratio of each segment (1 where empty).

    Source: LLaDA, arXiv:2502.09992, equation 6 (exact counts have lower variance).
    """
    num_segments = ratio.shape[0]
    count = torch.zeros(num_segments, dtype=torch.long, device=u.device)
    count.scatter_add_(0, segment, maskable.long())
    target = (ratio.double() * count).ceil().long().clamp(min=1)
    key = torch.where(maskable, segment.double() + u.double(), num_segments)
    order = key.argsort(stable=True)  # maskable tokens by segment and noise, then all others
    sorted_segment = segment[order]
    rank = torch.arange(len(order), device=u.device) - (count.cumsum(0) - count)[sorted_segment]
    is_chosen = (rank < target[sorted_segment]) & maskable[order]
    is_masked = torch.zeros_like(maskable).scatter_(0, order, is_chosen)
    realised = (target.minimum(count.clamp_min(1)) / count.clamp_min(1)).float()
    return is_masked, realised


def draw_replacements(
    x0: Int[Tensor, " T"], u: Float[Tensor, " T"], vocab: Vocab, *, codebooks: int
) -> Int[Tensor, " T"]:
    """Draw a random id for every token from its modality, in a frame from its codebook.

    Special tokens keep their ids.

    Args:
        x0: True ids.
        u: Uniform noise in [0, 1).
        vocab: Joint id space.
        codebooks: Speech codes per frame; the span concatenates the codebooks.

    Source: edit training of LLaDA 2.1, technical report.
    """
    out = x0.clone()
    for name in vocab.modalities:
        span, modality = vocab.span(name), modality_named(name)
        size = span.size // modality.frame_size({"codebooks": codebooks})
        inside = (x0 >= span.start) & (x0 < span.stop)
        level = (x0 - span.start) // size
        drawn = span.start + level * size + (u * size).long()
        out = torch.where(inside, drawn, out)
    return out


_PHASE, _TURN = -13, -5  # positions that no token has
_WITHIN = 1e-7  # difference of the noise of neighbours within a span
_TOKEN_TIMES, _REPLACED, _REPLACEMENT = 1_000_003, 2_000_003, 3_000_017  # streams beside the masks'


def mask_tokens(batch: Batch, is_masked: Bool[Tensor, " T"], *, mask_token_id: int) -> NoisyBatch:
    """Return a batch with these tokens masked, each with weight 1."""
    positions = is_masked.nonzero().squeeze(1)
    ones = torch.ones(len(positions), device=batch.ids.device)
    x_t = batch.ids.masked_fill(is_masked, mask_token_id)
    return NoisyBatch(x_t, positions, ones.bool(), ones, ones, num_losses=len(positions))


def loss_positions(
    has_loss: Bool[Tensor, " T"], *, multiple: int, at_most: int
) -> tuple[Int[Tensor, " M"], Bool[Tensor, " M"], int | None]:
    """Return the positions with a loss, padded to a multiple so that few shapes occur.

    On a CPU they are counted. The host would have to wait for another device, so there are as many
    of them as there are tokens that may have a loss.

    Args:
        has_loss: Whether a token has a loss.
        multiple: Multiple of the number of positions.
        at_most: Number of tokens that may have a loss.

    Returns:
        Ascending positions, of which surplus ones repeat the last; whether each is one with a loss;
        and the number of these, None if it was not counted.
    """
    count = int(has_loss.sum()) if has_loss.device.type == "cpu" else None
    size = -(-(at_most if count is None else count) // multiple) * multiple
    found = torch.nonzero_static(has_loss, size=size, fill_value=-1).squeeze(1)
    if not size:
        return found, found >= 0, count
    return torch.where(found >= 0, found, found.amax().clamp_min(0)), found >= 0, count


class ForwardProcess:
    """Draws x_t of whole batches; the noise depends on the seed and the sample index alone.

    Args:
        schedules: Noise schedule of each modality.
        masking: `bernoulli` masks tokens independently at the sample's ratio; `fixed_count` masks
            exactly that share of a sample's tokens, which bounds the loss weight.
        tail_pad_ratio: Tail pads are masked at this multiple of the sample's ratio (gamma).
        time_per: `segment` draws one time per sample. `token` draws one per token, as the reference
            release does: then about half of every answer is masked, always.
        weighting: `nelbo` weighs masks so that the loss is the NELBO; `none` weighs all alike.
        ratio_range: Range into which mask ratios are mapped linearly; weights are those of the
            NELBO within it. The full range is [0, 1]. In short trainings a lower end of 0.3 avoids
            the noise of large weights; fine-tuning for blocks uses the ratios of a block.
        spans: Length of the runs that are masked together, by modality, as a single speech frame is
            too easily predicted from its neighbours. Default for a modality: 1.
        replace_ratio: Share of the visible answer tokens that are replaced by random ones of their
            modality. Visible tokens then have a loss of weight 1 too, so that the network learns
            which of them are wrong.

    Source: MDLM, arXiv:2406.07524, algorithm 1; Omni-Diffusion, arXiv:2603.06577, section 3.2 (tail
    pads); MAGNeT, arXiv:2401.04577 (spans); LLaDA 2.1, technical report (replacement).
    """

    def __init__(
        self,
        schedules: dict[str, NoiseSchedule],
        masking: Literal["bernoulli", "fixed_count", "counted"] = "fixed_count",
        tail_pad_ratio: float = 1.0,
        time_per: Literal["segment", "token"] = "segment",
        weighting: Literal["nelbo", "none", "bound"] = "nelbo",
        ratio_range: tuple[float, float] = (0.0, 1.0),
        spans: dict[str, int] | None = None,
        replace_ratio: float = 0.0,
    ) -> None:
        check_within("tail_pad_ratio", tail_pad_ratio, 0, 1)
        check_within("replace_ratio", replace_ratio, 0, 1)
        low, high = ratio_range
        if not 0 <= low < high <= 1:
            raise OmniError(f"ratio_range is [{low}, {high}], wanted 0 <= low < high <= 1")
        for name, size in (spans or {}).items():
            check_within(f"spans.{name}", size, 1)
        if masking == "counted":  # old name
            masking = "fixed_count"
        if time_per == "token" and masking == "fixed_count":
            raise OmniError(
                "masks of fixed count need one time per segment; with time_per: token set "
                "masking: bernoulli"
            )
        self.schedules, self.masking, self.tail_pad_ratio = schedules, masking, tail_pad_ratio
        self.time_per, self.weighting = time_per, weighting
        self.low, self.high = low, high
        self.spans, self.replace_ratio = spans or {}, replace_ratio
        is_whole = (low, high) == (0, 1) and time_per == "segment" and not replace_ratio
        self.estimates_nelbo = is_whole and max(self.spans.values(), default=1) == 1

    def __call__(self, batch: Batch, vocab: Vocab, *, seed: int, multiple: int = 1) -> NoisyBatch:
        """Draw x_t of a batch.

        Args:
            batch: Packed sequences.
            vocab: Vocabulary of their ids.
            seed: Seed of all noise.
            multiple: Multiple to which the positions with a loss are padded; see `NoisyBatch`.
        """
        index, is_complementary = split_complementary(batch.sample_index)
        segment, modality = batch.segment_ids, batch.modality
        u = self._noise(index[segment], batch.positions, modality, vocab, seed)
        u = torch.where(is_complementary[segment], 1 - u, u)
        t_N = sample_t(seed, index)
        is_masked = torch.zeros_like(batch.is_answer)
        ratio, weight = (torch.zeros(len(u), device=u.device) for _ in range(2))
        for m, name in enumerate(vocab.modalities):
            own = batch.maskable & (modality == m)
            if self.masking == "fixed_count":
                ratio_N, weight_N = self._ratio_and_weight(name, t_N, is_complementary)
                chosen, realised = fixed_count_mask(u, batch.is_answer & own, ratio_N, segment)
                r, w = ratio_N[segment], (weight_N * ratio_N / realised)[segment]
            else:
                t = t_N[segment]
                if self.time_per == "token":
                    t = uniform(seed + _TOKEN_TIMES, index[segment], batch.positions).float()
                r, w = self._ratio_and_weight(name, t, is_complementary[segment])
                chosen = bernoulli_mask(u, batch.is_answer & own, 1 - r)
            is_masked |= chosen | (own & batch.is_tail_pad & (u < r * self.tail_pad_ratio))
            ratio, weight = torch.where(own, r, ratio), torch.where(own, w, weight)
        x_t, has_loss = batch.ids.masked_fill(is_masked, vocab.mask_token_id), is_masked
        if self.replace_ratio:
            visible = batch.is_answer & ~is_masked
            x_t = self._replace_tokens(x_t, visible, index[segment], batch, vocab, seed)
            has_loss = is_masked | visible
        positions, is_real, num_losses = loss_positions(
            has_loss, multiple=multiple, at_most=batch.num_maskable
        )
        masked = is_masked[positions] & is_real
        nelbo_weight = (weight[positions] * is_real).float() if self.estimates_nelbo else None
        weight = torch.where(masked, weight[positions], 1.0)
        if self.weighting == "none":
            weight = torch.ones_like(weight)
        return NoisyBatch(
            x_t,
            positions,
            masked,
            (weight * is_real).float(),
            ratio[positions].float(),
            nelbo_weight,
            num_losses,
        )

    def _replace_tokens(
        self,
        x_t: Tensor,
        visible: Tensor,
        index: Tensor,
        batch: Batch,
        vocab: Vocab,
        seed: int,
    ) -> Tensor:
        """Replace a share of the visible answer tokens by random ones, Int[T]."""
        choice, replacement = (
            uniform(seed + stream, index, batch.positions) for stream in (_REPLACED, _REPLACEMENT)
        )
        others = draw_replacements(batch.ids, replacement, vocab, codebooks=batch.codebooks)
        return torch.where(visible & (choice < self.replace_ratio), others, x_t)

    def _noise(
        self, index: Tensor, position: Tensor, modality: Tensor, vocab: Vocab, seed: int
    ) -> Tensor:
        """Return uniform noise that orders tokens, equal within a span, Float[T].

        A count of masks may end within a span. There the noise differs slightly, so that a span is
        entered from either end with equal probability, and by the complementary mask from the
        other.
        """
        within = torch.zeros(len(position), device=position.device, dtype=torch.float64)
        for name, size in self.spans.items():
            phase = (uniform(seed, index, torch.full_like(index, _PHASE)) * size).long()
            is_turned = uniform(seed, index, torch.full_like(index, _TURN)) < 0.5
            is_own = modality == vocab.modalities.index(name)
            offset = (position + phase) % size
            offset = torch.where(is_turned, offset, size - 1 - offset)
            within = torch.where(is_own, offset.double(), within)
            position = torch.where(is_own, (position + phase) // size, position)
        u = uniform(seed, index, position)
        return u * (1 - _WITHIN * within) if self.masking == "fixed_count" else u

    def _ratio_and_weight(
        self, modality: str, t: Tensor, is_complementary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mask ratios at times, and the weights that make the loss the NELBO.

        The NELBO is the integral of L(r) / r over ratios r. A ratio of density p(r) has the weight
        1 / (p(r) r), so a range of ratios, or a complementary mask, changes nothing but r.
        """
        schedule = self.schedules[modality]
        full = 1 - schedule.alpha(t)
        ratio = self.low + (self.high - self.low) * full
        ratio = torch.where(is_complementary, 1 - ratio, ratio)
        return ratio, schedule.weight(t) * full / ratio.clamp_min(T_MIN)
