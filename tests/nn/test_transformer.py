import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.nn.rotary import RotaryAngles
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer


def tiny(code_spans=()) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        50,
        list(code_spans),
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        ffn_dim=48,
        rope_theta=1e4,
        rope_sections=[2, 1, 1],
        qkv_bias=True,
        qk_norm=True,
        tie_embeddings=False,
    )


def places(lengths):
    index = torch.cat([torch.arange(n) for n in lengths])
    return torch.stack((index, index // 3, index % 3), dim=1)


def test_packed_segments_get_the_logits_they_get_alone(rng):
    model, lengths = tiny([[40, 8, 3]]), [7, 1, 12]
    model.embedding.spans[0].load(torch.randn(8, 3, generator=rng))
    ids = torch.randint(0, 50, (20,), generator=rng)
    packed = model.logits(model(ids, places(lengths), SegmentLayout.of(lengths, device="cpu")))
    alone = [
        model.logits(model(part, places([len(part)]), SegmentLayout.of([len(part)], device="cpu")))
        for part in ids.split(lengths)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_every_position_sees_every_other_of_its_segment_in_both_directions(rng):
    model = tiny()
    vectors = model.embedding.embed(torch.randint(0, 50, (6,), generator=rng)).detach()
    vectors.requires_grad_()
    model.embedding.embed = lambda ids: vectors
    hidden = model(torch.zeros(6).long(), places([6]), SegmentLayout.of([6], device="cpu"))
    for position in (0, 5):
        (grad,) = torch.autograd.grad(hidden[position].sum(), vectors, retain_graph=True)
        assert (grad.abs().sum(1) > 0).all()


def test_logits_of_a_subset_are_columns_of_all_logits(rng):
    model = tiny([[40, 8, 3]])
    model.embedding.spans[0].load(torch.randn(8, 3, generator=rng))
    hidden = torch.randn(5, 32, generator=rng)
    ids = torch.tensor([3, 39, 41, 47, 48])
    torch.testing.assert_close(model.logits(hidden, ids), model.logits(hidden)[:, ids])


def test_codes_without_features_behave_like_a_plain_embedding():
    embedding = tiny([[40, 8, 3]]).embedding
    ids = torch.arange(50)
    torch.testing.assert_close(embedding.embed(ids), embedding.tokens(ids))


def test_grid_places_change_what_a_token_attends_to(rng):
    model = tiny()
    ids = torch.randint(0, 50, (9,), generator=rng)
    layout = SegmentLayout.of([9], device="cpu")
    flat = places([9]).clone()
    flat[:, 1:] = 0
    assert (model(ids, places([9]), layout) - model(ids, flat, layout)).abs().max() > 1e-4


def test_rope_sections_must_sum_to_half_the_head():
    with pytest.raises(OmniError, match="sum to half the head size, 8"):
        RotaryAngles(16, theta=1e4, sections=[4, 4, 4])


def test_a_saved_backbone_comes_back_equal(tmp_path):
    model = tiny([[40, 8, 3]])
    model.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path)
    for (name, a), (_, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
