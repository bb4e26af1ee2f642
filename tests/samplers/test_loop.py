"""Laws every sampler must keep, tried on a toy denoiser."""

from dataclasses import replace

import pytest
import torch
from every_sampler import GREEDY, SAMPLERS, name

from lightning_omni.samplers.canvas import Canvas, Scores, split_into_blocks
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.entropy_penalty import EntropyPenalty
from lightning_omni.samplers.klass import KLASS
from lightning_omni.samplers.loop import _step_times, sample
from lightning_omni.samplers.margin import Margin
from lightning_omni.samplers.noise import Noise
from lightning_omni.samplers.threshold import Threshold

MASK, VOCAB = 20, 21
SEEDS = torch.tensor([7, 8, 9])


def toy_denoiser(lengths):
    """Logits from the tokens of the position's own sample only, so batches must not matter."""
    weights = torch.randn(64, VOCAB, VOCAB, generator=torch.Generator().manual_seed(3))
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    index = torch.cat([torch.arange(n) for n in lengths])

    def denoise(ids, _):
        counts = torch.zeros(len(lengths), VOCAB).index_put_(
            (segment, ids), torch.ones(len(ids)), accumulate=True
        )
        logits = torch.einsum("tv,tvw->tw", counts[segment], weights[index])
        return lambda where, allowed: logits[where][:, allowed]

    return denoise


