"""One or more of every sampler, for laws that all must keep.

A class that is not listed is taken with its default arguments.
"""

import inspect
import pkgutil
from importlib import import_module

import lightning_omni.samplers
from lightning_omni.samplers.ancestral import Ancestral
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.entropy_bounded import EntropyBounded
from lightning_omni.samplers.entropy_penalty import EntropyPenalty
from lightning_omni.samplers.factor import Factor
from lightning_omni.samplers.klass import KLASS
from lightning_omni.samplers.margin import Margin
from lightning_omni.samplers.maskgit import MaskGIT
from lightning_omni.samplers.remdm import ReMDM
from lightning_omni.samplers.threshold import Threshold

SAMPLERS = [
    Ancestral(),
    Confidence(),
    EntropyPenalty(),
    EntropyPenalty(
        temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.3, position_penalty=2.0
    ),
    MaskGIT(),
    Margin(),
    Margin(temperature=0.7),
    Threshold(0.3),
    Factor(0.5),
    EntropyBounded(1.0),
    EntropyBounded(1.0, temperature=0.7),
    KLASS(0.3, 0.5),
    KLASS(0.3, 0.5, history=2, temperature=0.7),
    ReMDM(0.3),
    ReMDM(0.8, "rescale", start=0.9, stop=0.2),
    ReMDM(0.8, "confidence"),
]
for module in pkgutil.iter_modules(lightning_omni.samplers.__path__, "lightning_omni.samplers."):
    for cls in vars(import_module(module.name)).values():
        is_sampler = inspect.isclass(cls) and issubclass(cls, Sampler)
        if is_sampler and not inspect.isabstract(cls) and cls not in map(type, SAMPLERS):
            SAMPLERS.append(cls())
GREEDY = [
    Confidence(),
    Margin(),
    Threshold(0.3),
    Factor(0.5),
    EntropyBounded(1.0),
    EntropyPenalty(),
    EntropyPenalty(repetition_penalty=1.2, position_penalty=2.0, free_positions=2),
    KLASS(0.3, 0.5),
]


def name(sampler):
    """For test ids."""
    return type(sampler).__name__
