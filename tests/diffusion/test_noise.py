import pytest
import torch

from lightning_omni.diffusion.noise import sample_t, spread_stride, uniform


def test_noise_is_uniform_in_mean_and_variance():
    u = uniform(3, torch.zeros(20000).long(), torch.arange(20000))
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(u.var() - 1 / 12) < 0.005
    assert u.min() >= 0
    assert u.max() < 1


def test_noise_depends_on_seed_visit_and_position_and_nothing_else():
    visit, position = torch.tensor([5, 9]), torch.tensor([0, 7])
    u = uniform(1, visit, position)
    torch.testing.assert_close(uniform(1, visit.flip(0), position.flip(0)), u.flip(0))
    assert (uniform(2, visit, position) != u).all()


def test_neighbouring_visits_are_uncorrelated():
    first = uniform(0, torch.arange(5000), torch.zeros(5000).long())
    second = uniform(0, torch.arange(1, 5001), torch.zeros(5000).long())
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 0.05


def test_times_cover_the_unit_interval_evenly_over_any_run_of_visits():
    for start in (0, 12345):
        t = sample_t(956, torch.arange(start, start + 100))
        counts = torch.histc(t, bins=10, min=0, max=1)
        assert counts.min() >= 8
        assert counts.max() <= 12


def test_ranks_that_split_the_visits_draw_the_times_of_one_process():
    together = sample_t(1, torch.arange(8))
    torch.testing.assert_close(sample_t(1, torch.arange(0, 8, 2)), together[::2])


@pytest.mark.parametrize("lanes", [1, 8, 48, 64, 128])
@pytest.mark.parametrize("batches", [1, 2, 8, 32])
def test_times_of_a_global_batch_are_even_where_lanes_have_drifted_apart(lanes, batches):
    """The mean of a step's times varies less than that of as many independent ones."""
    own, steps, stride = 4, 2000, spread_stride(lanes)
    assert lanes <= stride
    rng = torch.Generator().manual_seed(0)
    shared = torch.randint(0, 10_000, (steps, 1, 1), generator=rng)
    ahead = torch.randint(0, 30, (steps, batches, 1), generator=rng)
    if batches > lanes:
        pytest.skip("a step has a batch of each lane at most")
    first = torch.randint(0, lanes - batches + 1, (steps, 1, 1), generator=rng)
    numbers = shared + ahead + torch.arange(own)
    mean = sample_t(1, (numbers * stride + first + torch.arange(batches)[:, None]).flatten())
    mean = mean.view(steps, -1).double().mean(1)
    assert (mean - 0.5).square().mean() < 0.8 / (12 * own * batches)
