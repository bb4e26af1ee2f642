"""A head that reads lengths off requests: it cannot know the answer, and the rest is untouched."""

from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch
from small_models import SMALL, sample_of

from lightning_omni.data.packing import pack
from lightning_omni.data.template import Template
from lightning_omni.diffusion.forward_process import ForwardProcess
from lightning_omni.diffusion.schedule import Cosine, Linear
from lightning_omni.errors import OmniError
from lightning_omni.generation.hole_filler import HoleFiller
from lightning_omni.modules.length_loss import LengthLoss, requests
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.length_head import LengthHead, query_states
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
SIZES = {"text": TEXT.size, "speech": 32, "image": 64}
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
TEMPLATE = Template(VOCAB, TEXT, image_columns=4, codebooks=2, max_tail_pads={})
HEAD = partial(LengthHead, hidden_dim=16, longest=64, ratio=1.1)


def codes(count):
    return tuple(16 * (i % 2) + i % 16 for i in range(count))


def sample(task, **answer):
    """A question of a task and an answer to it."""
    asked = {
        "text": Part("text", text="a whale"),
        "image": Part("image", codes=tuple(range(16))),
        "speech": Part("speech", codes=codes(12)),
    }
    asking = sample_of(task, asked)
    parts = tuple(
        Part(m, text=value) if m == "text" else Part(m, codes=value) for m, value in answer.items()
    )
    return replace(asking, turns=(asking.turns[0], Turn("assistant", parts)))


def packed(samples, **template):
    layout = Template(
        VOCAB, TEXT, image_columns=4, codebooks=2, **{"max_tail_pads": {}, **template}
    )
    stream = [(i, layout.render(s, rng=Random(i))) for i, s in enumerate(samples)]
    (batch,) = pack(stream, rows=1, row_length=400, pad_token_id=VOCAB.pad_token_id)
    return batch


def module(length_loss=None, **backbone):
    torch.manual_seed(0)
    return MaskedDiffusionModule(
        vocab=SIZES,
        backbone=partial(Transformer, **{**SMALL, **backbone}),
        code_feature_dims={},
        forward_process=ForwardProcess(
            {"text": Linear(), "speech": Linear(), "image": Cosine()}, tail_pad_ratio=0.6
        ),
        modality_weight=dict.fromkeys(SIZES, 1.0),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        weight_decay=0.0,
        warmup_steps=1,
        total_steps=10,
        final_lr_share=0.1,
        noise_seed=1,
        length_loss=length_loss,
    )


def loss(*, every=1, trains_backbone=False, weight=0.5):
    return LengthLoss(HEAD, weight, every=every, trains_backbone=trains_backbone)


ANSWERS = {
    "caption": {"text": "a whale"},
    "tts": {"speech": codes(10)},
    "t2i": {"image": tuple(range(16))},
    "tqa": {"text": "it is green"},
}
SAMPLES = [sample(task, **answer) for task, answer in ANSWERS.items()]


@pytest.mark.parametrize("isolate_prompt", [False, True])
@pytest.mark.parametrize(
    ("task", "short", "long"),
    [
        ("caption", {"text": "a cat"}, {"text": "a big red cat on a very long green mat"}),
        ("tts", {"speech": codes(2)}, {"speech": codes(30)}),
    ],
)
@torch.no_grad()
def test_the_prediction_is_bit_equal_whatever_the_answer_and_its_length(
    task, short, long, isolate_prompt
):
    model = module(loss(), isolate_prompt=isolate_prompt)
    found, lengths = [], []
    for answer in (short, long):
        batch = packed([SAMPLES[3], sample(task, **answer), SAMPLES[0]], max_tail_pads={"text": 9})
        _, logits, length = model.length_loss.nats(
            model.backbone, model.length_head, batch, VOCAB, every=1
        )
        found.append(logits)
        lengths.append(length[1])
    assert torch.equal(*found)
    assert lengths[0] < lengths[1]


@torch.no_grad()
def test_neighbours_in_the_row_do_not_matter():
    model = module(loss())
    alone = model.length_loss.nats(
        model.backbone, model.length_head, packed(SAMPLES[:1]), VOCAB, every=1
    )
    beside = model.length_loss.nats(
        model.backbone, model.length_head, packed(SAMPLES), VOCAB, every=1
    )
    torch.testing.assert_close(alone[1][0], beside[1][0])


