"""Short English example sentences of WordNet, for asr and tts."""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.hashing import sort_by_hash

_BLOCKED = re.compile(
    r"\b(kill|murder|rape|sex|nazi|jew|negro|slave|drunk|bastard|damn|hell|whore|suicide|nude|"
    r"naked|breast|penis|bomb|corpse|jap|gypsy|idiot|drug|heroin|cocaine|shit|fuck|bitch)\w*"
)


def wordnet_sentences(wordnet: Path, *, min_words: int, max_words: int) -> list[str]:
    """Return example sentences of plain letters in lower case, in hash order."""
    found: list[str] = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"data.{part}").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                found += re.findall(r'"([^"]+)"', line.partition(" | ")[2])
    return sort_by_hash(
        (s for s in map(normalize_sentence, found) if _is_plain_sentence(s, min_words, max_words)),
        "sentence",
    )


def normalize_sentence(text: str) -> str:
    """Convert a sentence to lower case without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def _is_plain_sentence(sentence: str, min_words: int, max_words: int) -> bool:
    fits = min_words <= len(sentence.split()) <= max_words
    return (
        fits and re.fullmatch(r"[a-z' ]+", sentence) is not None and not _BLOCKED.search(sentence)
    )
