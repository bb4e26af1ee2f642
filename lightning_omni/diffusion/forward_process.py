"""The forward process of a packed batch: masks, replacements and the weight of every loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.diffusion.noise import sample_t, split_visits, uniform
from lightning_omni.diffusion.schedule import T_MIN, NoiseSchedule
from lightning_omni.errors import OmniError, check_within
from lightning_omni.types import Batch
from lightning_omni.vocab import Vocab


def bernoulli_mask(
    u: Float[Tensor, " T"], maskable: Bool[Tensor, " T"], alpha_t: Float[Tensor, " T"]
) -> Bool[Tensor, " T"]:
    """Mask each maskable token on its own with probability 1 - alpha_t.

    `alpha_t` must be constant within a segment. With one draw per token every mask ratio would be
    close to one half, and the all-masked canvas where sampling starts would never be trained.

    Args:
        u: Uniform noise in [0, 1).
        maskable: True for answer tokens; False for prompts and padding.
        alpha_t: Keep-probability of each token, in [0, 1].

    Source: MDLM, arXiv:2406.07524, section 3.1.
    """
    return (u >= alpha_t) & maskable


def counted_mask(
    u: Float[Tensor, " T"],
    maskable: Bool[Tensor, " T"],
    ratio: Float[Tensor, " G"],
    group: Int[Tensor, " T"],
) -> tuple[Bool[Tensor, " T"], Float[Tensor, " G"]]:
    """Mask exactly ceil(ratio * n) of the n maskable tokens of each group, at least one.

    For uniform ratios this has the same expected weighted loss as independent masking, but the
    weight of a short answer is bounded by its length instead of by 1/t.

    Args:
        u: Uniform noise in [0, 1), which orders the tokens of a group.
        maskable: True for answer tokens.
        ratio: Wanted share of masks per group, in (0, 1].
        group: Group of each token, non-decreasing where `maskable`.

    Returns:
        True where a token is masked, and the realised ratio of each group (1 where empty).

    Source: LLaDA, arXiv:2502.09992, equation 6 (exact counts have lower variance).
    """
    num_groups = ratio.shape[0]
    where = maskable.nonzero().squeeze(1)
    member = group[where]
    count = torch.zeros(num_groups, dtype=torch.long, device=u.device)
    count.scatter_add_(0, member, torch.ones_like(member))
    target = (ratio.double() * count).ceil().long().clamp(min=1)
    order = (member.double() + u[where].double()).argsort(stable=True)
    first = count.cumsum(0) - count
    sorted_member = member[order]
    rank = torch.arange(len(order), device=u.device) - first[sorted_member]
    is_masked = torch.zeros_like(maskable)
    is_masked[where[order[rank < target[sorted_member]]]] = True
    realised = (target.minimum(count.clamp_min(1)) / count.clamp_min(1)).float()
    return is_masked, realised


def replaced_ids(
    x0: Int[Tensor, " T"], u: Float[Tensor, " T"], vocab: Vocab, *, codebooks: int
) -> Int[Tensor, " T"]:
    """Draw a random id of the same modality, and for speech of the same codebook, for every token.

    Special tokens stay as they are.

    Args:
        x0: True ids.
        u: Uniform noise in [0, 1).
        vocab: The id space.
        codebooks: Speech codes per frame; the span holds one codebook behind another.

    Source: edit training of LLaDA 2.1, technical report.
    """
    out = x0.clone()
    for name in vocab.modalities:
        span = vocab.span(name)
        size = span.size // (codebooks if name == "speech" else 1)
        inside = (x0 >= span.start) & (x0 < span.stop)
        level = (x0 - span.start) // size
        drawn = span.start + level * size + (u * size).long()
        out = torch.where(inside, drawn, out)
    return out


_PHASE, _TURN = -13, -5  # places that no token has
_WITHIN = 1e-7  # by how much noise differs within a span
_TOKEN_TIMES, _REPLACED, _REPLACEMENT = 1_000_003, 2_000_003, 3_000_017  # streams beside the masks'


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A batch after the forward process, flat over its T = B * L tokens.

    Attributes:
        x_t: Ids with masks, Int[T].
        places: Positions that have a loss, Int[M].
        is_mask: Whether each of them is masked; the others are visible and may be wrong, Bool[M].
        weight: Loss weight of each, Float[M].
        ratio: Mask ratio of each one's sample and modality, Float[M].
    """

    x_t: Tensor
    places: Tensor
    is_mask: Tensor
    weight: Tensor
    ratio: Tensor


