from random import Random

import pytest
import torch
from toy_world import draw_scene

from lightning_omni.evaluation.caption import Scene
from lightning_omni.evaluation.oracle_training import (
    Scenes,
    accuracy,
    augment,
    judge_scene,
    to_tensor,
    train_oracle,
    truth_of,
)
from lightning_omni.evaluation.scene_oracle import SceneOracle, border_color


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
