"""Training on speech that is features, in batches that have some and batches that have none."""

from functools import partial
from random import Random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_models import SMALL
from torch.nn.parallel import DistributedDataParallel

from lightning_omni.data.make_template import make_template
from lightning_omni.data.packing import pack_stream
from lightning_omni.diffusion.forward_process import ForwardProcess, mask_tokens
from lightning_omni.diffusion.schedule import Linear
from lightning_omni.errors import OmniError
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
SIZES = {"text": TEXT.size, "speech": 32, "image": 64}
WIDTH = 8
WORDS = ("cat", "dog", "whale")


def module(**changes) -> MaskedDiffusionModule:
    torch.manual_seed(0)
    recipe = {
        "vocab": SIZES,
        "special_tokens": "released",
        "backbone": partial(Transformer, **SMALL, continuous_dim=WIDTH),
        "code_feature_dims": {},
        "forward_process": ForwardProcess(
            schedules={name: Linear() for name in SIZES}, tail_pad_ratio=0.6
        ),
        "modality_weight": dict.fromkeys(SIZES, 1.0),
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "weight_decay": 0.0,
        "warmup_steps": 1,
        "total_steps": 10,
        "final_lr_share": 0.1,
        "noise_seed": 1,
    }
    return MaskedDiffusionModule(**{**recipe, **changes})


def heard(kind, rng):
    """Frames of a constant pattern and some noise; their number says nothing."""
    pattern = np.random.default_rng(kind).normal(size=WIDTH)
    noise = np.random.default_rng(rng.randrange(2**30)).normal(size=(rng.randint(3, 9), WIDTH))
    return (pattern + 0.1 * noise).astype(np.float16)


def batches(count=60, rows=4, seed=0, *, has_speech=True):
    vocab = Vocab.from_sizes(SIZES, "released")
    template = make_template(vocab, TEXT, image_columns=4, codebooks=1, max_tail_pads={"text": 2})
    rng = Random(seed)

    def stream():
        for visit in range(count):
            kind = rng.randrange(len(WORDS))
            speech = Part("speech", codes=(1,), features=heard(kind, rng) if has_speech else None)
            answer = Turn("assistant", (Part("text", text=WORDS[kind]),))
            sample = Sample("s", "asr", (Turn("user", (speech,)), answer))
            yield visit, template.render(sample, rng=rng)

    return list(pack_stream(stream(), rows=rows, row_length=160, pad_token_id=vocab.pad_token_id))


def loss_of(model, batch):
    noisy = model.forward_process(batch, model.vocab, seed=model.noise_seed)
    hidden, table = model._final_states(batch, noisy), model.backbone.embedding.output_embedding()
    return model.objective(hidden, table, batch, noisy)[0]


@torch.no_grad()
def accuracy(model, batch):
    """Share of the answers that are right in every token when all are masked."""
    noisy = mask_tokens(batch, batch.is_answer, mask_token_id=model.vocab.mask_token_id)
    guess = model._predict(model._final_states(batch, noisy))
    right = guess == batch.ids[noisy.positions]
    segment = batch.segment_ids[noisy.positions]
    per_answer = [right[segment == n].all() for n in segment.unique()]
    return float(torch.stack(per_answer).float().mean())


def test_features_lie_at_the_context_tokens_of_their_own_sample_wherever_it_was_packed():
    context = Vocab.from_sizes(SIZES, "released").special_id("<|context_of_audio|>")
    found = {}
    for rows in (1, 3):
        for batch in batches(20, rows=rows):
            at = batch.continuous.positions
            assert torch.equal((batch.ids == context).nonzero().squeeze(1), at)
            segment = batch.segment_ids[at]
            for n in segment.unique().tolist():
                frames = batch.continuous.features[segment == n]
                found.setdefault(int(batch.sample_index[n]), []).append(frames)
    assert len(found) == 20
    assert all(torch.equal(*pair) for pair in found.values())


def test_an_answer_that_only_the_features_tell_is_learned():
    model, (test, *_) = module(), batches(24, seed=99)
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=3e-3)
    assert accuracy(model, test) == 0
    losses = []
    for batch in batches(900):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert accuracy(model, test) == 1.0
    blind = batches(24, seed=99)[0]
    blind.continuous.features.zero_()
    assert accuracy(model, blind) < 0.7


def test_one_step_lowers_the_loss_by_the_projector_alone():
    model, (batch, *_) = module(), batches(20)
    model.backbone.requires_grad_(requires_grad=False)
    model.backbone.feature_projector.requires_grad_(requires_grad=True)
    optimizer = torch.optim.SGD(model.backbone.feature_projector.parameters(), lr=0.05)
    before = loss_of(model, batch)
    before.backward()
    optimizer.step()
    assert loss_of(model, batch) < before


def test_a_stage_of_tokens_alone_can_be_followed_by_one_that_hears(tmp_path):
    plain = module(backbone=partial(Transformer, **SMALL))
    plain.backbone.save_pretrained(tmp_path / "tokens")
    torch.manual_seed(1)
    hears = module()
    fresh = hears.backbone.feature_projector.into.weight.clone()
    load_initial_weights(hears.backbone, tmp_path / "tokens", hears.vocab, seed=0)
    own, more = plain.backbone.state_dict(), hears.backbone.state_dict()
    assert all(torch.equal(own[name], more[name]) for name in own)
    assert torch.equal(more["feature_projector.into.weight"], fresh)
    hears.backbone.save_pretrained(tmp_path / "hears")
    again = module()
    again.backbone.feature_projector.into.weight.data.zero_()
    load_initial_weights(again.backbone, tmp_path / "hears", again.vocab, seed=0)
    assert torch.equal(again.backbone.feature_projector.into.weight, fresh)
    with pytest.raises(OmniError, match=r"first 'feature_projector\.into"):
        load_initial_weights(plain.backbone, tmp_path / "hears", plain.vocab, seed=0)


class Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return loss_of(self.model, batch)


def share(rank, folder):
    """Of two processes only the first has speech in its batch; then neither has, then both."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    shared = DistributedDataParallel(Loss(module()))
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    for has_speech in (rank == 0, False, True):
        (batch, *_) = batches(12, seed=rank, has_speech=has_speech)
        assert (batch.continuous is not None) == has_speech
        optimizer.zero_grad()
        shared(batch).backward()
        optimizer.step()
    weight = shared.module.model.backbone.feature_projector.into.weight.detach()
    both = [torch.empty_like(weight) for _ in range(2)]
    dist.all_gather(both, weight)
    assert torch.equal(*both)
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_need_not_agree_on_whether_there_is_speech(tmp_path):
    torch.multiprocessing.spawn(share, args=(str(tmp_path),), nprocs=2)


def test_a_batch_moves_with_its_features():
    batch = batches(4)[0].to("meta")
    assert batch.continuous.positions.is_meta
    assert batch.continuous.features.is_meta
    assert batches(4, has_speech=False)[0].to("meta").continuous is None
