from random import Random

import pytest
import torch
from toy_world import draw_scene

from lightning_omni.evaluation.emojiworld import train_classifier as training
from lightning_omni.evaluation.emojiworld.captions import Scene
from lightning_omni.evaluation.emojiworld.metadata import scene_from_meta
from lightning_omni.evaluation.emojiworld.scene_classifier import (
    SceneClassifier,
    border_color,
    images_to_tensor,
    scene_matches,
)
from lightning_omni.evaluation.emojiworld.train_classifier import (
    LabelledScenes,
    TrainedClassifier,
    augment_scenes,
    measure_accuracy,
    train_classifier,
    train_to_target,
)


def scenes(seed, count):
    rng = Random(seed)
    drawn = [draw_scene(rng) for _ in range(count)]
    return LabelledScenes(
        images_to_tensor([i for i, _ in drawn]), [scene_from_meta(m) for _, m in drawn]
    )


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(scenes("train", 300), seed=0, num_steps=120)


def test_held_out_scenes_are_classified(classifier):
    got = measure_accuracy(classifier, scenes("test", 150))
    assert got["background"] == got["ink"] == 1
    assert min(got["object"], got["count"], got["relation"], got["attributes"]) > 0.9


@pytest.mark.parametrize(
    ("good_from", "attempts"), [(1, [5]), (3, [5, 10, 20]), (9, [5, 10, 20, 40])]
)
def test_below_the_target_accuracy_training_is_repeated_for_longer_at_most_three_times(
    monkeypatch, good_from, attempts
):
    tried = []

    def train(seen, *, seed, num_steps):
        tried.append(num_steps)

    def measure(trained, unseen):
        return {"attributes": 0.99 if len(tried) >= good_from else 0.97}

    monkeypatch.setattr(training, "train_classifier", train)
    monkeypatch.setattr(training, "measure_accuracy", measure)
    _, held_out = train_to_target(None, None, seed=0, num_steps=5)
    assert tried == attempts
    assert held_out["attributes"] == (0.99 if good_from < 9 else 0.97)


def test_an_accuracy_below_the_target_stands_in_the_results():
    short = TrainedClassifier(None, {"attributes": 0.946})
    assert short.accuracy_report()["shortfall"] == pytest.approx(0.034)
    assert "94.6% of held-out" in short.accuracy_note()
    assert "not reached" in short.accuracy_note()
    assert TrainedClassifier(None, {"attributes": 0.99}).accuracy_report()["shortfall"] == 0


def test_a_saved_classifier_predicts_the_same(classifier, tmp_path):
    test = scenes("test", 20).images
    again = SceneClassifier.from_pretrained(classifier.save_pretrained(tmp_path))
    assert again.classify(test) == classifier.classify(test)


def test_the_background_is_the_colour_of_the_border():
    images = torch.full((1, 3, 64, 64), 0.5)
    images[:, :, 10:50, 10:50] = -1
    torch.testing.assert_close(border_color(images), torch.full((1, 3), 0.5))


def test_augmentation_is_a_function_of_the_generator_and_stays_in_range():
    images = scenes("train", 8).images
    one, two = (augment_scenes(images, rng=torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(one, two)
    assert one.abs().max() <= 1


def test_an_unreadable_image_is_wrong_in_everything():
    assert not any(scene_matches(None, Scene(("a", "b"), None, "pink", 1, "above")).values())


def test_swapped_places_keep_the_objects_but_not_the_relation():
    wanted = Scene(("a", "b"), None, None, 1, "above")
    verdict = scene_matches(Scene(("b", "a"), None, "pink", 1, "above"), wanted)
    assert verdict == {"object": True, "relation": False, "attributes": False}
