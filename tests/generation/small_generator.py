"""A generator with a random network of two layers, and requests for it."""

from dataclasses import replace

import torch
from small_models import SMALL, sample_of

from lightning_omni.data.template import Template
from lightning_omni.generation.generator import PartGenerator
from lightning_omni.generation.lengths import LengthRule
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
CODEBOOKS = 2
RULES = {
    "caption/0": LengthRule(0.0, 6.0),
    "vqa/0": LengthRule(0.0, 12.0),
    "tqa/0": LengthRule(0.0, 30.0),
    "tts/0": LengthRule(0.0, 8.0),
    "sqa/transcript": LengthRule(0.0, 5.0),
    "sqa/0": LengthRule(0.0, 7.0),
    "sqa/1": LengthRule(0.0, 8.0),
}
PARTS = {
    "text": Part("text", text="a whale"),
    "image": Part("image", codes=tuple(range(16))),
    "speech": Part("speech", codes=tuple(16 * (i % 2) + i for i in range(12))),
}


def request(task, **answer):
    """Return an unanswered sample of a task, with these parts of its answer given."""
    sample = sample_of(task, PARTS).unanswered()
    last = sample.turns[-1]
    parts = tuple(answer.get(part.modality, part) for part in last.parts)
    return replace(sample, turns=(*sample.turns[:-1], replace(last, parts=parts)))


def text(content):
    """Return a text part."""
    return Part("text", text=content)


def make_generator(kind=PartGenerator, rules=RULES, **changes):
    """Return a generator with random weights, the same ones each time."""
    torch.manual_seed(0)
    template = Template(VOCAB, TEXT, image_columns=4, codebooks=CODEBOOKS, max_tail_pads={})
    backbone = Transformer(VOCAB.size, [], **SMALL, **changes).eval()
    with torch.no_grad():
        backbone.embedding.head.weight.mul_(100)  # no two positions are equally confident
    return kind(backbone, template, rules, device=torch.device("cpu"))


def generate(samples, config, *, part=0, seeds=None, generator=None):
    """Return the records of one answer part of every sample."""
    seeds = list(range(len(samples))) if seeds is None else seeds
    generator = generator or make_generator()
    return [one.to_json() for one in generator.generate(samples, part, config, seeds=seeds)]
