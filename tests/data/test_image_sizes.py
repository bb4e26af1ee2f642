"""Pictures in requests of another size than pictures in answers: codes, grids, packing."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import as_lists, rendered_with, sample_of

from lightning_omni.cli import main
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.make_template import make_template
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.packing import pack_stream
from lightning_omni.data.shards import read_samples
from lightning_omni.errors import OmniError
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.request import Infill
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
SIZES = {"text": TEXT.size, "speech": 32, "image": 64}
ASKED, ANSWERED = tuple(range(64)), tuple(range(16))
PARTS = {"text": Part("text", text="a cat"), "speech": Part("speech", codes=(1, 2))}


def template(tokens="native", request=8):
    vocab = Vocab.from_sizes(SIZES, tokens)
    return make_template(
        vocab,
        TEXT,
        image_columns=4,
        codebooks=1,
        max_tail_pads={},
        request_image_columns=request,
    )


def sample(task, codes):
    return sample_of(task, {**PARTS, "image": Part("image", codes=codes)})


def grid(sequence, vocab):
    """(row, column) of every image code."""
    span, sequence = vocab.span("image"), as_lists(sequence)
    return [
        place[1:]
        for token, place in zip(sequence.ids, sequence.position_ids, strict=True)
        if span.start <= token < span.start + span.size
    ]


def square(side):
    return [(i // side + 1, i % side + 1) for i in range(side**2)]


@pytest.mark.parametrize("tokens", ["native", "released"])
def test_a_picture_lies_on_the_grid_of_its_role(tokens):
    made = template(tokens)
    asked = rendered_with(made, sample("vqa", ASKED), 0)
    answered = rendered_with(made, sample("t2i", ANSWERED), 0)
    assert grid(asked, made.vocab) == square(8)
    assert grid(answered, made.vocab) == square(4)
    question = Turn("user", (Part("image", codes=ASKED), PARTS["text"]))
    turns = (*sample("t2i", ANSWERED).turns, question, Turn("assistant", (PARTS["text"],)))
    both = next(
        s
        for s in (made.render(Sample("k", "t2i", turns), rng=Random(i)) for i in range(99))
        if made.vocab.modalities.index("text") in s.modality
    )
    assert grid(both, made.vocab) == square(4) + square(8)


@pytest.mark.parametrize("tokens", ["native", "released"])
def test_a_picture_of_another_size_than_requests_have_is_refused(tokens):
    with pytest.raises(OmniError, match=r"of 16 codes, wanted 64; .*request_image_size"):
        rendered_with(template(tokens), sample("vqa", ANSWERED), 0)
    with pytest.raises(OmniError, match="of 64 codes, wanted 16"):
        rendered_with(template(tokens, None), sample("vqa", ASKED), 0)


def test_both_sizes_are_packed_into_one_row_with_their_grids():
    made = template()
    sequences = [
        rendered_with(made, sample("vqa", ASKED), 0),
        rendered_with(made, sample("t2i", ANSWERED), 0),
    ]
    (batch,) = pack_stream(
        enumerate(sequences), rows=1, row_length=256, pad_token_id=made.vocab.pad_token_id
    )
    first = len(sequences[0].ids)
    assert batch.position_ids[:first].tolist() == [list(p) for p in sequences[0].position_ids]
    rest = batch.position_ids[first : first + len(sequences[1].ids)].tolist()
    assert rest == [list(p) for p in sequences[1].position_ids]


def test_one_size_is_what_it_was():
    plain, given = template(request=None), template(request=4)
    for task in ("vqa", "t2i"):
        one, two = (as_lists(rendered_with(t, sample(task, ANSWERED), 0)) for t in (plain, given))
        assert one == two


def tokenizers(folder):
    return {
        f"{name}_tokenizer": folder / f"runs/debug/{name}_tokenizer/export"
        for name in ("image", "speech")
    }


def test_a_size_of_no_pixels_is_refused(capsys):
    recipe = Path(__file__).parents[2] / "recipes/debug/stage3.yaml"
    assert main(["fit", "--config", str(recipe), "--data.request_image_size", "0"]) == 2
    assert "data.request_image_size is 0" in capsys.readouterr().err


@pytest.mark.xdist_group("workplace")
def test_data_is_encoded_at_the_size_of_each_role(workplace, beside):
    data, device = workplace / "data/smoke", torch.device("cpu")
    given = {"data": data, **tokenizers(workplace)}
    plain = ensure_codes(EncodingSettings(**given), device)
    two = ensure_codes(EncodingSettings(**given, request_image_size=128), device)
    assert two != plain
    manifest = read_manifest(two)
    assert (manifest["image_columns"], manifest["request_image_columns"]) == (8, 16)
    assert "request_image_columns" not in read_manifest(plain)
    for task, role, wanted in (("vqa", 0, 256), ("t2i", 1, 64)):
        (found,) = read_samples(two, task, "train", limit=1)
        (part,) = [p for p in found.turns[role].parts if p.modality == "image"]
        assert len(part.codes) == wanted
    with pytest.raises(OmniError, match=r"100 pixels has no whole number of codes.*multiple of 8"):
        ensure_codes(EncodingSettings(**given, request_image_size=100), device)
    assert not list((data / "codes").glob("*.unfinished")), "refused after the work"


@pytest.mark.xdist_group("workplace")
def test_a_model_of_two_sizes_trains_exports_and_reads_requests_at_theirs(
    workplace, beside, monkeypatch
):
    beside("image_tokenizer", "speech_tokenizer")
    recipe = "stage3"
    debug = Path(__file__).parents[2] / "recipes/debug" / f"{recipe}.yaml"
    size = ["--data.request_image_size", "128", "--trainer.max_steps", "2"]
    assert main(["fit", "--config", str(debug), *size, "--trainer.val_check_interval", "2"]) == 0
    export = Path("runs/debug/stage3/export")
    assert json.loads((export / "vocab.json").read_text())["request_image_columns"] == 16
    omni = Omni.from_pretrained(export)
    assert omni.request_image_size == 128
    picture = Image.fromarray(np.zeros((90, 90, 3), dtype=np.uint8))
    from lightning_omni.tasks import task_named

    asked = omni.encoder.encode(task_named("vqa"), text="what is it", image=picture)
    (part,) = [p for p in asked.turns[0].parts if p.modality == "image"]
    assert len(part.codes) == 256
    omni.template.render_prompt(asked, part=0, length=4)
    everything = Image.new("L", picture.size, 255)
    drawn = omni.encoder.encode(
        task_named("t2i"), text="a cat", infill=Infill(image=picture, mask=everything)
    )
    (part,) = [p for p in drawn.turns[1].parts if p.modality == "image"]
    assert len(part.codes) == 64
    broken = json.loads((export / "vocab.json").read_text()) | {"request_image_columns": "x"}
    (export / "vocab.json").write_text(json.dumps(broken))
    with pytest.raises(OmniError, match="request_image_columns 'x'"):
        Omni.from_pretrained(export)
