"""Choices and random generators fixed by SHA-1: equal on all machines and for all presets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable


def sha1_hex(*parts: object) -> str:
    """Return the hexadecimal SHA-1 of the parts, joined by a bar."""
    return hashlib.sha1("|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def hash_bucket(*parts: object, num_buckets: int) -> int:
    """Return the bucket of a key, in [0, num_buckets)."""
    return int(sha1_hex(*parts)[:8], 16) % num_buckets


def seeded_rng(*parts: object) -> random.Random:
    """Return a random generator seeded by the parts."""
    return random.Random(int(sha1_hex(*parts), 16))


def sort_by_hash(words: Iterable[str], *salt: object) -> list[str]:
    """Sort distinct words by their hash, which is a deterministic shuffle."""
    return sorted(set(words), key=lambda w: sha1_hex(*salt, w))


def choose_share_by_hash(words: Iterable[str], share: float, *salt: object) -> frozenset[str]:
    """Choose a share of the words by hash, at least one."""
    order = sort_by_hash(words, *salt)
    return frozenset(order[: max(1, round(share * len(order)))])
