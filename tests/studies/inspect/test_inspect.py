"""The inspect verb counts what is in a folder and shows it."""

import io
import json
import logging
import re
from html import escape
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tar_files import write_tar

from lightning_omni.cli import main
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.studies.inspect.command import inspect_data
from lightning_omni.studies.inspect.mixture import build_recipe_data
from lightning_omni.studies.inspect.rows import describe_token
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

RECIPES = Path(__file__).parents[3] / "recipes" / "debug"


def png(color):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(out, "PNG")
    return out.getvalue()


def wav(seconds):
    out = io.BytesIO()
    soundfile.write(out, np.zeros(round(16000 * seconds)), 16000, format="WAV")
    return out.getvalue()


def sample(task, key, *, codes=None):
    media = {"caption": "image", "asr": "speech"}[task]
    part = Part(media, codes=codes) if codes else Part(media, key=key)
    answer = Part("text", text=f"the words of {key}")
    return Sample(f"s{key}", task, (Turn("user", (part,)), Turn("assistant", (answer,))))


def shard(path, samples):
    write_tar(path, [(f"{s.key}.json", json.dumps(s.to_json()).encode()) for s in samples])
    return {"path": f"tasks/{path.name}", "samples": len(samples)}


@pytest.fixture
def prepared(tmp_path):
    """Four pictures with captions and two recordings of 1.5 s with transcripts."""
    for name in ("media", "tasks"):
        (tmp_path / name).mkdir()
    pictures = [(f"p{i}.png", png((40 * i, 0, 0))) for i in range(4)]
    write_tar(tmp_path / "media/image-train-000000.tar", pictures)
    facts = json.dumps({"duration_s": "1.500"}).encode()
    clips = [(f"c{i}.{e}", c) for i in range(2) for e, c in (("json", facts), ("wav", wav(1.5)))]
    write_tar(tmp_path / "media/speech-train-000000.tar", clips)
    entries = [
        shard(
            tmp_path / "tasks/caption-train-000000.tar",
            [sample("caption", f"p{i}") for i in range(4)],
        ),
        shard(tmp_path / "tasks/asr-train-000000.tar", [sample("asr", f"c{i}") for i in range(2)]),
        {"path": "media/image-train-000000.tar", "samples": 4},
        {"path": "media/speech-train-000000.tar", "samples": 2},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"layout": 1, "shards": entries}))
    return tmp_path


def lines_of(caplog):
    return [re.split(r"\s{2,}", record.getMessage()) for record in caplog.records]


def test_a_prepared_folder_is_counted_and_shown(prepared, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    inspect_data(str(prepared), out=tmp_path / "page.html")
    found = lines_of(caplog)
    tokens = sum(len(TextTokenizer().encode(f"the words of p{i}")) for i in range(4))
    assert ["caption", "train", "4", str(tokens), "-", "-", "-"] in found
    assert ["speech", "train", "2", "0.1", "3.0 s"] in found
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png") == 5  # ten samples of two tasks in turn, five each
    assert page.count("data:audio/flac") == 5
    assert "the words of p1" in page


def test_numbers_of_part_of_the_samples_are_marked(prepared, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    inspect_data(str(prepared), out=tmp_path / "page.html", limit=1, samples=0)
    found = lines_of(caplog)
    each = len(TextTokenizer().encode("the words of p0"))
    assert ["caption", "train", "4", f"~{4 * each}", "-", "-", "-"] in found
    assert ["speech", "train", "2", "0.1", "~3.0 s"] in found


def test_codes_are_counted_in_their_units(prepared, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    codes = prepared / "codes" / "abc"
    codes.mkdir(parents=True)
    shard(codes / "asr-train-000000.tar", [sample("asr", "c0", codes=(1,) * 50)])
    manifest = {
        "spans": {"speech": 8},
        "tokens_per_second": 25,
        "samples": {"asr-train-000000.tar": 1},
    }
    (codes / "manifest.json").write_text(json.dumps(manifest))
    for folder in (prepared, codes):
        caplog.clear()
        inspect_data(str(folder), out=tmp_path / "page.html")
        asr = next(line for line in lines_of(caplog) if line[0] == "asr")
        assert asr[2:3] + asr[4:] == ["1", "50", "-", "2.0 s"]


def test_a_missing_medium_is_said_on_the_page(prepared, tmp_path):
    write_tar(prepared / "media/image-train-000000.tar", [("p0.png", b"no picture")])
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["shards"][2]["samples"] = 1
    manifest.pop("checksum", None)
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    inspect_data(str(prepared), out=tmp_path / "page.html", samples=20)
    page = (tmp_path / "page.html").read_text()
    assert "p1, which is missing" in page
    assert "badge bad" in page


def test_tokens_are_named_by_what_they_are():
    text = TextTokenizer()
    vocab = Vocab.from_sizes({"text": text.size, "speech": 32, "image": 64}, "native")
    template = Template(vocab, text, image_columns=4, codebooks=1, max_tail_pads={})
    labels = [describe_token(i, template) for i in (*text.encode("hi"), vocab.mask_token_id)]
    assert "".join(labels) == "hi<|mask|>"
    assert describe_token(vocab.to_ids("image", [7])[0], template) == "i7"


def test_a_recipe_shows_its_mixture_and_its_first_rows(workplace, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recipe = RECIPES / "stage3.yaml"
    inspect_data("data/smoke", recipe=recipe, out=tmp_path / "page.html", samples=1)
    shares = [line for line in lines_of(caplog) if len(line) == 5 and line[0] == "t2i"]
    assert [line[1:3] for line in shares] == [["0.111", "150"]]
    page = (tmp_path / "page.html").read_text()
    data, _ = build_recipe_data(recipe, "data/smoke")
    data.setup("fit")
    first = next(iter(data.train_dataloader())).batch
    assert page.count("<i class=") == len(first.ids)
    assert page.count(" answer") == int(first.maskable.sum())
    assert page.count('class="unused') == int((first.tasks[first.segment_ids] < 0).sum())
    assert escape("<|mask|>") not in page


def test_a_task_without_data_is_named_also_for_the_first_rows(workplace, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"base: {RECIPES / 'stage3.yaml'}\ndata: {{init_args: {{tasks: {{chat: 1}}}}}}\n"
    )
    with pytest.raises(OmniError, match=r"no shards of 'chat', split 'train'.*prep-data --split"):
        inspect_data("data/smoke", recipe=recipe, out=tmp_path / "page.html")


def test_the_folder_is_the_first_argument(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "no manifest.json in" in capsys.readouterr().err


def test_a_recipe_of_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(OmniError, match=r"recipe of .*ImageData; give one of the joint model"):
        build_recipe_data(RECIPES / "image_tokenizer.yaml", str(tmp_path))
