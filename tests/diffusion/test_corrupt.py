import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.diffusion.forward_process import bernoulli_mask, fixed_count_mask
from lightning_omni.diffusion.noise import uniform


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0.001, 1)), min_size=1, max_size=6
    )
)
def test_fixed_count_masking_masks_the_rounded_up_share_of_each_group(groups):
    maskable = torch.tensor(
        [b for m, n, _ in groups for b in [True] * m + [False] * n], dtype=torch.bool
    )
    group = torch.tensor([g for g, (m, n, _) in enumerate(groups) for _ in range(m + n)]).long()
    ratio = torch.tensor([r for _, _, r in groups])
    u = uniform(0, torch.zeros_like(group), torch.arange(len(group)))
    is_masked, realised = fixed_count_mask(u, maskable, ratio, group)
    assert not (is_masked & ~maskable).any()
    for g, (m, _, _) in enumerate(groups):
        want = max(1, int(torch.ceil(ratio[g].double() * m).item())) if m else 0
        assert int(is_masked[group == g].sum()) == want
        if m:
            assert abs(realised[g].item() - want / m) < 1e-6


def test_every_token_of_a_group_is_masked_equally_often():
    group, maskable = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    hits = torch.zeros(4)
    for visit in range(4000):
        u = uniform(1, torch.full((4,), visit), torch.arange(4))
        hits += fixed_count_mask(u, maskable, torch.tensor([0.5]), group)[0]
    torch.testing.assert_close(hits / 4000, torch.full((4,), 0.5), atol=0.03, rtol=0)


def test_bernoulli_masking_keeps_prompts_and_hits_the_ratio(rng):
    maskable = torch.arange(20000) % 2 == 0
    is_masked = bernoulli_mask(
        torch.rand(20000, generator=rng), maskable, torch.full((20000,), 0.7)
    )
    assert not is_masked[~maskable].any()
    assert abs(is_masked[maskable].float().mean() - 0.3) < 0.02
