"""One id space: text, then special tokens, then one appended span of codes per modality."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.modalities import TEXT, modality_named

SpecialTokensName = Literal["native", "released", "own"]
"""`own` is the old name of `native`."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """A set of special tokens.

    Attributes:
        names: Names in the order of their ids, which follow those of text.
        ends: By modality, the tokens after which an answer is over. Default for a modality: the pad
            and its terminator.
        roles: `{name used in this package: name in this set}`, where they differ.
        inherited: Number of leading names that published text models have too.
    """

    names: tuple[str, ...]
    ends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    inherited: int = 0

    def index_of(self, token: str) -> int:
        """Return the index of a token in the set, by either name."""
        return self.names.index(self.roles.get(token, token))


def _read_special_token_sets() -> dict[SpecialTokensName, SpecialTokens]:
    path = Path(__file__).parent / "assets" / "special_tokens.json"
    sets = json.loads(path.read_text("utf-8"))
    for tokens in sets.values():
        tokens["names"] = tuple(tokens["names"])
        tokens["ends"] = {kind: tuple(ends) for kind, ends in tokens.get("ends", {}).items()}
    return {name: SpecialTokens(**tokens) for name, tokens in sets.items()}


SETS = _read_special_token_sets()
NATIVE, RELEASED = SETS["native"], SETS["released"]
"""`RELEASED`: special tokens of Qwen2.5, of Dream, then of the Omni-Diffusion release,
arXiv:2603.06577. The first 24, up to the mask, are those of Qwen2.5 and Dream.

With Qwen2.5's 151,643 text ids, 16,384 speech and 8,192 image codes all ids equal the release's.
"""
PAD = "<|endoftext|>"


def canonical_special_tokens(name: str) -> SpecialTokensName:
    """Return the current name of a set of special tokens.

    Raises:
        OmniError: If there is no such set.
    """
    for known in SETS:
        if known == ("native" if name == "own" else name):
            return known
    raise OmniError(f"unknown special tokens '{name}'; choose one of {', '.join(SETS)}")


VOCAB_FILE = "vocab.json"
SHARED_SETTINGS = ("vocab", "special_tokens")
"""Data options that are linked to the model."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of consecutive ids: `[start, start + size)`."""

    name: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        """One past the last id."""
        return self.start + self.size


