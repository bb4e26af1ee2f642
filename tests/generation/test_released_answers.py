"""Answers in the released layout: their terminator is counted, written and cut off again."""

from dataclasses import replace

import pytest
import torch
from small_models import QWEN_SHAPE, rendered_with, sample_of

from lightning_omni.data.make_template import make_template
from lightning_omni.generation.denoiser import CachedBackbone
from lightning_omni.generation.lengths import fit_length_rules
from lightning_omni.generation.model_folder import read_model_folder, write_model_folder
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.request import Infill
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
LINE, FEED = VOCAB.special_id("<|im_end|>"), TEXT.encode("\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of the released vocabulary with right-shifted logits, exported."""
    torch.manual_seed(0)
    backbone = Transformer(VOCAB.size, [], **QWEN_SHAPE, right_shift_logits=True)
    tokenizers = {f"{name}_tokenizer": FOLDER / f"{name}_tokenizer" for name in ("image", "speech")}
    return write_model_folder(
        tmp_path_factory.mktemp("released"),
        backbone,
        backbone.state_dict(),
        TEMPLATE,
        fit_length_rules(SAMPLES.values(), TEMPLATE),
        voices=[],
        encoder_fingerprint=None,
        card="",
        **tokenizers,
    )


@pytest.fixture(scope="module")
def omni(folder):
    return Omni(read_model_folder(folder))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_length_is_that_of_the_response_in_training(name):
    sample, rules = SAMPLES[name], fit_length_rules(SAMPLES.values(), TEMPLATE)
    for part in range(len(sample.turns[-1].parts)):
        sequence = rendered_with(TEMPLATE, sample, part)
        assert int(rules[f"{name}/{part}"].base) == sum(sequence.maskable)


def test_the_terminator_of_a_part_depends_on_what_follows_it():
    parts = SAMPLES["svqa"].turns[-1].parts
    words, codes = "a green whale.", VOCAB.to_ids("speech", [5, 17, 2])
    begin, end = (VOCAB.special_id(f"<|{side}_of_audio|>") for side in ("begin", "end"))
    assert TEMPLATE.answer_ids(parts, 0) == [*TEXT.encode(words + "\n"), begin]
    assert TEMPLATE.answer_ids(parts, 1) == [*codes, end, LINE, *FEED]
    assert TEMPLATE.answer_ids(parts[:1], 0) == [*TEXT.encode(words), LINE, *FEED]
    assert TEMPLATE.answer_ids((parts[0], *parts), 0)[-1] == VOCAB.pad_token_id


def response_ids(answer, part="0"):
    return answer.record["parts"][part]["ids"]


@pytest.mark.parametrize("options", [{}, {"adjust_length": True}, {"response_length": 9}], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_text_answer_stops_where_its_turn_ends(omni, options, seed):
    options = {"temperature": 1.0, "seed": seed, **options}
    answer = omni.generate("tqa", text="what is it?", history=True, **options)
    ids, again = response_ids(answer), omni.generate("tqa", text="what is it?", **options)
    ends = [i for i, token in enumerate(ids) if token in VOCAB.all_end_ids()]
    assert VOCAB.mask_token_id not in ids
    assert answer.record["parts"]["0"]["ended"] == bool(ends)
    content = ids[: ends[0]] if ends else ids
    assert answer.text == TEXT.decode(content).removesuffix("\n").strip()
    assert again.text == answer.text


def answered_with(sample, part, given):
    """Return the sample with a part of its answer given and the others empty."""
    empty = sample.unanswered()
    parts = list(empty.turns[-1].parts)
    parts[part] = given
    return replace(empty, turns=(*empty.turns[:-1], replace(empty.turns[-1], parts=tuple(parts))))


@pytest.mark.parametrize(
    ("task", "part", "end"),
    [
        ("tqa", 0, [LINE, *FEED]),
        ("svqa", 0, [VOCAB.special_id("<|begin_of_audio|>")]),
    ],
)
def test_an_infilled_text_ends_as_an_answer_of_training(omni, task, part, end):
    whole = rendered_with(TEMPLATE, SAMPLES[task], part)
    trained = [i for i, answered in zip(whole.ids, whole.maskable, strict=True) if answered]
    number = len(TEXT.encode(" green"))
    given = f"a ___{{{number}}} whale."
    if task == "svqa":
        sample = answered_with(SAMPLES[task], 0, Part("text", text=given))
        (answer,) = omni.answer([sample], seed=0)
    else:
        answer = omni.generate(task, text="what?", infill=Infill(text=given))
    ids = response_ids(answer)
    assert ids[-len(end) :] == end
    assert len(ids) == len(trained)
    blank = len(TEXT.encode("a"))
    differ = [i for i, (x, y) in enumerate(zip(ids, trained, strict=True)) if x != y]
    assert set(differ) <= set(range(blank, blank + number))
    text = answer.parts[0]
    assert text.startswith("a ")
    assert text.endswith(" whale.")


def test_blanks_of_unknown_length_and_open_ends_are_filled(omni):
    answer = omni.generate("tqa", text="what?", infill=Infill(text="a ___ whale"))
    assert answer.text.endswith(" whale")
    assert response_ids(answer)[-2:] == [LINE, *FEED]
    assert omni.generate("tqa", text="what?", infill=Infill(text="a ___")).text.startswith("a")


def test_infilled_speech_ends_its_turn(omni):
    wave = torch.zeros(16_000).numpy()
    request = omni.encode_request(
        "tts", text="x", infill=Infill(speech=wave, intervals=[(0.2, 0.4)])
    )
    (own,) = request.turns[-1].parts
    (answer,) = omni.answer([answered_with(SAMPLES["tts"], 0, own)], seed=0)
    assert response_ids(answer)[-3:] == [VOCAB.special_id("<|end_of_audio|>"), LINE, *FEED]


@torch.no_grad()
def test_sampling_uses_the_logits_of_load_backbone(folder, omni, monkeypatch):
    seen, run = [], CachedBackbone.final_states

    def watched(self, ids, positions):
        hidden, row = run(self, ids, positions)
        seen.append((ids.clone(), positions, omni.backbone.logits(hidden)))
        return hidden, row

    monkeypatch.setattr(CachedBackbone, "final_states", watched)
    omni.generate("tqa", text="what is it?", cache_interval=1)
    loaded = load_backbone(folder)
    assert loaded.right_shift_logits
    assert len(seen) > 1
    for ids, positions, logits in seen:
        torch.testing.assert_close(loaded(ids[None])[0][positions], logits)