def test_text_and_speech_are_asked_with_their_terminator_and_without_tail_pads():
    batch = packed(SAMPLES, max_tail_pads={"text": 9, "speech": 4})
    query, lengths = requests(batch, VOCAB, every=1)
    words = [len(TEXT.encode(ANSWERS[task]["text"])) + 1 for task in ("caption", "tqa")]
    assert lengths.tolist() == [words[0], 10 + 1, words[1]]
    assert (query.ids == VOCAB.mask_token_id).sum() == 3
    _, every_other = requests(batch, VOCAB, every=2)
    assert every_other.tolist() == [words[0]]


def gradients(model, batch, monkeypatch):
    monkeypatch.setattr(model, "log", lambda *args, **options: None)
    monkeypatch.setattr(type(model), "trainer", type("T", (), {"log_every_n_steps": 99}))
    total = model.training_step(batch, 0)
    total.backward()
    return total.detach(), {n: p.grad for n, p in model.backbone.named_parameters()}


def test_a_head_that_does_not_train_the_backbone_leaves_its_gradients_bit_equal(monkeypatch):
    batch = packed(SAMPLES)
    without, with_head, through = (
        gradients(module(length_loss), batch, monkeypatch)
        for length_loss in (None, loss(), loss(trains_backbone=True))
    )
    assert with_head[0] > without[0]
    assert all(torch.equal(without[1][n], g) for n, g in with_head[1].items())
    assert not all(torch.equal(without[1][n], g) for n, g in through[1].items())


def test_a_batch_in_which_no_length_is_asked_still_reaches_the_head(monkeypatch):
    model = module(loss(every=1))
    gradients(model, packed([SAMPLES[2]]), monkeypatch)
    assert all((p.grad == 0).all() for p in model.length_head.parameters())


def test_lengths_that_follow_the_request_are_learned():
    asked = [
        replace(SAMPLES[3], turns=(Turn("user", (Part("text", text=w),)), SAMPLES[3].turns[1]))
        for w in ("one", "two")
    ]
    batch = packed(
        [
            asked[0],
            replace(
                asked[1],
                turns=(
                    asked[1].turns[0],
                    Turn("assistant", (Part("text", text="it is a very long answer"),)),
                ),
            ),
        ]
    )
    model = module(loss(trains_backbone=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        nats, logits, lengths = model.length_loss.nats(
            model.backbone, model.length_head, batch, VOCAB, every=1
        )
        optimizer.zero_grad()
        nats.sum().backward()
        optimizer.step()
    assert model.length_head.positions(logits.detach(), 0.9).tolist() == lengths.tolist()


@torch.no_grad()
def test_generation_asks_what_training_asked():
    model = module(loss()).eval()
    batch = packed(SAMPLES)
    query, _ = requests(batch, VOCAB, every=1)
    trained = model.length_head(query_states(model.backbone, query))
    filler = HoleFiller(
        model.backbone, TEMPLATE, model.length_head, codebooks=2, device=torch.device("cpu")
    )
    asked = [filler.lengths_by_head([SAMPLES[n]], 0, 0.7)[0] for n in (0, 1, 3)]
    assert asked == model.length_head.positions(trained, 0.7).tolist()


def test_a_stage_goes_on_with_the_head_of_the_stage_before_and_begins_one_where_there_is_none(
    tmp_path,
):
    before, after = module(loss()), module(loss())
    before.backbone.save_pretrained(tmp_path)
    with torch.no_grad():
        before.length_head.layers[0].weight.fill_(0.5)
    after.init_from, after._trainer = str(tmp_path), type("T", (), {"datamodule": None})()
    after.setup("fit")
    assert not (after.length_head.layers[0].weight == 0.5).any()
    before.length_head.save_pretrained(tmp_path / "length_head")
    after.setup("fit")
    assert (after.length_head.layers[0].weight == 0.5).all()


def test_a_head_of_another_shape_is_refused(tmp_path):
    model = module(loss())
    model.backbone.save_pretrained(tmp_path)
    HEAD(SMALL["dim"], longest=20).save_pretrained(tmp_path / "length_head")
    model.init_from, model._trainer = str(tmp_path), type("T", (), {"datamodule": None})()
    with pytest.raises(OmniError, match="length head"):
        model.setup("fit")
