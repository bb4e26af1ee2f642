"""Answers in the released layout: what ends them is counted, written and cut off again."""

import pytest
import torch
from lightning_omni.generation.draft import Draft
from small_models import QWEN_SHAPE, rendered_with, sample_of

from lightning_omni.data.templates import make_template
from lightning_omni.generation.canvas_builder import end_ids
from lightning_omni.generation.denoiser import Runner
from lightning_omni.generation.lengths import fit_lengths
from lightning_omni.generation.model_folder import read_model_folder, write_model_folder
from lightning_omni.generation.omni import Omni
from lightning_omni.interop import load_backbone
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import FOLDER
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 1024, "image": 2048}, "released")
TEMPLATE = make_template(VOCAB, TEXT, image_columns=8, codebooks=1, max_tail_pads={})
PARTS = {
    "text": Part("text", text="a green whale."),
    "speech": Part("speech", codes=(5, 17, 2)),
    "image": Part("image", codes=tuple(range(64))),
}
SAMPLES = {task: sample_of(task, PARTS) for task in ("tqa", "asr", "svqa", "tts", "caption")}
LINE, FEED = VOCAB.special("<|im_end|>"), TEXT.encode("\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random shifted model of the released vocabulary, exported."""
    torch.manual_seed(0)
    backbone = Transformer(VOCAB.size, [], **QWEN_SHAPE, right_shift_logits=True)
    tokenizers = {f"{name}_tokenizer": FOLDER / f"{name}_tokenizer" for name in ("image", "speech")}
    return write_model_folder(
        tmp_path_factory.mktemp("released"),
        backbone,
        backbone.state_dict(),
        TEMPLATE,
        fit_lengths(SAMPLES.values(), TEMPLATE),
        voices=[],
        hears=None,
        card="",
        **tokenizers,
    )


@pytest.fixture(scope="module")
def omni(folder):
    return Omni(read_model_folder(folder))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_length_is_that_of_the_hole_in_training(name):
    sample, rules = SAMPLES[name], fit_lengths(SAMPLES.values(), TEMPLATE)
    for part in range(len(sample.turns[-1].parts)):
        sequence = rendered_with(TEMPLATE, sample, part)
        assert int(rules[f"{name}/{part}"].base) == sum(sequence.maskable)


def test_what_ends_an_answer_says_what_follows_it():
    parts = SAMPLES["svqa"].turns[-1].parts
    words, codes = "a green whale.", VOCAB.to_ids("speech", [5, 17, 2])
    begin, end = (VOCAB.special(f"<|{side}_of_audio|>") for side in ("begin", "end"))
    assert TEMPLATE.hole_ids(parts, 0) == [*TEXT.encode(words + "\n"), begin]
    assert TEMPLATE.hole_ids(parts, 1) == [*codes, end, LINE, *FEED]
    assert TEMPLATE.hole_ids(parts[:1], 0) == [*TEXT.encode(words), LINE, *FEED]
    assert TEMPLATE.hole_ids((parts[0], *parts), 0)[-1] == VOCAB.pad_token_id


def hole_ids(answer, part="0"):
    return answer.record["holes"][part]["ids"]


@pytest.mark.parametrize("length", ["fitted", "predicted"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_text_answer_stops_where_its_turn_ends(omni, length, seed):
    way = {"temperature": 1.0, "seed": seed, "length": length}
    answer = omni.generate("tqa", text="what is it?", trace=True, **way)
    ids, again = hole_ids(answer), omni.generate("tqa", text="what is it?", **way)
    ends = [i for i, token in enumerate(ids) if token in end_ids(VOCAB)]
    assert VOCAB.mask_token_id not in ids
    assert answer.record["holes"]["0"]["closed"] == bool(ends)
    content = ids[: ends[0]] if ends else ids
    assert answer.text == TEXT.decode(content).removesuffix("\n").strip()
    assert again.text == answer.text


@pytest.mark.parametrize(
    ("task", "part", "end"),
    [
        ("tqa", 0, [LINE, *FEED]),
        ("svqa", 0, [VOCAB.special("<|begin_of_audio|>")]),
    ],
)
def test_a_drafted_text_ends_as_an_answer_of_training(omni, task, part, end):
    whole = rendered_with(TEMPLATE, SAMPLES[task], part)
    trained = [i for i, answered in zip(whole.ids, whole.maskable, strict=True) if answered]
    number = len(TEXT.encode(" green"))
    given = {"tqa": {"text": "what?"}, "svqa": {}}[task]
    if task == "svqa":
        sample = SAMPLES[task]
        draft = {0: omni.read_draft(Draft(text=f"a ___{{{number}}} whale."))["text"]}
        answer = omni.complete(sample, draft)
    else:
        answer = omni.generate(task, draft=Draft(text=f"a ___{{{number}}} whale."), **given)
    ids = hole_ids(answer)
    assert ids[-len(end) :] == end
    assert len(ids) == len(trained)
    gap = len(TEXT.encode("a"))
    differ = [i for i, (x, y) in enumerate(zip(ids, trained, strict=True)) if x != y]
    assert set(differ) <= set(range(gap, gap + number))
    text = answer.parts[0]
    assert text.startswith("a ")
    assert text.endswith(" whale.")


def test_gaps_of_unknown_length_and_open_ends_are_filled(omni):
    answer = omni.generate("tqa", text="what?", draft=Draft(text="a ___ whale"))
    assert answer.text.endswith(" whale")
    assert hole_ids(answer)[-2:] == [LINE, *FEED]
    assert omni.generate("tqa", text="what?", draft=Draft(text="a ___")).text.startswith("a")


def test_drafted_speech_ends_its_turn(omni):
    draft = omni.read_draft(Draft(speech=torch.zeros(16_000).numpy(), times=[(0.2, 0.4)]))
    answer = omni.complete(SAMPLES["tts"], {0: draft["speech"]})
    assert hole_ids(answer)[-3:] == [VOCAB.special("<|end_of_audio|>"), LINE, *FEED]


@torch.no_grad()
def test_sampling_sees_the_logits_of_load_backbone(folder, omni, monkeypatch):
    seen, run = [], Runner.run

    def watched(self, ids, wanted):
        hidden, row = run(self, ids, wanted)
        seen.append((ids.clone(), wanted, omni.backbone.logits(hidden)))
        return hidden, row

    monkeypatch.setattr(Runner, "run", watched)
    omni.generate("tqa", text="what is it?", refresh_every=1)
    loaded = load_backbone(folder)
    assert loaded.right_shift_logits
    assert len(seen) > 1
    for ids, wanted, logits in seen:
        torch.testing.assert_close(loaded(ids[None])[0][wanted], logits)
