from random import Random

import pytest
import torch
from toy_world import draw_scene

from lightning_omni.evaluation.emojiworld import train_classifier as oracle_training
from lightning_omni.evaluation.emojiworld.captions import Scene
from lightning_omni.evaluation.emojiworld.scene_classifier import SceneOracle, border_color
from lightning_omni.evaluation.emojiworld.train_classifier import (
    Scenes,
    accuracy,
    augment,
    judge_scene,
    to_tensor,
    train_oracle,
    train_until_good,
    truth_of,
)


def scenes(seed, count):
    rng = Random(seed)
    drawn = [draw_scene(rng) for _ in range(count)]
    return Scenes(to_tensor([i for i, _ in drawn]), [truth_of(m) for _, m in drawn])


@pytest.fixture(scope="module")
def oracle():
    return train_oracle(scenes("train", 300), seed=0, num_steps=120)


def test_the_oracle_reads_held_out_scenes(oracle):
    got = accuracy(oracle, scenes("test", 150))
    assert got["background"] == got["ink"] == 1
    assert min(got["object"], got["count"], got["relation"], got["attributes"]) > 0.9


@pytest.mark.parametrize(
    ("good_from", "attempts"), [(1, [5]), (3, [5, 10, 20]), (9, [5, 10, 20, 40])]
)
def test_an_oracle_that_misreads_is_trained_anew_for_longer(monkeypatch, good_from, attempts):
    tried = []

    def train(seen, *, seed, num_steps):
        tried.append(num_steps)

    def measure(trained, unseen):
        return {"attributes": 0.99 if len(tried) >= good_from else 0.97}

    monkeypatch.setattr(oracle_training, "train_oracle", train)
    monkeypatch.setattr(oracle_training, "accuracy", measure)
    _, held_out = train_until_good(None, None, seed=0, num_steps=5)
    assert tried == attempts
    assert held_out["attributes"] == (0.99 if good_from < 9 else 0.97)


def test_the_oracle_survives_saving(oracle, tmp_path):
    test = scenes("test", 20).images
    again = SceneOracle.from_pretrained(oracle.save_pretrained(tmp_path))
    assert again.read(test) == oracle.read(test)


def test_the_background_is_the_colour_of_the_border():
    images = torch.full((1, 3, 64, 64), 0.5)
    images[:, :, 10:50, 10:50] = -1
    torch.testing.assert_close(border_color(images), torch.full((1, 3), 0.5))


def test_augmentation_is_a_function_of_the_generator_and_stays_in_range():
    images = scenes("train", 8).images
    one, two = (augment(images, rng=torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(one, two)
    assert one.abs().max() <= 1


def test_an_unreadable_image_is_wrong_in_everything():
    assert not any(judge_scene(None, Scene(("a", "b"), None, "pink", 1, "above")).values())


def test_swapped_places_keep_the_objects_but_not_the_relation():
    wanted = Scene(("a", "b"), None, None, 1, "above")
    verdict = judge_scene(Scene(("b", "a"), None, "pink", 1, "above"), wanted)
    assert verdict == {"object": True, "relation": False, "attributes": False}
