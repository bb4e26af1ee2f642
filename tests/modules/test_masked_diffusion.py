import math
from dataclasses import replace
from functools import partial
from random import Random
from types import SimpleNamespace

import pytest
import torch
from small_models import SMALL

from lightning_omni.data.packing import pack_stream
from lightning_omni.data.template import Template
from lightning_omni.diffusion.forward_process import ForwardProcess
from lightning_omni.diffusion.schedule import Cosine, Linear
from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
SIZES = {"text": TEXT.size, "speech": 32, "image": 64}


def forward_process(**changes) -> ForwardProcess:
    schedules = {"text": Linear(), "speech": Linear(), "image": Cosine()}
    return ForwardProcess(**{"schedules": schedules, "tail_pad_ratio": 0.6, **changes})


def module(**changes) -> MaskedDiffusionModule:
    torch.manual_seed(0)
    backbone = partial(Transformer, **{**SMALL, "qkv_bias": False})
    recipe = {
        "vocab": SIZES,
        "backbone": backbone,
        "code_feature_dims": {},
        "forward_process": forward_process(),
        "modality_weight": {"text": 1.0, "speech": 1.0, "image": 1.0},
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "weight_decay": 0.0,
        "warmup_steps": 1,
        "total_steps": 10,
        "final_lr_share": 0.1,
        "init_from": None,
        "noise_seed": 1,
    }
    return MaskedDiffusionModule(**{**recipe, **changes})


def batches(count=40, rows=2):
    vocab = Vocab(TEXT.size, {"speech": 32, "image": 64})
    template = Template(
        vocab, TEXT, image_columns=4, codebooks=2, max_tail_pads={"text": 4, "speech": 4}
    )
    rng = Random(0)

    def stream():
        for visit in range(count):
            codes = tuple(rng.randrange(64) for _ in range(16))
            speech = tuple(16 * (i % 2) + rng.randrange(16) for i in range(10))
            turns = (
                Turn("user", (Part("image", codes=codes),)),
                Turn("assistant", (Part("text", text="a cat"), Part("speech", codes=speech))),
            )
            yield visit, template.render(Sample("s", "svqa", turns), rng=rng)

    return list(pack_stream(stream(), rows=rows, row_length=160, pad_token_id=vocab.pad_token_id))


def corrupt(model, batch):
    return model.forward_process(batch, model.vocab, seed=model.noise_seed)


def loss_of(model, batch):
    """The loss of a training step."""
    noisy = corrupt(model, batch)
    hidden = model.backbone(
        *(noisy.x_t, batch.position_ids, model.segments(batch)), positions=noisy.positions
    )
    return model.objective(hidden, model.backbone.embedding.output_embedding(), batch, noisy)[0]


def ratios(noisy, batch):
    """Realised mask ratio per segment and modality."""
    is_masked = torch.zeros_like(batch.is_answer)
    is_masked[noisy.positions] = True
    for m in range(3):
        for n in range(batch.num_segments):
            here = batch.is_answer & (batch.modality == m) & (batch.segment_ids == n)
            if here.any():
                yield (is_masked & here).sum() / here.sum()


@pytest.mark.parametrize("masking", ["fixed_count", "bernoulli"])
def test_mask_ratios_cover_the_whole_unit_interval(masking):
    model = module(forward_process=forward_process(masking=masking))
    seen = torch.stack([r for b in batches(300) for r in ratios(corrupt(model, b), b)])
    assert seen.min() < 0.12
    assert seen.max() > 0.95
    assert 0.15 < (seen < 0.35).float().mean() < 0.5


def test_tail_pads_are_masked_at_gamma_times_the_ratio():
    model, hits, total = module(), 0, 0
    for batch in batches(600):
        noisy = corrupt(model, batch)
        pads = batch.is_tail_pad
        hits += int(pads[noisy.positions].sum())
        total += int(pads.sum())
    assert abs(hits / total - 0.3) < 0.04


def test_prompts_and_row_ends_are_never_masked_and_the_rest_is_kept():
    model = module()
    for batch in batches():
        noisy = corrupt(model, batch)
        assert batch.maskable[noisy.positions].all()
        kept = torch.ones(batch.ids.numel(), dtype=torch.bool)
        kept[noisy.positions] = False
        assert torch.equal(noisy.x_t[kept], batch.ids[kept])


def test_the_noise_of_a_sample_does_not_depend_on_how_it_was_packed():
    model = module()

    def masks(rows):
        found = {}
        for batch in batches(20, rows=rows):
            noisy = corrupt(model, batch)
            for n, x_t in enumerate(noisy.x_t.split(batch.lengths)):
                if batch.tasks[n] >= 0:
                    found[int(batch.sample_index[n])] = x_t.tolist()
        return found

    assert masks(1) == masks(3)


def test_a_uniform_model_costs_the_log_of_the_vocabulary_per_token_at_any_schedule():
    for schedules in ({m: Linear() for m in SIZES}, {m: Cosine() for m in SIZES}):
        model = module(forward_process=forward_process(schedules=schedules, tail_pad_ratio=0.0))
        losses = []
        for batch in batches(1000):
            noisy = corrupt(model, batch)
            hidden = torch.zeros(len(noisy.positions), model.backbone.norm.weight.shape[0])
            table = model.backbone.embedding.output_embedding()
            losses.append(model.objective(hidden, table, batch, noisy)[0])
        ratio = torch.stack(losses).mean() / math.log(model.vocab.size - 1)
        assert abs(ratio - 1) < 0.06