class Vocab:
    """The joint id space: the only definition of ids.

    Text ids come first, then the special tokens, then the modality spans in the order given. Spans
    are appended, so a new one never moves an existing id.

    Args:
        text_size: Number of text tokens.
        spans: `{modality: number of codes}`, in order.
        special_tokens: Name of the set of special tokens.

    Raises:
        OmniError: If a size is not positive or a name is taken.
    """

    def __init__(
        self,
        text_size: int,
        spans: dict[str, int],
        special_tokens: SpecialTokensName = "native",
    ) -> None:
        self.special_tokens = canonical_special_tokens(special_tokens)
        self._tokens = SETS[self.special_tokens]
        sizes = {TEXT: text_size, "special": len(self._tokens.names)}
        for name, size in spans.items():
            if name in sizes:
                raise OmniError(f"vocab span '{name}' is taken; name the modality differently")
            sizes[name] = size
        self.spans: dict[str, Span] = {}
        start = 0
        for name, size in sizes.items():
            if size <= 0:
                raise OmniError(f"vocab span '{name}' has {size} ids, wanted at least 1")
            self.spans[name] = Span(name, start, size)
            start += size
        self.size = start
        self._special_ids: dict[str, int] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, text first."""
        return tuple(n for n in self.spans if n != "special")

    def special_id(self, token: str) -> int:
        """Return the id of a special token such as `<|mask|>`."""
        if token not in self._special_ids:
            first = self.spans["special"].start
            self._special_ids[token] = first + self._tokens.index_of(token)
        return self._special_ids[token]

    def special_token_name(self, token: int) -> str:
        """Undo `special_id`."""
        return self._tokens.names[token - self.spans["special"].start]

    def end_ids(self, modality: str) -> tuple[int, ...]:
        """Return the ids after which an answer of this modality is over."""
        terminator = modality_named(modality).terminator
        tokens = self._tokens.ends.get(modality) or ((PAD, terminator) if terminator else ())
        return tuple(dict.fromkeys(self.special_id(token) for token in tokens))

    def all_end_ids(self) -> tuple[int, ...]:
        """Return the ids that end an answer of any modality."""
        return tuple(dict.fromkeys(end for name in self.modalities for end in self.end_ids(name)))

    @property
    def mask_token_id(self) -> int:
        """Id of the mask."""
        return self.special_id("<|mask|>")

    @property
    def pad_token_id(self) -> int:
        """Id that ends a text and fills the rest of a response."""
        return self.special_id(PAD)

    @property
    def num_inherited(self) -> int:
        """Number of ids shared with published text models; 0 for a set that none uses."""
        if not self._tokens.inherited:
            return 0
        return self.spans["special"].start + self._tokens.inherited

    def to_ids(self, modality: str, codes: list[int]) -> list[int]:
        """Shift codes of one modality into the joint id space.

        Raises:
            OmniError: If a code is outside the modality's span.
        """
        ids: list[int] = self.code_ids(modality, codes).tolist()
        return ids

    def code_ids(self, modality: str, codes: Sequence[int]) -> NDArray[np.int64]:
        """Return `to_ids` as a new array, Int[len(codes)]."""
        span = self.span(modality)
        try:
            given = np.fromiter(codes, np.int64, len(codes))
            is_inside = not len(given) or given.view(np.uint64).max() < span.size
        except OverflowError:
            is_inside = False
        if not is_inside:
            raise OmniError(
                f"{modality} codes reach from {min(codes)} to {max(codes)} but the vocab span has "
                f"{span.size} codes; encode the shards with the tokenizer this vocab was made for"
            )
        given += span.start
        return given

    def to_codes(self, modality: str, ids: list[int]) -> list[int]:
        """Undo `to_ids`, dropping ids of other spans."""
        span = self.span(modality)
        return [i - span.start for i in ids if span.start <= i < span.stop]

    def span(self, modality: str) -> Span:
        """Return the span of a modality.

        Raises:
            OmniError: If the vocabulary has no such modality.
        """
        if modality not in self.spans:
            raise OmniError(f"unknown modality '{modality}'; this vocab has {list(self.spans)}")
        return self.spans[modality]

    def modality_of(self, token_id: int) -> str:
        """Return the name of the span that holds an id (`special` included)."""
        for span in self.spans.values():
            if span.start <= token_id < span.stop:
                return span.name
        raise OmniError(f"id {token_id} is outside the vocabulary of {self.size} ids")

    def to_dict(self) -> dict[str, Any]:
        """Return a plain description, the inverse of `from_dict`."""
        sizes = {n: s.size for n, s in self.spans.items() if n not in (TEXT, "special")}
        plain: dict[str, Any] = {"text_size": self.spans[TEXT].size, "spans": sizes}
        if self.special_tokens != "native":
            plain["special_tokens"] = self.special_tokens
        return plain

    @classmethod
    def from_sizes(
        cls, sizes: dict[str, int], special_tokens: SpecialTokensName = "native"
    ) -> Vocab:
        """Build a vocabulary from a recipe's `{text: ..., speech: ..., image: ...}`.

        Raises:
            OmniError: If text is missing.
        """
        if TEXT not in sizes:
            raise OmniError(f"the vocab has {', '.join(sizes) or 'nothing'} but no text; add it")
        spans = {k: v for k, v in sizes.items() if k != TEXT}
        return cls(sizes[TEXT], spans, special_tokens)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Vocab:
        """Build a vocabulary from `to_dict`'s description."""
        spans = {str(k): int(v) for k, v in plain["spans"].items()}
        return cls(int(plain["text_size"]), spans, plain.get("special_tokens", "native"))

    def fingerprint(self) -> str:
        """Return a hash of the meaning of every id; shards and checkpoints carry it."""
        layout = [(span.name, span.start, span.size) for span in self.spans.values()]
        return hashlib.sha256(json.dumps([layout, self._tokens.names]).encode()).hexdigest()


def read_vocab(path: Path) -> Vocab:
    """Return the vocabulary that a file in an export describes.

    Raises:
        OmniError: If it is damaged.
    """
    remedy = "export the model again"
    plain = read_json_object(path, remedy=remedy)
    try:
        vocab = Vocab.from_dict(plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OmniError(f"'{path}' describes no vocabulary ({error!r}); {remedy}") from error
    if plain.get("fingerprint", vocab.fingerprint()) != vocab.fingerprint():
        raise OmniError(
            f"'{path}' carries the fingerprint of another vocabulary than it describes, or of "
            f"another version's special tokens; {remedy}"
        )
    return vocab
