"""A judge of drawn scenes: reads object, ink, background, count and relation off an image.

It never sees a generated image in training. Background and ink are read analytically, as the
median colour of the border and of the most salient pixels; count and relation from the saliency
alone, so that they cannot lean on which object it is; only the objects need texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_omni.evaluation.emojiworld.captions import Scene
from lightning_omni.pretrained import Pretrained

RELATIONS = (None, "left of", "above")
MAX_COUNT = 4
_SALIENT = 0.35  # colour distance, in [-1, 1] units, at which a pixel is surely foreground


@dataclass(frozen=True, slots=True)
class SceneLogits:
    """Scores per attribute. Positions are canonical: first is left or above, second the other."""

    first: Float[Tensor, "B objects"]
    second: Float[Tensor, "B objects"]
    count: Float[Tensor, "B counts"]
    relation: Float[Tensor, "B relations"]


class SceneOracle(Pretrained):
    """Convolutional reader of square scenes in [-1, 1].

    Args:
        objects: Names the oracle can say.
        inks: Names of the colours a silhouette may have.
        backgrounds: Names of the background colours.
        width: Channels of the last convolution.
    """

    background_colors: Tensor
    ink_colors: Tensor

    def __init__(
        self, objects: list[str], inks: list[str], backgrounds: list[str], width: int
    ) -> None:
        super().__init__()
        self.objects, self.inks, self.backgrounds = objects, inks, backgrounds
        self.texture = nn.Sequential(
            _conv(4, width // 4, stride=2),
            _conv(width // 4, width // 2, stride=2),
            _conv(width // 2, width, stride=2),
            _conv(width, width, stride=1),
        )
        self.layout = nn.Sequential(
            nn.AdaptiveAvgPool2d(32), _conv(1, 16, stride=2), _conv(16, 32, stride=2), nn.Flatten()
        )
        self.first = nn.Linear(5 * width, len(objects))
        self.second = nn.Linear(5 * width, len(objects))
        self.count = nn.Linear(32 * 64, MAX_COUNT)
        self.relation = nn.Linear(32 * 64, len(RELATIONS))
        self.register_buffer("background_colors", torch.zeros(len(backgrounds), 3))
        self.register_buffer("ink_colors", torch.zeros(max(1, len(inks)), 3))

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> SceneLogits:
        """Score objects, count and relation."""
        salient = saliency(images)
        relief = (images - border_color(images)[:, :, None, None]) * salient
        features = pool_places(self.texture(torch.cat((relief, salient), dim=1)))
        layout = self.layout(salient)
        return SceneLogits(
            self.first(features), self.second(features), self.count(layout), self.relation(layout)
        )

    @torch.no_grad()
    def read(self, images: Float[Tensor, "B 3 Y X"]) -> list[Scene]:
        """Name what each image shows.

        The ink is always named: it is the nearest one, to be compared only where an ink was asked.
        """
        logits = self(images)
        relations = logits.relation.argmax(-1).tolist()
        counts = (1 + logits.count.argmax(-1)).tolist()
        firsts, seconds = logits.first.argmax(-1).tolist(), logits.second.argmax(-1).tolist()
        backgrounds = nearest(border_color(images), self.background_colors)
        inks = nearest(ink_color(images), self.ink_colors)
        scenes = []
        for i, relation in enumerate(relations):
            is_pair = RELATIONS[relation] is not None
            places = (firsts[i], seconds[i]) if is_pair else (firsts[i],)
            scenes.append(
                Scene(
                    tuple(self.objects[o] for o in places),
                    self.inks[inks[i]] if self.inks else None,
                    self.backgrounds[backgrounds[i]],
                    1 if is_pair else counts[i],
                    RELATIONS[relation],
                )
            )
        return scenes


def border_color(images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3"]:
    """Median colour of the outermost pixels: the background of a scene."""
    top, bottom = images[:, :, :2].flatten(2), images[:, :, -2:].flatten(2)
    left, right = images[..., :2].flatten(2), images[..., -2:].flatten(2)
    return torch.cat((top, bottom, left, right), dim=2).median(dim=2).values


def saliency(images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 1 Y X"]:
    """How far each pixel is from the background, from 0 to 1."""
    distance = (images - border_color(images)[:, :, None, None]).abs().amax(dim=1, keepdim=True)
    return (distance / _SALIENT).clamp(max=1)


def ink_color(images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3"]:
    """Median colour of the eighth of the pixels that differs most from the background."""
    flat = images.flatten(2)
    distance = (flat - border_color(images)[:, :, None]).norm(dim=1)
    places = distance.topk(max(1, flat.shape[2] // 8), dim=1).indices
    return flat.gather(2, places[:, None].expand(-1, 3, -1)).median(dim=2).values


def nearest(colors: Float[Tensor, "B 3"], prototypes: Float[Tensor, "N 3"]) -> list[int]:
    """Index of the closest prototype per colour."""
    indices: Int[Tensor, " B"] = torch.cdist(colors, prototypes).argmin(dim=1)
    return [int(i) for i in indices]


def pool_places(features: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C5"]:
    """Pool the left, right, upper and lower halves and the whole: pairs keep their order."""
    half = features.shape[-1] // 2
    views = (
        features[..., :half],
        features[..., half:],
        features[..., :half, :],
        features[..., half:, :],
        features,
    )
    return torch.cat([F.adaptive_max_pool2d(v, 1).flatten(1) for v in views], dim=1)


def _conv(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