def canvas_of(prompts, blocks, steps):
    """Samples `[prompt] + [block]`; odd positions of blocks may hold 0..9, even ones 10..19."""
    ids, block, row = [], [], []
    for prompt, size in zip(prompts, blocks, strict=True):
        ids += [*prompt, *[MASK] * size]
        block += [*[-1] * len(prompt), *[0] * size]
        row += [*[-1] * len(prompt), *[(len(prompt) + i) % 2 for i in range(size)]]
    lengths = [len(p) + n for p, n in zip(prompts, blocks, strict=True)]
    sample = torch.arange(len(prompts)).repeat_interleave(torch.tensor(lengths))
    allowed = (torch.arange(10, 20), torch.arange(10))
    return lengths, Canvas(
        torch.tensor(ids),
        sample,
        torch.tensor(block),
        torch.tensor(row),
        allowed,
        torch.tensor(steps)[:, None],
        MASK,
    )


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_every_hole_is_filled_within_its_grammar_and_prompts_stay(sampler, steps):
    lengths, canvas = canvas_of([[1, 2], [5]], [9, 4], [steps, steps])
    ids = sample(toy_denoiser(lengths), canvas, sampler, seeds=SEEDS[: len(lengths)])
    given = canvas.block < 0
    assert (ids != MASK).all()
    assert torch.equal(ids[given], canvas.ids[given])
    for row, allowed in enumerate(canvas.allowed):
        assert torch.isin(ids[canvas.allowed_set == row], allowed).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_the_same_seed_gives_the_same_tokens(sampler):
    lengths, canvas = canvas_of([[1, 2]], [9], [4])
    runs = [
        sample(toy_denoiser(lengths), canvas, sampler, seeds=torch.tensor([5])) for _ in range(2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("block_size", [12, 3])
def test_a_sample_alone_and_in_a_batch_gives_the_same_tokens_in_the_same_steps(sampler, block_size):
    prompts, blocks, steps = [[1, 2], [5], [7, 7, 7]], [9, 4, 12], [9, 2, 5]

    def filled(chosen):
        lengths, canvas = canvas_of(*([own[n] for n in chosen] for own in (prompts, blocks, steps)))
        denoise, calls = counted(toy_denoiser(lengths))
        events = []
        ids = sample(
            denoise,
            split_into_blocks(canvas, block_size),
            sampler,
            seeds=SEEDS[chosen],
            on_step=events.append,
        )
        passes = torch.stack([event.is_active for event in events]).sum(0).tolist()
        return ids.split(lengths), events[-1].steps.tolist(), passes, len(calls)

    together, steps_taken, passes, _ = filled([0, 1, 2])
    for n in range(3):
        (alone,), (own_steps,), (own_passes,), calls = filled([n])
        assert torch.equal(alone, together[n])
        assert steps_taken[n] == own_steps
        assert passes[n] == own_passes == calls


@pytest.mark.parametrize(
    ("tokens", "steps", "want"),
    [
        (50, 25, [1] + [2] * 23 + [3]),
        (260, 260, [1] * 260),
        (260, 10, [25] + [26] * 8 + [27]),
    ],
)
def test_commits_per_step_follow_the_released_schedule(tokens, steps, want):
    left, commits = tokens, []
    for step in range(steps):
        times = _step_times(step, torch.tensor([steps]), 1.0, torch.tensor([left]))
        commits.append(int(Confidence().num_scheduled(times)))
        left -= commits[-1]
    assert left == 0
    assert commits == want


def test_one_hole_is_finished_before_the_next_is_begun():
    lengths, canvas = canvas_of([[1]], [6], [3])
    block = torch.tensor([-1, 0, 0, 0, 1, 1, 1])
    canvas = Canvas(
        canvas.ids,
        canvas.sample,
        block,
        canvas.allowed_set,
        canvas.allowed,
        torch.tensor([[3, 3]]),
        MASK,
    )
    seen = []
    sample(
        toy_denoiser(lengths),
        canvas,
        Confidence(),
        seeds=SEEDS[:1],
        on_step=lambda event: seen.append(event.ids),
    )
    begun_second = [bool((ids[4:] != MASK).any()) for ids in seen]
    done_first = [bool((ids[1:4] != MASK).all()) for ids in seen]
    assert all(done for begun, done in zip(begun_second, done_first, strict=True) if begun)
    assert len(seen) == 6


def test_the_position_penalty_factor_rises_from_one_after_the_free_positions():
    rank = torch.tensor([0, 99, 100, 180, 259])
    scores = Scores(
        rank, torch.arange(3), torch.zeros(5, 3), rank, torch.full((5,), 260), torch.zeros(5)
    )
    factor = EntropyPenalty(position_penalty=2.0)._position_factor(scores)
    torch.testing.assert_close(factor, torch.tensor([1.0, 1.0, 1.0, 1.5, 1.99375]))


def counted(denoise):
    """A denoiser that counts its forwards, and the list of counts."""
    calls = []

    def run(ids, places):
        calls.append(1)
        return denoise(ids, places)

    return run, calls


def sure_of(positions):
    """A denoiser that is certain at some places and knows nothing at others."""

    def denoise(ids, _):
        def logits_at(where, allowed):
            logits = torch.zeros(len(where), len(allowed))
            logits[torch.isin(where, torch.tensor(positions)), 0] = 50.0
            return logits

        return logits_at

    return denoise


@pytest.mark.parametrize(("sure", "forwards"), [(range(2, 11), 1), (range(2, 8), 4), ((), 9)])
def test_what_is_sure_enough_is_committed_at_once_and_filling_ends_early(sure, forwards):
    _, canvas = canvas_of([[1, 2]], [9], [9])
    denoise, calls = counted(sure_of(list(sure)))
    ids = sample(denoise, canvas, Threshold(0.9), seeds=SEEDS[:1])
    assert len(calls) == forwards
    assert (ids != MASK).all()


def test_the_schedule_bounds_the_forwards_where_nothing_is_sure():
    _, canvas = canvas_of([[1, 2]], [9], [3])
    denoise, calls = counted(sure_of([]))
    sample(denoise, canvas, Threshold(0.9), seeds=SEEDS[:1])
    assert len(calls) == 3


def test_margin_prefers_a_clear_lead_to_a_large_share():
    probability = torch.tensor([[0.48, 0.47, 0.05], [0.4, 0.3, 0.3], [0.45, 0.2, 0.35]])
    where = torch.arange(3)
    scores = Scores(
        where, torch.arange(3), probability.log(), where, torch.full((3,), 3), torch.zeros(3)
    )
    _, canvas = canvas_of([[1]], [3], [3])
    noise = Noise.for_samples(SEEDS[:1], canvas.sample)
    token, confidence = Margin().propose(canvas, scores, noise=noise)
    assert token.tolist() == [0, 0, 0]
    torch.testing.assert_close(confidence, torch.tensor([0.01, 0.1, 0.1]))


@pytest.mark.parametrize("sampler", GREEDY, ids=name)
def test_at_temperature_zero_the_seed_does_not_matter(sampler):
    lengths, canvas = canvas_of([[1, 2]], [9], [4])
    runs = [
        sample(toy_denoiser(lengths), canvas, sampler, seeds=torch.tensor([seed]))
        for seed in (1, 2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_tokens_given_within_a_hole_stay(sampler):
    lengths, canvas = canvas_of([[1, 2]], [9], [4])
    given = torch.tensor([3, 6, 10])
    canvas.ids[given] = torch.tensor([4, 15, 17])
    ids = sample(toy_denoiser(lengths), canvas, sampler, seeds=SEEDS[:1])
    assert ids[given].tolist() == [4, 15, 17]
    assert (ids != MASK).all()


def scripted(*steps):
    """A denoiser that says, at each forward, which id every place is and how sure that is."""
    script = iter(steps)

    def denoise(ids, _):
        said = next(script)

        def logits_at(where, allowed):
            p = torch.full((len(ids), len(allowed)), 1e-6)
            for place, (token, probability) in enumerate(said):
                p[place] = (1 - probability) / (len(allowed) - 1)
                p[place, token] = probability
            return p[where].log()

        return logits_at

    return denoise


def plain_canvas(size, steps):
    zeros = torch.zeros(size, dtype=torch.long)
    ids = torch.full((size,), MASK)
    return Canvas(ids, zeros, zeros, zeros, (torch.arange(10),), torch.tensor([[steps]]), MASK)


def test_klass_waits_for_a_distribution_that_still_moves():
    denoise = scripted(
        [(1, 0.96), (2, 0.95), (3, 0.95), (4, 0.5)],  # nothing is known to have settled: one
        [(1, 0.95), (2, 0.95), (5, 0.95), (4, 0.5)],  # 1 has, 2 has changed its mind
        [(1, 0.95), (2, 0.95), (5, 0.95), (4, 0.5)],
        [(1, 0.95), (2, 0.95), (5, 0.95), (4, 0.5)],
    )
    events = []
    ids = sample(
        denoise, plain_canvas(4, 4), KLASS(0.9, 0.01), seeds=SEEDS[:1], on_step=events.append
    )
    assert [e.positions.tolist() for e in events] == [[0], [1], [2], [3]]
    assert ids.tolist() == [1, 2, 5, 4]


def test_klass_commits_all_that_has_settled():
    still = [(1, 0.95), (2, 0.95), (3, 0.95), (4, 0.95)]
    events = []
    sample(
        scripted(still, still),
        plain_canvas(4, 4),
        KLASS(0.9, 0.01),
        seeds=SEEDS[:1],
        on_step=events.append,
    )
    assert [len(e.positions) for e in events] == [1, 3]


def test_a_shift_below_one_commits_early_and_above_one_late():
    def commits(shift):
        canvas = replace(plain_canvas(60, 6), timestep_shift=torch.tensor([[shift]]))
        events = []
        sample(sure_of([]), canvas, Confidence(), seeds=SEEDS[:1], on_step=events.append)
        return [len(e.positions) for e in events]

    early, even, late = (commits(shift) for shift in (1 / 3, 1.0, 3.0))
    assert sum(early) == sum(even) == sum(late) == 60
    assert even == [9, 10, 10, 10, 10, 11]
    assert early[0] > 20 > even[0] > late[0]
    assert early[-1] < 6 < 20 < late[-1]


def test_what_lies_behind_an_end_takes_no_steps():
    end, pad = 9, 8
    denoise = scripted(*[[(1, 0.5), (2, 0.6), (end, 0.9), (3, 0.7), (4, 0.8)]] * 5)
    canvas = replace(plain_canvas(5, 5), ends=(end, pad), pad_token_id=pad)
    events = []
    ids = sample(denoise, canvas, Confidence(), seeds=SEEDS[:1], on_step=events.append)
    assert ids.tolist() == [1, 2, end, pad, pad]
    assert [e.positions.tolist() for e in events] == [[2, 3, 4], [1], [0]]


def test_an_end_in_one_sample_does_not_end_another():
    end, pad = 9, 8
    canvas = replace(
        plain_canvas(4, 2),
        sample=torch.tensor([0, 0, 1, 1]),
        num_steps=torch.tensor([[2], [2]]),
        ends=(end, pad),
        pad_token_id=pad,
    )
    denoise = scripted(*[[(end, 0.9), (2, 0.6), (3, 0.5), (4, 0.8)]] * 2)
    ids = sample(denoise, canvas, Confidence(), seeds=SEEDS[:2])
    assert ids.tolist() == [end, pad, 3, 4]


class KeepsHalf(Confidence):
    """A schedule that would leave half of a block masked."""

    def mask_ratio(self, t):
        return 0.5 + 0.5 * t


def test_whatever_the_schedule_says_the_last_step_leaves_no_mask():
    canvas = plain_canvas(20, 4)
    ids = sample(sure_of([]), canvas, KeepsHalf(), seeds=SEEDS[:1])
    assert (ids != MASK).all()
