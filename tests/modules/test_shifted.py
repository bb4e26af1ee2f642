"""A network whose output at i - 1 scores token i is one whose row i scores it, everywhere."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_models import QWEN_SHAPE, import_small_dream

from lightning_omni.data.make_template import make_template
from lightning_omni.data.packing import pack_stream
from lightning_omni.diffusion.forward_process import ForwardProcess, mask_tokens
from lightning_omni.diffusion.schedule import Linear
from lightning_omni.errors import OmniError
from lightning_omni.generation.denoiser import conditional_denoiser
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.interop import load_backbone
from lightning_omni.interop.command import import_checkpoint
from lightning_omni.interop.dream import read_config, transformer_args
from lightning_omni.interop.export import export_model
from lightning_omni.interop.family import read_family
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Batch, NoisyBatch, Part, Sample, Turn

DREAM = Path(__file__).parents[3] / "shared" / "parity" / "dream_tiny"
needs_reference = pytest.mark.skipif(not DREAM.is_dir(), reason="reference numbers are not here")
TEXT = TextTokenizer()
SIZES = {"text": TEXT.size, "speech": 32, "image": 64}
SAMPLE = Sample(
    "key",
    "tqa",
    (
        Turn("user", (Part("text", text="a cat"),)),
        Turn("assistant", (Part("text", text="a whale"),)),
    ),
)


def module(sizes=SIZES, special_tokens="released", **changes) -> MaskedDiffusionModule:
    torch.manual_seed(0)
    shape = {**QWEN_SHAPE, "right_shift_logits": True, **changes}
    return MaskedDiffusionModule(
        vocab=sizes,
        backbone=partial(Transformer, **shape),
        code_feature_dims={},
        forward_process=ForwardProcess({m: Linear() for m in sizes}, tail_pad_ratio=0.6),
        modality_weight=dict.fromkeys(sizes, 1.0),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        weight_decay=0.0,
        warmup_steps=1,
        total_steps=10,
        final_lr_share=0.1,
        noise_seed=1,
        special_tokens=special_tokens,
    )


def started_from(folder, model):
    load_initial_weights(model.backbone, folder, model.vocab, seed=1)
    return model.eval()


def batch_of(ids, positions) -> Batch:
    """A packed row, every token of it an answer."""
    starts = [*(positions == 0).nonzero().squeeze(1).tolist(), len(ids)]
    lengths = torch.tensor([b - a for a, b in pairwise(starts)])
    every = torch.ones_like(ids, dtype=torch.bool)
    return Batch(
        ids=ids,
        position_ids=torch.stack((positions, positions * 0, positions * 0), dim=1),
        segment_ids=torch.arange(len(lengths)).repeat_interleave(lengths),
        positions=positions,
        maskable=every,
        is_tail_pad=~every,
        is_answer=every,
        answer_positions=torch.arange(len(ids)),
        modality=ids * 0,
        tasks=torch.zeros(len(lengths), dtype=torch.long),
        sample_index=torch.arange(len(lengths)),
        cu_seqlens=torch.tensor([0, *lengths.tolist()]).cumsum(0).int(),
        lengths=tuple(lengths.tolist()),
        host_tasks=(0,) * len(lengths),
        num_maskable=len(ids),
        num_rows=1,
        codebooks=1,
        continuous=None,
    )


def states_of(model, batch, positions, ids=None):
    """Final states at some positions of a batch, or of other ids in its place."""
    return model.backbone(
        *(batch.ids if ids is None else ids, batch.position_ids, model.segments(batch)),
        positions=positions,
    )


def nll_of(model, batch, positions):
    """-log p of the tokens at some positions when they are masked."""
    is_masked = torch.zeros_like(batch.is_answer).index_fill(0, positions, True)
    noisy = mask_tokens(batch, is_masked, mask_token_id=model.vocab.mask_token_id)
    hidden = states_of(model, batch, positions, noisy.x_t)
    return model.objective(hidden, model.backbone.embedding.output_embedding(), batch, noisy)[1]


@pytest.fixture
def reference(tmp_path):
    """The reference's checkpoint, imported, its module of as many ids, and its numbers.

    No vocabulary of ours has 512 ids with the checkpoint's own mask, so it does not name it.
    """
    shutil.copytree(DREAM, tmp_path / "dream")
    config = read_config(tmp_path / "dream")
    plain = {k: v for k, v in config.items() if k not in ("mask_token_id", "pad_token_id")}
    (tmp_path / "dream" / "config.json").write_text(json.dumps(plain))
    import_checkpoint("dream", tmp_path / "dream", tmp_path / "imported")
    sizes = {"text": 502 - 128, "speech": 64, "image": 64}
    family = read_family(config, tmp_path / "dream")
    model = module(sizes, "native", **transformer_args(config, family, about="the reference"))
    started_from(tmp_path / "imported", model)
    case = {k: v[0] for k, v in load_file(DREAM / "forward.safetensors").items() if v.ndim > 1}
    loss = load_file(DREAM / "forward.safetensors")["packed.loss"].squeeze()
    return model, load_backbone(tmp_path / "imported"), case, loss


@needs_reference
@torch.no_grad()
def test_the_loss_of_the_reference_s_checkpoint_is_the_reference_s(reference):
    model, _, case, loss = reference
    ids, positions, labels = (case[f"packed.{n}"] for n in ("input_ids", "position_ids", "labels"))
    places = (labels != -100).nonzero().squeeze(1)
    assert (positions[places] > 0).all()  # a first token has no loss there
    hidden = states_of(model, batch_of(ids, positions), places)
    ours = F.cross_entropy(model.backbone.logits(hidden), labels[places])
    torch.testing.assert_close(ours, loss, atol=1e-5, rtol=0)
    # our loss never predicts the mask
    theirs = case["packed.logits"][places - 1].clone()
    theirs[:, model.vocab.mask_token_id] = -torch.inf
    kept = labels[places] != model.vocab.mask_token_id
    truth = batch_of(torch.where(labels == -100, ids, labels), positions)
    ones = torch.ones(int(kept.sum()))
    noisy = NoisyBatch(ids, places[kept], ones.bool(), ones, ones)
    total, _ = model.objective(
        hidden[kept], model.backbone.embedding.output_embedding(), truth, noisy
    )
    expected = F.cross_entropy(theirs[kept], labels[places][kept], reduction="sum") / len(ids)
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=0)


@needs_reference
@torch.no_grad()
def test_logits_are_bit_by_bit_those_of_load_backbone(reference):
    model, loaded, case, _ = reference
    for ids, positions in (
        (case["packed.input_ids"], case["packed.position_ids"]),
        (case["single.input_ids"], torch.arange(40)),
    ):
        every = torch.arange(len(ids))
        hidden = states_of(model, batch_of(ids, positions), every)
        assert torch.equal(model.backbone.logits(hidden), loaded(ids[None], positions[None])[0])


@torch.no_grad()
def test_another_segment_changes_nothing():
    model, lengths = module().backbone, (6, 1, 5)
    ids = torch.randint(0, 90, (12,), generator=torch.Generator().manual_seed(0))
    index = torch.cat([torch.arange(n) for n in lengths])
    places = torch.stack((index, index * 0, index * 0), dim=1)
    layout = SegmentLayout.from_lengths(lengths, device="cpu")
    before = model(ids, places, layout)
    changed = ids.clone()
    changed[6:7] += 1
    after = model(changed, places, layout)
    is_other = torch.arange(12) != 6
    assert torch.equal(before[is_other], after[is_other])
    assert not torch.equal(before[6], after[6])


@torch.no_grad()
def test_row_i_is_the_plain_network_s_row_before_and_the_first_its_own():
    shifted, plain = module().backbone, module(right_shift_logits=False).backbone
    assert shifted.state_dict().keys() == plain.state_dict().keys()
    ids, index = torch.arange(7), torch.tensor([0, 1, 2, 0, 1, 0, 1])
    places = torch.stack((index, index * 0, index * 0), dim=1)
    for lengths in ((3, 2, 2), (3, 0, 2, 2, 0)):
        layout = SegmentLayout.from_lengths(lengths, device="cpu")
        moved, own = (m(ids, places, layout) for m in (shifted, plain))
        assert torch.equal(moved, own[[0, 0, 1, 3, 3, 5, 5]])


def test_training_validation_and_the_bound_score_a_token_by_the_one_before():
    """A network that repeats the token before: right where that is the truth, in every loss."""
    model = module(num_layers=1)
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        rows = F.normalize(torch.randn(model.vocab.size, 32, generator=torch.manual_seed(0)))
        model.backbone.embedding.tokens.weight.copy_(rows)
        model.backbone.embedding.head.weight.copy_(4 * rows)
    template = make_template(model.vocab, TEXT, image_columns=4, codebooks=1, max_tail_pads={})
    stream = [(v, template.render(SAMPLE, rng=Random(v))) for v in range(8)]
    (batch,) = pack_stream(
        iter(stream), rows=1, row_length=400, pad_token_id=model.vocab.pad_token_id
    )
    last = torch.tensor(batch.lengths).cumsum(0)[: len(stream)] - 1
    before = torch.where(batch.ids == model.vocab.special_id("<|im_end|>"), 1, 0)
    assert before[last - 1].all()  # an answer ends with the turn's end and a line feed
    ids = batch.ids.clone()
    ids[last] = ids[last - 1]
    assert nll_of(model, replace(batch, ids=ids), last).max() < 0.1
    assert nll_of(model, batch, last).min() > 5


@torch.no_grad()
def test_a_remembered_prompt_scores_the_hole_s_first_token_as_a_whole_pass_does(rng):
    model = module(num_layers=1).backbone  # keys of one layer depend on no other token
    lengths, holes, mask = (8, 5), [5, 6, 7, 11, 12], 1047
    index = torch.cat([torch.arange(n) for n in lengths])
    layout = SegmentLayout.from_lengths(lengths, device="cpu")
    places = torch.stack((index, index * 0, index * 0), dim=1)
    ids = torch.randint(0, 1000, (13,), generator=rng)
    ids[holes] = mask
    prompts = PackedPrompts(ids, places, layout, torch.tensor(holes))
    denoise = conditional_denoiser(model, prompts, mask_token_id=mask, cache_interval=99)
    allowed = torch.arange(1000)
    for done in ([], [5], [5, 12], [5, 6, 7, 12]):
        now = ids.clone()
        now[done] = 7
        whole = model.logits(model(now, places, layout)[holes], allowed)
        is_open = now[holes] == mask
        where = torch.tensor(holes)[is_open]
        torch.testing.assert_close(denoise(now, where)(where, allowed), whole[is_open])


@torch.no_grad()
@pytest.mark.parametrize("form", ["safetensors", "hf"])
def test_what_was_started_from_dream_is_exported_as_it_scores(tmp_path, form):
    folder = import_small_dream(tmp_path, SIZES["text"] + 30)
    model = started_from(folder, module())
    model.backbone.save_pretrained(tmp_path / "trained")
    export_model(tmp_path / "trained", form, tmp_path / "out")
    loaded, ids = load_backbone(tmp_path / "out"), torch.randint(0, model.vocab.size, (15,))
    assert loaded.right_shift_logits
    every = torch.arange(15)
    hidden = states_of(model, batch_of(ids, every), every)
    torch.testing.assert_close(loaded(ids[None])[0], model.backbone.logits(hidden))
    if form == "hf":
        assert read_config(tmp_path / "out")["model_type"] == "Dream"


def test_an_isolated_prompt_cannot_score_an_answer():
    with pytest.raises(OmniError, match="isolate_prompt and right_shift_logits are both set"):
        module(isolate_prompt=True)
