"""Splits by hash, and combinations held out from training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import ceil
from typing import Literal

from data_prep.hashing import sha1_hex

Key = tuple[str, ...]
"""A combination: `("ink", "whale", "green")`, `("background", "whale", "pink")`,
`("count", "whale", "3")` or `("pair", "cat", "whale")`."""

Subset = Literal["train", "comp", "drop"]


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Combinations that no training sample contains in any modality.

    They are object x ink (H1), object x background (H2), object x count (H3) and unordered object
    pairs (H4). Training contains each member of a combination with most of its partners, so tests
    contain new combinations of known parts.
    """

    keys: frozenset[Key]

    @classmethod
    def choose_combinations(
        cls,
        *,
        objects: Sequence[str],
        inks: Sequence[str],
        backgrounds: Sequence[str],
        counts: Sequence[str],
        has_pairs: bool,
        share: float,
    ) -> HoldOut:
        """Hold out a share of each kind of combination, chosen by hash."""
        pairs = combinations(sorted(objects), 2) if has_pairs else ()
        families: list[list[Key]] = [
            [("ink", *pair) for pair in product(objects, inks)],
            [("background", *pair) for pair in product(objects, backgrounds)],
            [("count", *pair) for pair in product(objects, counts)],
            [("pair", *pair) for pair in pairs],
        ]
        return cls(
            frozenset(key for family in families for key in _choose_held_out_keys(family, share))
        )

    def subset_of_keys(self, keys: Sequence[Key]) -> Subset:
        """Return the subset of a scene with these combinations: train, comp (held out) or drop.

        Captions of pairs do not name the background. A pair that is held out only because of its
        background could have the caption of a training scene, so it is dropped.
        """
        held = [key for key in keys if key in self.keys]
        if not held:
            return "train"
        is_pair = any(key[0] == "pair" for key in keys)
        if is_pair and all(key[0] == "background" for key in held):
            return "drop"
        return "comp"


def _choose_held_out_keys(family: list[Key], share: float) -> list[Key]:
    """Choose keys in hash order, at most a third of the combinations of each member."""
    partners = Counter(member for key in family for member in key[1:])
    taken: Counter[str] = Counter()
    chosen: list[Key] = []
    for key in sorted(family, key=lambda k: sha1_hex(*k)):
        if len(chosen) >= ceil(share * len(family)):
            break
        if all(taken[m] < partners[m] // 3 for m in key[1:]):
            taken.update(key[1:])
            chosen.append(key)
    return chosen
