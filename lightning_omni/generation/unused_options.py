"""Options of sampling that nothing in a call can use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.part_draft import PartDraft, by_place
from lightning_omni.tasks import task_named
from lightning_omni.types import Sample

_ENDING = {"text", "speech"}


@dataclass(frozen=True, slots=True)
class Scope:
    """What the requests and answers of a call hold, by modality.

    Attributes:
        asked: In requests.
        filled: In answers, with something open.
        whole: In answers, with nothing given.
    """

    asked: frozenset[str]
    filled: frozenset[str]
    whole: frozenset[str]


def scope_of_samples(samples: Iterable[Sample], drafts: Iterable[Mapping[int, PartDraft]]) -> Scope:
    """The scope of unanswered samples with what is given of their answers."""
    asked, filled, whole = set(), set(), set()
    for sample, own in zip(samples, drafts, strict=True):
        users = [turn for turn in sample.turns[:-1] if turn.role != "assistant"]
        asked |= {part.modality for turn in users for part in turn.parts}
        placed = by_place(sample, own)
        for i, part in enumerate(sample.turns[-1].parts):
            if i not in placed:
                whole.add(part.modality)
            if i not in placed or not placed[i].is_whole:
                filled.add(part.modality)
    return Scope(frozenset(asked), frozenset(filled), frozenset(whole))


def scope_of_tasks(tasks: Iterable[str]) -> Scope:
    """The scope of tasks whose answers are filled whole; speech may be written down first."""
    every = [task_named(task) for task in tasks]
    asked = frozenset(name for task in every for name in task.asks)
    answered = {name for task in every for name in task.answers}
    filled = frozenset(answered | ({"text"} if "speech" in asked else set()))
    return Scope(asked, filled, filled)


def check_used(sampling: Sampling, scope: Scope) -> None:
    """Refuse an option that could not change any answer of the call.

    Raises:
        OmniError: If there is one.
    """
    shifts = sampling.shift if isinstance(sampling.shift, dict) else {}
    unasked = [name for name in sampling.guidance_scales() if name and name not in scope.asked]
    unused = [
        *((f"guidance.{name}", f"no request holds {name}") for name in unasked),
        *((f"shift.{n}", f"no {n} is filled") for n in shifts if n not in scope.filled),
    ]
    if sampling.grow is not None and "text" not in scope.whole:
        unused.append(("grow", "only texts that are filled whole grow, and none is"))
    if sampling.length != "fitted" and not scope.whole & _ENDING:
        unused.append(("length", "no text or speech is filled whole"))
    if not sampling.stop_at_end and not scope.filled & _ENDING:
        unused.append(("stop_at_end", "no text or speech is filled"))
    for option, why in unused:
        raise OmniError(f"{option} is given but has no effect here: {why}; leave it out")


def check_ways(ways: Mapping[str, Sampling], tasks: Iterable[str]) -> None:
    """The same for ways of sampling by name, each of which some of the tasks must use.

    Raises:
        OmniError: If one has an option that none uses.
    """
    scope = scope_of_tasks(tasks)
    for name, way in ways.items():
        try:
            check_used(way, scope)
        except OmniError as error:
            raise OmniError(f"'{name}': {error}") from error