def test_training_on_one_batch_lowers_its_loss():
    model, (batch, *_) = module(), batches(10)
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_batch_of_which_nothing_counts_costs_nothing_and_moves_nothing():
    model = module(modality_weight={"text": 0.0, "speech": 0.0, "image": 1.0})
    batch = batches(10)[0]  # answers are text and speech
    loss = loss_of(model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_modality_without_a_schedule_is_named():
    with pytest.raises(OmniError, match="schedules is given for"):
        module(forward_process=forward_process(schedules={"text": Linear()}))


def test_a_missing_stage_before_says_how_to_go_on(tmp_path):
    model = module(init_from=str(tmp_path))
    with pytest.raises(OmniError, match="init_from null"):
        model.setup("fit")


def test_weights_of_another_architecture_are_refused(tmp_path):
    module().backbone.save_pretrained(tmp_path)
    other = module(vocab={**SIZES, "image": 65}, init_from=str(tmp_path))
    with pytest.raises(OmniError, match="another architecture"):
        other.setup("fit")


@pytest.mark.parametrize("draws", [1, 7])
@torch.no_grad()
def test_the_nelbo_of_a_network_that_knows_nothing_is_log_v_a_token(draws, monkeypatch):
    model = module(nelbo_draws=draws)
    model.backbone.embedding.head.weight.zero_()
    monkeypatch.setattr(model, "log", lambda *args, **options: None)
    for i, batch in enumerate(batches()):
        model.test_step(batch, i)
    ratio, error = model.nelbo_per_token.compute()
    seen = ratio.isfinite()
    assert seen.tolist() == [True, True, False]  # images are asked about, never answered
    wanted = math.log(model.vocab.size - 1)
    torch.testing.assert_close(ratio[seen], torch.full((2,), wanted).double(), rtol=1e-5, atol=0)
    assert (error[seen] < 1e-5).all()


@torch.no_grad()
def test_bits_per_second_are_all_nats_of_an_answer_over_its_seconds(monkeypatch):
    """What ends the speech costs nats and takes no time."""
    model, logged = module(nelbo_draws=1), {}
    model.backbone.embedding.head.weight.zero_()
    units = {"speech": {"bits_per_second": 20 / math.log(2)}}  # so 10 codes are half a second
    data = SimpleNamespace(nelbo_units=lambda: units)
    monkeypatch.setattr(model, "_trainer", SimpleNamespace(datamodule=data))
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    for i, batch in enumerate(batches()):
        model.test_step(batch, i)
    model.on_test_epoch_end()
    wanted = 11 * math.log2(model.vocab.size - 1) / 0.5
    assert logged["test/bits_per_second/speech"].item() == pytest.approx(wanted, rel=1e-5)
    assert logged["test/bits_per_second_error/speech"] < 1e-3


PROCESSES = [
    {},
    {"masking": "bernoulli", "weighting": "none"},
    {"masking": "bernoulli", "time_per": "token"},
    {"replace_ratio": 0.2, "spans": {"speech": 2}, "ratio_range": (0.3, 1.0)},
]


def loss_and_gradients(model, batch, multiple):
    model.zero_grad()
    noisy = model.forward_process(batch, model.vocab, seed=1, multiple=multiple)
    batch = replace(batch, noisy=noisy)
    hidden = model._final_states(batch, noisy)
    table = model.backbone.embedding.output_embedding()
    loss, nll = model.objective(hidden, table, batch, noisy)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return noisy, loss.detach(), nll, [g.clone() for g in gradients]


@pytest.mark.parametrize("changes", PROCESSES)
def test_padded_positions_change_neither_masks_nor_loss_nor_gradients(changes):
    model = module(forward_process=forward_process(**changes))
    for batch in batches():
        noisy, loss, nll, gradients = loss_and_gradients(model, batch, 1)
        padded, loss_padded, nll_padded, gradients_padded = loss_and_gradients(model, batch, 64)
        count = len(noisy.positions)
        assert len(padded.positions) == -(-count // 64) * 64 > count
        assert padded.num_losses == noisy.num_losses == count
        for name in ("positions", "is_masked", "weight", "ratio", "nelbo_weight"):
            exact, longer = getattr(noisy, name), getattr(padded, name)
            assert (exact is longer is None) or torch.equal(longer[:count], exact)
        assert torch.equal(padded.x_t, noisy.x_t)
        assert not padded.weight[count:].any()
        assert not padded.is_masked[count:].any()
        assert (padded.positions[count:] == noisy.positions[-1]).all()
        torch.testing.assert_close(loss_padded, loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(nll_padded[:count], nll, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(gradients_padded, gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_the_forward_process_runs_on_the_host_and_only_there():
    model, batch = module(), batches()[0]
    moved = model.apply_forward_process(batch)
    assert moved.noisy is not None
    assert torch.equal(moved.noisy.x_t, corrupt(model, batch).x_t)
    model.forward_process = None  # it is not run again
    assert model._noisy_batch(moved) is moved.noisy


def test_values_of_surplus_positions_are_counted_nowhere():
    model = module(forward_process=forward_process(replace_ratio=0.2))
    batch = batches()[0]
    found = []
    for multiple in (1, 64):
        noisy, _, nll, _ = loss_and_gradients(model, batch, multiple)
        hidden = model._final_states(batch, noisy)
        found.append(model._breakdown(batch, noisy, nll, hidden))
    assert found[0].keys() == found[1].keys()
    for name, (total, count) in found[0].items():
        assert found[1][name] == (pytest.approx(total, rel=1e-5), count), name
