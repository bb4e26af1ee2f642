"""A tiny prepared folder: drawn shapes, and "speech" whose samples spell its text."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from PIL import Image, ImageDraw
from tar_files import write_tar

from lightning_omni.evaluation.examples import Response
from lightning_omni.types import Part, Sample, Turn

INKS = {"red": (210, 20, 20), "blue": (20, 50, 210), "green": (16, 128, 48)}
BACKGROUNDS = {"white": (245, 245, 245), "yellow": (250, 230, 120), "pink": (250, 180, 210)}
SHAPES = ("ball", "box", "hill")
COUNTS = ("zero", "one", "two", "three", "four")
SLOTS = ((1, 1), (33, 1), (1, 33), (33, 33))
BLOCK = 100


def spell(text):
    """Write text as a wave: each character is a constant stretch."""
    return np.repeat(np.array([ord(c) / 256 for c in text], np.float32), BLOCK).repeat(8)


class SpellingRecognizer:
    """Transcribes what `spell` writes."""

    def __init__(self):
        self.calls = 0

    def transcribe(self, wave, sample_rate):
        self.calls += 1
        middles = wave[BLOCK * 4 :: BLOCK * 8]
        return "".join(chr(round(float(m) * 256)) for m in middles)


def draw_shape(canvas, shape, x, y, size, color):
    box = (x, y, x + size, y + size)
    if shape == "ball":
        canvas.ellipse(box, fill=color)
    elif shape == "box":
        canvas.rectangle(box, fill=color)
    else:
        canvas.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=color)


def draw_scene(rng):
    """Draw a scene and describe it as the prepared data does."""
    family = rng.choice(("ink", "one", "count", "pair"))
    background, ink = rng.choice(list(BACKGROUNDS)), rng.choice(list(INKS))
    first, second = rng.sample(SHAPES, 2)
    image = Image.new("RGB", (64, 64), BACKGROUNDS[background])
    canvas = ImageDraw.Draw(image)
    color = INKS[ink] if family == "ink" else (60, 60, 60)
    meta = {"set": "scene", "family": family, "background": background, "count": 1}
    meta |= {"objects": [first], "ink": ink if family == "ink" else None, "relation": None}
    if family == "pair":
        relation = rng.choice(("left of", "right of", "above", "below"))
        places = [(1, 16), (33, 16)] if relation.endswith("of") else [(16, 1), (16, 33)]
        if relation in ("right of", "below"):
            places.reverse()
        for shape, (x, y) in zip((first, second), places, strict=True):
            draw_shape(canvas, shape, x, y, 29, color)
        to_the = "to the " if relation.endswith("of") else ""
        caption = f"a {first} {to_the}{relation} a {second}"
        meta |= {"objects": [first, second], "relation": relation}
    elif family == "count":
        count = rng.randint(1, 4)
        for x, y in rng.sample(SLOTS, count):
            draw_shape(canvas, first, x, y, 28, color)
        plural = {"box": "boxes"}.get(first, first + "s") if count > 1 else first
        caption = f"{COUNTS[count]} {plural} on a {background} background"
        meta["count"] = count
    else:
        draw_shape(canvas, first, rng.randint(1, 12), rng.randint(1, 12), 44, color)
        noun = f"{ink} {first}" if family == "ink" else first
        caption = f"a {noun} on a {background} background"
    return image, {**meta, "caption": caption}


def sample_of(task, key, caption, meta, picture, sounds):
    """One sample of a task, with media given by key; new sounds are added to `sounds`."""

    def say(text):
        name = "s" + "".join(c if c.isalnum() else "-" for c in text)[:90]
        sounds[name] = text
        return Part("speech", key=name)

    image, text = Part("image", key=picture), Part("text", text=caption)
    question, answer = "what color is the background", meta["background"]
    asked = {"question": question, "answer": answer, "kind": "background"}
    both = (Part("text", text=answer), say(f"it is {answer}"))
    sides = {
        "asr": ((say(caption),), (text,), {"voice": "rms"}),
        "tts": ((text,), (say(caption),), {"voice": "rms"}),
        "t2i": ((text,), (image,), {}),
        "caption": ((image,), (text,), {}),
        "vqa": ((Part("text", text=question), image), (Part("text", text=answer),), asked),
        "s2i": ((say(caption),), (image,), {}),
        "svqa": ((say(question), image), both, asked),
        "sqa": ((say(question),), both, {"set": "fact", "answer": answer}),
        "tqa": ((Part("text", text=question),), both[:1], {"set": "fact", "answer": answer}),
    }
    user, assistant, extra = sides[task]
    return Sample(key, task, (Turn("user", user), Turn("assistant", assistant)), {**meta, **extra})


def with_codes(sample):
    """Stand-in codes: their values do not matter to what is tested here."""
    turns = tuple(
        replace(t, parts=tuple(replace(p, key=None, codes=(1, 2)) if p.key else p for p in t.parts))
        for t in sample.turns
    )
    return replace(sample, turns=turns)


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def flac(wave):
    out = io.BytesIO()
    soundfile.write(out, wave, 16000, format="FLAC", subtype="PCM_16")
    return out.getvalue()


@dataclass
class ToyData:
    """Where the folder is and what lies in it."""

    folder: Path
    codes: Path
    images: dict
    sounds: dict


def build_toy_data(folder, counts, tasks):
    codes = folder / "codes" / "toy"
    images, sounds = {}, {}
    for split, count in counts.items():
        rng = Random(split)
        drawn = [draw_scene(rng) for _ in range(count)]
        keys = [f"{split}-{i:04d}" for i in range(count)]
        images |= {k: image for k, (image, _) in zip(keys, drawn, strict=True)}
        for task in tasks:
            samples = [
                sample_of(task, f"{task}-{k}", meta["caption"], meta, k, sounds)
                for k, (_, meta) in zip(keys, drawn, strict=True)
            ]
            for place, change in ((folder / "tasks", lambda s: s), (codes, with_codes)):
                files = {f"{s.key}.json": json.dumps(change(s).to_json()).encode() for s in samples}
                write_tar(place / f"{task}-{split}-000000.tar", files.items())
    pictures = [(f"{key}.png", png(image)) for key, image in images.items()]
    write_tar(folder / "media/image-all-000000.tar", pictures)
    files = {}
    for key, text in sounds.items():
        files |= {
            f"{key}.flac": flac(spell(text)),
            f"{key}.json": json.dumps({"text": text}).encode(),
        }
    write_tar(folder / "media/speech-all-000000.tar", files.items())
    (folder / "manifest.json").write_text('{"preset": "toy"}')
    return ToyData(folder, codes, images, sounds)


NINE = ("asr", "tts", "t2i", "caption", "vqa", "s2i", "svqa", "sqa", "tqa")


class TableModel:
    """Looks responses up by sample key."""

    def __init__(self, responses):
        self.responses = responses

    def answer(self, samples, *, seed):
        for sample in samples:
            assert not sample.meta.keys() - {"voice", "answer_voice"}, "facts leaked"
            (answer,) = [t for t in sample.turns if t.role == "assistant"]
            assert not any(p.text or p.codes or p.key for p in answer.parts), "the answer leaked"
        return [self.responses.get(s.key, Response()) for s in samples]
