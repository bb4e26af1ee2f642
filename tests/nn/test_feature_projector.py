"""Continuous features replace the embeddings of their own tokens and of no others."""

import pytest
import torch
from small_models import SMALL

from lightning_omni.errors import OmniError
from lightning_omni.nn.feature_projector import FeatureProjector
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.types import ContinuousFeatures

LENGTHS = [7, 5, 9]
POSITIONS = torch.tensor([2, 3, 13, 14, 15])
"""Two in the first segment, none in the second, three in the third."""


def network(continuous_dim=6, **changes):
    torch.manual_seed(0)
    return Transformer(50, [], **{**SMALL, **changes}, continuous_dim=continuous_dim)


def features(seed=0, width=6):
    return torch.randn(len(POSITIONS), width, generator=torch.Generator().manual_seed(seed))


def run(model, given, ids=None):
    ids = torch.arange(sum(LENGTHS)) % 50 if ids is None else ids
    index = torch.cat([torch.arange(n) for n in LENGTHS])
    position_ids = torch.stack((index, index * 0, index * 0), dim=1)
    layout = SegmentLayout.from_lengths(LENGTHS, device="cpu")
    return model(ids, position_ids, layout, continuous=given)


def test_the_released_projector_has_the_published_size():
    with torch.device("meta"):
        projector = FeatureProjector(512, 3584)
    assert sum(p.numel() for p in projector.parameters()) == 14_681_088


def test_a_model_of_tokens_alone_has_no_weight_of_it_and_the_same_bits():
    plain, with_projector = network(None), network()
    own, more = plain.state_dict(), with_projector.state_dict()
    assert {k for k in more if k not in own} == {k for k in more if "feature_projector" in k}
    assert all(torch.equal(own[k], more[k]) for k in own)
    assert torch.equal(run(plain, None), run(with_projector, None))


@torch.no_grad()
def test_only_the_positions_of_features_are_overwritten():
    model = network()
    embedded = torch.randn(sum(LENGTHS), SMALL["dim"])
    out = model.feature_projector.overwrite(embedded, ContinuousFeatures(POSITIONS, features()))
    kept = torch.ones(len(embedded), dtype=torch.bool)
    kept[POSITIONS] = False
    assert torch.equal(out[kept], embedded[kept])
    assert torch.equal(out[POSITIONS], model.feature_projector(features()))


@torch.no_grad()
def test_the_token_under_a_feature_does_not_count():
    model, given = network(), ContinuousFeatures(POSITIONS, features())
    ids = torch.arange(sum(LENGTHS)) % 50
    other = ids.clone()
    other[POSITIONS] = 49
    assert torch.equal(run(model, given, ids), run(model, given, other))


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 2])
def test_a_feature_changes_its_own_segment_and_no_other(changed):
    model, first = network(), features()
    segment = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    second = torch.where((segment[POSITIONS] == changed)[:, None], features(1), first)
    before, after = (run(model, ContinuousFeatures(POSITIONS, f)) for f in (first, second))
    same = (before == after).all(1)
    assert same[segment != changed].all()
    assert not same[segment == changed].any()


@pytest.mark.parametrize("recomputes", [False, True])
def test_gradients_reach_the_projector_and_are_zero_where_there_is_no_speech(recomputes):
    model = network()
    if recomputes:
        model.recompute_activations()
    for given, is_zero in ((ContinuousFeatures(POSITIONS, features()), False), (None, True)):
        model.zero_grad()
        run(model, given).square().sum().backward()
        for parameter in model.feature_projector.parameters():
            assert parameter.grad is not None
            assert (parameter.grad == 0).all() == is_zero


def test_half_precision_features_are_taken_as_they_are():
    model = network()
    half = features().half()
    whole = run(model, ContinuousFeatures(POSITIONS, half.float()))
    assert torch.equal(run(model, ContinuousFeatures(POSITIONS, half)), whole)


def test_features_without_a_projector_or_of_another_width_are_refused():
    with pytest.raises(OmniError, match="set continuous_dim: 6"):
        run(network(None), ContinuousFeatures(POSITIONS, features()))
    with pytest.raises(OmniError, match="have 5 dimensions but the backbone's projector takes 6"):
        run(network(), ContinuousFeatures(POSITIONS, features(width=5)))


def test_features_among_some_positions_are_those_at_the_same_tokens(rng):
    everywhere = torch.randn(12, 3, generator=rng)
    given = ContinuousFeatures(torch.tensor([1, 2, 5, 9]), everywhere[[1, 2, 5, 9]])
    positions = torch.tensor([0, 2, 4, 5, 11])
    found = given.at_positions(positions)
    assert positions[found.positions].tolist() == [2, 5]
    assert torch.equal(found.features, everywhere[positions[found.positions]])
    assert len(given.at_positions(torch.tensor([0, 3])).positions) == 0
