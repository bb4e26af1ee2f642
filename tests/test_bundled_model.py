"""The model that comes with the package is whole, small, and does what the README says."""

import hashlib

import numpy as np
import pytest
from histories import replay_history

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.omni import Omni
from lightning_omni.pretrained import FOLDER
from lightning_omni.samplers.remdm import ReMDM

PINK = (250, 175, 210)


@pytest.fixture(scope="module")
def omni():
    return Omni.from_pretrained(FOLDER)


def distance(pixels, color):
    return float(np.abs(pixels.reshape(-1, 3).astype(float) - color).max(1).mean())


def test_every_file_is_the_one_whose_checksum_is_listed():
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    assert len(lines) >= 9
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_it_takes_at_most_forty_megabytes():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) <= 40_000_000


def test_its_card_names_the_data_and_their_licences():
    card = (FOLDER / "README.md").read_text()
    assert "manifest sha256" in card
    _, _, licences = card.partition("trained on:")
    trained_on, _, tested_on = licences.partition("All sources")
    assert "Apache-2.0" in trained_on
    assert "-SA-" not in trained_on
    assert "openmoji" in tested_on


def test_it_draws_a_green_whale_on_a_pink_background(omni):
    image = omni.generate("t2i", text="a green whale on a pink background").image
    pixels = np.asarray(image)
    assert distance(pixels[:3], PINK) < 30
    red, green, blue = np.moveaxis(pixels.astype(int), 2, 0)
    assert np.mean((green > red + 40) & (green > blue + 20)) > 0.05


def test_it_says_what_it_can_then_write_down(omni):
    spoken = omni.generate("tts", text="a green whale on a pink background").speech
    assert omni.generate("asr", speech=spoken).text == "a green whale on a pink background"


def test_it_describes_what_it_draws(omni):
    image = omni.generate("t2i", text="a red car on a white background").image
    assert omni.generate("caption", image=image).text == "a red car on a white background"


def test_a_task_without_an_answer_is_refused_in_python_too(omni):
    with pytest.raises(OmniError, match="task 'chat' is for training"):
        omni.generate("chat")


def test_each_answer_of_a_batch_counts_its_own_forward_passes(omni):
    texts = ("it is four", "a green whale to the right of a yellow tree on a pink background")
    samples = [omni.encode_request("tts", text=text) for text in texts]
    records = [answer.record for answer in omni.answer(samples, seed=0)]
    for record in records:
        (part,) = record["parts"].values()
        assert part["attempts"] == 1
        assert record["forwards"] == part["forwards"] == part["steps"]
    assert records[0]["forwards"] < records[1]["forwards"]


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(temperature=0.0, num_steps=6),
        GenerationConfig(temperature=0.8, num_steps=6),
        GenerationConfig(temperature=0.8, num_steps=12, block_size=8),
        GenerationConfig(sampler=ReMDM(0.5, "rescale"), num_steps=6, block_size=8),
    ],
    ids=["greedy", "sampled", "blocks", "remasking"],
)
def test_mixed_tasks_in_one_call_get_the_answers_they_get_alone(omni, config):
    heard = omni.generate("tts", text="a red car").speech
    asked = [
        omni.encode_request("t2i", text="a red car on a white background"),
        omni.encode_request("tts", text="a green whale"),
        omni.encode_request("asr", speech=heard),
        omni.encode_request("t2i", text="a fish"),
        omni.encode_request("sqa", speech=heard),
        omni.encode_request("tts", text="a green whale to the right of a yellow tree"),
    ]
    together = omni.answer(asked, seed=3, config=config)
    for i, sample in enumerate(asked):
        (alone,) = omni.answer([sample], seed=3 + i, config=config)
        assert alone.record["parts"] == together[i].record["parts"]
        assert alone.record["seed"] == together[i].record["seed"] == 3 + i


def test_a_history_is_kept_and_leads_to_the_answer(omni):
    answer = omni.generate("t2i", text="a red car", history=True, num_steps=5, guidance_scale=2.0)
    part = answer.record["parts"]["0"]
    masks = [omni.template.vocab.mask_token_id] * part["positions"]
    assert replay_history(part["history"], masks, mask_token_id=masks[0]) == part["ids"]
    assert {change["step"] for change in part["history"]} == set(range(1, 6))


def test_guidance_of_scale_zero_is_no_guidance_and_one_run_counts_as_one_pass(omni):
    image = omni.generate("t2i", text="a red car on a white background").image
    asked = {"text": "what color is the background", "image": image}
    plain = omni.generate("vqa", **asked, guidance_scale=0.0)
    none = omni.generate("vqa", **asked)
    led = omni.generate("vqa", **asked, guidance_scale=1.0)
    assert plain.record["parts"] == none.record["parts"]
    assert plain.text == led.text == "white"
    with pytest.raises(OmniError, match="guidance_scale"):
        omni.generate("vqa", **asked, guidance_scale={"smell": 1.0})
