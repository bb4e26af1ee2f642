"""Splits by hash, and combinations held out from training.

Splits are decided by SHA-1 and not by random numbers, so they are equal on all machines and for all
presets.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import ceil
from typing import Literal

Key = tuple[str, ...]
"""A combination: `("ink", "whale", "green")`, `("background", "whale", "pink")`,
`("count", "whale", "3")` or `("pair", "cat", "whale")`."""

Subset = Literal["train", "comp", "drop"]


def digest(*parts: object) -> str:
    """Return the hexadecimal SHA-1 of the parts, joined by a bar."""
    return hashlib.sha1("|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def hash_bucket(*parts: object, num_buckets: int) -> int:
    """Return the bucket of a key, in [0, num_buckets)."""
    return int(digest(*parts)[:8], 16) % num_buckets


def seeded(*parts: object) -> random.Random:
    """Return a random generator seeded by the parts."""
    return random.Random(int(digest(*parts), 16))


def hashed_order(words: Iterable[str], *salt: object) -> list[str]:
    """Sort distinct words by their hash, which is a deterministic shuffle."""
    return sorted(set(words), key=lambda w: digest(*salt, w))


def hashed_share(words: Iterable[str], share: float, *salt: object) -> frozenset[str]:
    """Choose a share of the words by hash, at least one."""
    order = hashed_order(words, *salt)
    return frozenset(order[: max(1, round(share * len(order)))])


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Combinations that no training sample contains in any modality.

    They are object x ink (H1), object x background (H2), object x count (H3) and unordered object
    pairs (H4). Training contains each member of a combination with most of its partners, so tests
    contain new combinations of known parts.
    """

    keys: frozenset[Key]

    @classmethod
    def choose(
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
        return cls(frozenset(key for family in families for key in _choose(family, share)))

    def subset_of(self, keys: Sequence[Key]) -> Subset:
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


def _choose(family: list[Key], share: float) -> list[Key]:
    """Choose keys in hash order, at most a third of the combinations of each member."""
    partners = Counter(member for key in family for member in key[1:])
    taken: Counter[str] = Counter()
    chosen: list[Key] = []
    for key in sorted(family, key=lambda k: digest(*k)):
        if len(chosen) >= ceil(share * len(family)):
            break
        if all(taken[m] < partners[m] // 3 for m in key[1:]):
            taken.update(key[1:])
            chosen.append(key)
    return chosen
