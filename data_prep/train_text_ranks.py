"""Train the bundled byte-pair encoding ranks: `python -m data_prep.train_text_ranks`.

The training text is that of the default corpus: captions, questions, answers, facts and sentences.
"""

from __future__ import annotations

import argparse
import base64
import logging
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from pathlib import Path

from data_prep.emojiworld import facts
from data_prep.emojiworld.lexicon import BACKGROUNDS, INKS, OBJECTS, is_plural_only
from data_prep.emojiworld.scene_text import RELATIONS, SceneContent
from data_prep.emojiworld.sentences import wordnet_sentences
from data_prep.sources import SourceError, Sources

log = logging.getLogger(__name__)

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
)
"""Regular expression that splits text before merging; encoders must use the same one."""

_ASSET = Path(__file__).resolve().parent.parent / "lightning_omni" / "assets" / "text_1k.tiktoken"
_ROLES = (
    "system",
    "user",
    "assistant",
    "image",
    "speech",
    "voice",
    "text",
    "describe",
    "draw",
    "write",
    "say",
    "answer",
    "flite",
    "rms",
    "slt",
    "kal",
)
_PUNCTUATION = (
    "Hello! How are you? I'm fine, thanks. It's 10 o'clock (or 11:30); see you in 2 minutes.",
    "What is this? That's a picture of two dogs. Which one is bigger? The one on the left.",
)


def training_sentences(sources: Sources) -> Iterator[str]:
    """Yield all sentences of the default corpus, and some English text with punctuation."""
    yield from chain.from_iterable(_scene_sentences(c) for c in _scene_contents())
    known = facts.everyday_facts() + facts.sums_from_zero(20)
    try:
        known += facts.country_facts(sources.fetch_npm_folder("countries"))
    except SourceError as error:
        log.warning("training without countries: %s", error)
    for fact in known:
        yield from (fact.question, fact.answer, fact.sentence)
    try:
        folder = sources.fetch_deb_folder("wordnet") / "usr" / "share" / "wordnet"
        yield from wordnet_sentences(folder, min_words=3, max_words=9)[:6000]
    except SourceError as error:
        log.warning("training without WordNet: %s", error)
    for sentence in _PUNCTUATION * 8:
        yield from (sentence, sentence.capitalize())
    yield from (word for role in _ROLES for word in (role, " " + role) * 20)


def train_ranks(sentences: Iterable[str], *, size: int) -> dict[bytes, int]:
    """Learn byte-pair encoding ranks.

    Args:
        sentences: Training text.
        size: Number of ranks, including the 256 bytes.
    """
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(sentences), size, pattern=PATTERN)
    return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}


def write_ranks(ranks: dict[bytes, int], path: Path) -> None:
    """Write one `base64 rank` line per token in rank order, the format of tiktoken."""
    lines = [
        f"{base64.b64encode(token).decode()} {rank}"
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def train_bundled_ranks() -> None:
    """Train on the available sources and write the ranks file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/lightning_omni"), help="folder for downloads"
    )
    parser.add_argument("--out", type=Path, default=_ASSET, help="ranks file to write")
    parser.add_argument("--size", type=int, default=1024, help="number of ranks")
    args = parser.parse_args()
    ranks = train_ranks(training_sentences(Sources(args.cache.expanduser())), size=args.size)
    write_ranks(ranks, args.out)
    log.info("%d ranks in %s", len(ranks), args.out)


def _scene_sentences(content: SceneContent) -> Iterator[str]:
    yield content.caption()
    for question in content.questions():
        yield from (question.text, question.answer, question.sentence)


def _scene_contents() -> Iterator[SceneContent]:
    """Yield every object on every background, with inks, counts and some relations."""
    for word in OBJECTS:
        for i, background in enumerate(BACKGROUNDS):
            yield SceneContent("one", (word,), background)
            ink = list(INKS)[i % len(INKS)]
            yield SceneContent("ink", (word,), background, ink=ink)
            if not is_plural_only(word):
                yield SceneContent("count", (word,), background, count=1 + i % 4)
    for i, pair in enumerate(combinations(OBJECTS, 2)):
        yield SceneContent("pair", pair, "white", relation=RELATIONS[i % 4])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_bundled_ranks()
