"""Which part of the world a training run may see: hash buckets and held-out combinations.

Nothing here draws a random number: membership follows from SHA-1, so two machines, two presets and
two years agree on it.
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

Bucket = Literal["train", "comp", "drop"]


def digest(*parts: object) -> str:
    """Hexadecimal SHA-1 of the parts joined by a bar."""
    return hashlib.sha1("|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def bucket(*parts: object, of: int) -> int:
    """Bucket in [0, of) of a key."""
    return int(digest(*parts)[:8], 16) % of


def seeded(*parts: object) -> random.Random:
    """Return a generator whose stream depends on the parts only."""
    return random.Random(int(digest(*parts), 16))


def hashed_order(words: Iterable[str], *salt: object) -> list[str]:
    """Sort words by their hash: a shuffle that never changes."""
    return sorted(set(words), key=lambda w: digest(*salt, w))


def hashed_share(words: Iterable[str], share: float, *salt: object) -> frozenset[str]:
    """Pick a share of the words by hash, at least one."""
    order = hashed_order(words, *salt)
    return frozenset(order[: max(1, round(share * len(order)))])


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Combinations no training sample may contain in any modality.

    Held out are object x ink (H1), object x background (H2), object x count (H3) and unordered
    object pairs (H4). Each member of a combination stays in training with most of its partners, so
    the test asks for a new combination of known parts, also where a world has four objects.
    """

    keys: frozenset[Key]

    @classmethod
    def of(
        cls,
        *,
        objects: Sequence[str],
        inks: Sequence[str],
        backgrounds: Sequence[str],
        counts: Sequence[str],
        has_pairs: bool,
        share: float,
    ) -> HoldOut:
        """Choose `share` of each kind of combination, in hash order."""
        pairs = combinations(sorted(objects), 2) if has_pairs else ()
        families: list[list[Key]] = [
            [("ink", *pair) for pair in product(objects, inks)],
            [("background", *pair) for pair in product(objects, backgrounds)],
            [("count", *pair) for pair in product(objects, counts)],
            [("pair", *pair) for pair in pairs],
        ]
        return cls(frozenset(key for family in families for key in _choose(family, share)))

    def bucket(self, keys: Sequence[Key]) -> Bucket:
        """Say where a scene with these combinations belongs.

        The caption of a pair does not name the background. A pair whose only held-out combination
        is the unsaid one would put a caption of training into the test, so it is dropped.
        """
        held = [key for key in keys if key in self.keys]
        if not held:
            return "train"
        is_pair = any(key[0] == "pair" for key in keys)
        if is_pair and all(key[0] == "background" for key in held):
            return "drop"
        return "comp"


def _choose(family: list[Key], share: float) -> list[Key]:
    """Take the first keys in hash order, at most a third of any member's combinations."""
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
