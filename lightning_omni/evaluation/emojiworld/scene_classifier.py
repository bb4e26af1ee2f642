"""Scene classifier: predicts objects, ink, background, count and relation from an image.

It is trained on no generated image. Background and ink are computed, as the median colour of the
border and of the most salient pixels; count and relation are predicted from the saliency map
alone, so that they do not depend on which object it is; only the objects need texture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_omni.evaluation.emojiworld.captions import NO_SCENE, Scene
from lightning_omni.pretrained import Pretrained

RELATIONS = (None, "left of", "above")
MAX_COUNT = 4
_SIZE = 64  # pixels; every image is resized to this before it is classified
_SALIENT = 0.35  # colour distance, in [-1, 1] units, at which a pixel is surely foreground


@dataclass(frozen=True, slots=True)
class SceneLogits:
    """Logits per attribute; `first` is the left or upper object of a pair, `second` the other."""

    first: Float[Tensor, "B objects"]
    second: Float[Tensor, "B objects"]
    count: Float[Tensor, "B counts"]
    relation: Float[Tensor, "B relations"]


class SceneClassifier(Pretrained):
    """Convolutional classifier of square images in [-1, 1].

    Args:
        objects: Names of the objects.
        inks: Names of the colours of silhouettes.
        backgrounds: Names of the background colours.
        width: Number of channels of the last convolution.
    """

    background_colors: Tensor
    ink_colors: Tensor

    def __init__(
        self, objects: list[str], inks: list[str], backgrounds: list[str], width: int
    ) -> None:
        super().__init__()
        self.objects, self.inks, self.backgrounds = objects, inks, backgrounds
        self.texture = nn.Sequential(
            _conv_block(4, width // 4, stride=2),
            _conv_block(width // 4, width // 2, stride=2),
            _conv_block(width // 2, width, stride=2),
            _conv_block(width, width, stride=1),
        )
        self.layout = nn.Sequential(
            nn.AdaptiveAvgPool2d(32),
            _conv_block(1, 16, stride=2),
            _conv_block(16, 32, stride=2),
            nn.Flatten(),
        )
        self.first = nn.Linear(5 * width, len(objects))
        self.second = nn.Linear(5 * width, len(objects))
        self.count = nn.Linear(32 * 64, MAX_COUNT)
        self.relation = nn.Linear(32 * 64, len(RELATIONS))
        self.register_buffer("background_colors", torch.zeros(len(backgrounds), 3))
        self.register_buffer("ink_colors", torch.zeros(max(1, len(inks)), 3))

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> SceneLogits:
        """Compute the logits of objects, count and relation."""
        salient = saliency(images)
        relief = (images - border_color(images)[:, :, None, None]) * salient
        features = pool_halves(self.texture(torch.cat((relief, salient), dim=1)))
        layout = self.layout(salient)
        return SceneLogits(
            self.first(features), self.second(features), self.count(layout), self.relation(layout)
        )

    @torch.no_grad()
    def classify(self, images: Float[Tensor, "B 3 Y X"]) -> list[Scene]:
        """Return the scene of each image.

        The ink is always the nearest one, to be compared only where the caption names an ink.
        """
        logits = self(images)
        relations = logits.relation.argmax(-1).tolist()
        counts = (1 + logits.count.argmax(-1)).tolist()
        firsts, seconds = logits.first.argmax(-1).tolist(), logits.second.argmax(-1).tolist()
        backgrounds = nearest_prototype(border_color(images), self.background_colors)
        inks = nearest_prototype(ink_color(images), self.ink_colors)
        scenes = []
        for i, relation in enumerate(relations):
            is_pair = RELATIONS[relation] is not None
            objects = (firsts[i], seconds[i]) if is_pair else (firsts[i],)
            scenes.append(
                Scene(
                    tuple(self.objects[o] for o in objects),
                    self.inks[inks[i]] if self.inks else None,
                    self.backgrounds[backgrounds[i]],
                    1 if is_pair else counts[i],
                    RELATIONS[relation],
                )
            )
        return scenes


def scene_matches(predicted: Scene | None, reference: Scene) -> dict[str, bool]:
    """Return whether a prediction is right about each attribute that the reference states.

    Without a prediction all are wrong. `attributes` says whether all are right.
    """
    found = predicted or NO_SCENE
    matches = {"object": sorted(found.objects) == sorted(reference.objects)}
    for name in ("background", "ink"):
        if (value := getattr(reference, name)) is not None:
            matches[name] = getattr(found, name) == value
    if reference.relation is None:
        matches["count"] = found.count == reference.count
    else:
        is_ordered = found.objects == reference.objects
        matches["relation"] = is_ordered and found.relation == reference.relation
    return {**matches, "attributes": all(matches.values())}


def images_to_tensor(images: Sequence[Image.Image]) -> Float[Tensor, "B 3 Y X"]:
    """Stack images at the classifier's input size, in [-1, 1]."""
    sized = [
        np.asarray(i.convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
        for i in images
    ]
    stacked = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


def border_color(images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3"]:
    """Return the median colour of the outermost pixels: the background of a scene."""
    top, bottom = images[:, :, :2].flatten(2), images[:, :, -2:].flatten(2)
    left, right = images[..., :2].flatten(2), images[..., -2:].flatten(2)
    return torch.cat((top, bottom, left, right), dim=2).median(dim=2).values


def saliency(images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 1 Y X"]:
    """Return the distance of each pixel to the background colour, clipped to [0, 1]."""
    distance = (images - border_color(images)[:, :, None, None]).abs().amax(dim=1, keepdim=True)
    return (distance / _SALIENT).clamp(max=1)


def ink_color(images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3"]:
    """Return the median colour of the eighth of the pixels farthest from the background colour."""
    flat = images.flatten(2)
    distance = (flat - border_color(images)[:, :, None]).norm(dim=1)
    farthest = distance.topk(max(1, flat.shape[2] // 8), dim=1).indices
    return flat.gather(2, farthest[:, None].expand(-1, 3, -1)).median(dim=2).values


def nearest_prototype(colors: Float[Tensor, "B 3"], prototypes: Float[Tensor, "N 3"]) -> list[int]:
    """Return the index of the closest prototype per colour."""
    indices: Int[Tensor, " B"] = torch.cdist(colors, prototypes).argmin(dim=1)
    return [int(i) for i in indices]


def pool_halves(features: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C5"]:
    """Max-pool the left, right, upper and lower halves and the whole, to tell pairs apart."""
    half = features.shape[-1] // 2
    views = (
        features[..., :half],
        features[..., half:],
        features[..., :half, :],
        features[..., half:, :],
        features,
    )
    return torch.cat([F.adaptive_max_pool2d(v, 1).flatten(1) for v in views], dim=1)


def _conv_block(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