class ForwardProcess:
    """Draws x_t of whole batches; noise depends on a sample's visit alone.

    Args:
        schedules: Noise schedule of each modality.
        masking: `bernoulli` masks tokens independently at the sample's ratio; `counted` masks
            exactly that share of a sample's tokens, which bounds the loss weight.
        tail_pad_ratio: Tail pads are masked at this multiple of the sample's ratio (gamma).
        time_per: `segment` draws one time for a sample. `token` draws one for every token, as the
            reference release does: then about half of every answer is masked, always.
        weighting: `bound` weighs masks so that the loss bounds -log p; `none` weighs all alike.
        ratio_range: Mask ratios are squeezed into this range; weights are those of the bound within
            it. The full range is [0, 1]. In short trainings a lower end of 0.3 spares the noise
            of large weights; for fine-tuning blocks it is their ratio.
        spans: Positions that are masked together, by modality; a lone speech frame is too easily
            guessed from its neighbours. Those not named are masked one by one.
        replace_ratio: Share of the visible answer tokens that are replaced by random ones of their
            modality. Visible tokens then have a loss too, of weight 1, so that the network learns
            which are wrong, as editing samplers need.

    Source: MDLM, arXiv:2406.07524, algorithm 1; Omni-Diffusion, arXiv:2603.06577, section 3.2 (tail
    pads); MAGNeT, arXiv:2401.04577 (spans); LLaDA 2.1, technical report (replacement).
    """

    def __init__(
        self,
        schedules: dict[str, NoiseSchedule],
        masking: Literal["bernoulli", "counted"] = "counted",
        tail_pad_ratio: float = 1.0,
        time_per: Literal["segment", "token"] = "segment",
        weighting: Literal["bound", "none"] = "bound",
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
        if time_per == "token" and masking == "counted":
            raise OmniError(
                "counted masking needs one time per segment; with time_per: token set "
                "masking: bernoulli"
            )
        self.schedules, self.masking, self.tail_pad_ratio = schedules, masking, tail_pad_ratio
        self.time_per, self.weighting = time_per, weighting
        self.low, self.high = low, high
        self.spans, self.replace_ratio = spans or {}, replace_ratio

    def corrupt(self, batch: Batch, vocab: Vocab, *, seed: int, codebooks: int = 1) -> Corrupted:
        """Draw x_t of a batch.

        Args:
            batch: Packed rows.
            vocab: Its ids.
            seed: Of all noise.
            codebooks: Speech codes per frame; a code is replaced by one of its own codebook.
        """
        segment, position = batch.segment_ids.flatten(), batch.position()
        x0, maskable = batch.ids.flatten(), batch.maskable.flatten()
        pads, modality = batch.is_tail_pad.flatten(), batch.modality.flatten()
        visits, is_complement = split_visits(batch.visits)
        u = self._noise(visits[segment], position, modality, vocab, seed)
        u = torch.where(is_complement[segment], 1 - u, u)
        t_N = sample_t(seed, visits)
        core = maskable & ~pads
        is_masked = torch.zeros_like(core)
        ratio, weight = (torch.zeros(len(x0), device=x0.device) for _ in range(2))
        for m, name in enumerate(vocab.modalities):
            own = maskable & (modality == m)
            if self.masking == "counted":
                ratio_N, weight_N = self._ratio_and_weight(name, t_N, is_complement)
                chosen, realised = counted_mask(u, core & own, ratio_N, segment)
                r, w = ratio_N[segment], (weight_N * ratio_N / realised)[segment]
            else:
                t = t_N[segment]
                if self.time_per == "token":
                    t = uniform(seed + _TOKEN_TIMES, visits[segment], position).float()
                r, w = self._ratio_and_weight(name, t, is_complement[segment])
                chosen = bernoulli_mask(u, core & own, 1 - r)
            is_masked |= chosen | (own & pads & (u < r * self.tail_pad_ratio))
            ratio, weight = torch.where(own, r, ratio), torch.where(own, w, weight)
        x_t = x0.masked_fill(is_masked, vocab.mask_token_id)
        places = is_masked.nonzero().squeeze(1)
        if self.replace_ratio:
            visible = core & ~is_masked
            drawn = [
                uniform(seed + stream, visits[segment], position)
                for stream in (_REPLACED, _REPLACEMENT)
            ]
            is_replaced = visible & (drawn[0] < self.replace_ratio)
            others = replaced_ids(x0, drawn[1], vocab, codebooks=codebooks)
            x_t = torch.where(is_replaced, others, x_t)
            places = (is_masked | visible).nonzero().squeeze(1)
        is_mask = is_masked[places]
        weight = torch.where(is_mask, weight[places], 1.0)
        if self.weighting == "none":
            weight = torch.ones_like(weight)
        return Corrupted(x_t, places, is_mask, weight.float(), ratio[places].float())

    def _noise(
        self, visit: Tensor, position: Tensor, modality: Tensor, vocab: Vocab, seed: int
    ) -> Tensor:
        """Uniform noise that orders tokens, equal within a span, Float[T].

        Counts may end within a span. There it differs a little, so that the span is begun at either
        end alike, and by the complement at the other.
        """
        within = torch.zeros(len(position), device=position.device, dtype=torch.float64)
        for name, size in self.spans.items():
            phase = (uniform(seed, visit, torch.full_like(visit, _PHASE)) * size).long()
            is_turned = uniform(seed, visit, torch.full_like(visit, _TURN)) < 0.5
            is_own = modality == vocab.modalities.index(name)
            offset = (position + phase) % size
            offset = torch.where(is_turned, offset, size - 1 - offset)
            within = torch.where(is_own, offset.double(), within)
            position = torch.where(is_own, (position + phase) // size, position)
        u = uniform(seed, visit, position)
        return u * (1 - _WITHIN * within) if self.masking == "counted" else u

    def _ratio_and_weight(
        self, modality: str, t: Tensor, is_complement: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask ratios at times, and the weights that make the loss a bound.

        The bound is the integral of L(r) / r over ratios r. A ratio with density p(r) weighs
        1 / (p(r) r); so squeezing ratios, or taking what is left of them, only changes r.
        """
        schedule = self.schedules[modality]
        full = 1 - schedule.alpha(t)
        ratio = self.low + (self.high - self.low) * full
        ratio = torch.where(is_complement, 1 - ratio, ratio)
        return ratio, schedule.weight(t) * full / ratio.clamp_min(T_MIN)
