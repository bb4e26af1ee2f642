"""Sets of special tokens: their names in the order of their ids, and what each is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SpecialTokensName = Literal["own", "released"]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Names of special tokens, and those that play a part under another name.

    Attributes:
        names: In the order of their ids, which follow those of text.
        ends: By modality, the tokens behind which an answer has nothing more.
        roles: `{name used in this package: the set's own name for it}`, where they differ.
        inherited: How many of the names, from the first on, published text models have too.
    """

    names: tuple[str, ...]
    ends: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, str] = field(default_factory=dict)
    inherited: int = 0

    def offset(self, token: str) -> int:
        """Place of a token among the special ones, by either name."""
        return self.names.index(self.roles.get(token, token))


OWN = SpecialTokens(
    (
        "<|endoftext|>",
        "<|mask|>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|end_of_turn|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_speech|>",
        "<|end_of_speech|>",
    ),
    ends={"text": ("<|endoftext|>",), "speech": ("<|endoftext|>", "<|end_of_speech|>")},
)


def _named(form: str, *words: str) -> tuple[str, ...]:
    return tuple(f"<|{form.format(word)}|>" for word in words)


def _pairs(*words: str) -> tuple[str, ...]:
    return tuple(f"<|{word}_{side}|>" for word in words for side in ("start", "end"))


def _brackets(*words: str, context: bool) -> tuple[str, ...]:
    forms = ("begin_of_{}", "end_of_{}", "context_of_{}")[: 3 if context else 2]
    return tuple(f"<|{form.format(word)}|>" for word in words for form in forms)


RELEASED = SpecialTokens(
    (
        "<|endoftext|>",
        *_pairs("im"),
        *_pairs("object_ref", "box", "quad", "vision"),
        *_named("{}_pad", "vision", "image", "video"),
        *("<tool_call>", "</tool_call>"),
        *_named("fim_{}", "prefix", "middle", "suffix", "pad"),
        *_named("{}", "repo_name", "file_sep", "beginoftext", "mask"),
        *_brackets("image", "video", "patch", context=True),
        *_brackets("quad", "ref", "box", context=False),
        *_named("{}", "image", "video"),
        *_brackets("audio", context=True),
        "<|audio|>",
    ),
    ends={
        "text": ("<|endoftext|>", "<|im_end|>", "<|begin_of_audio|>"),
        "speech": ("<|endoftext|>", "<|im_end|>", "<|end_of_audio|>"),
    },
    roles={
        "<|begin_of_speech|>": "<|begin_of_audio|>",
        "<|end_of_speech|>": "<|end_of_audio|>",
        "<|end_of_turn|>": "<|im_end|>",
    },
    inherited=24,  # up to the mask, those of Qwen2.5 and Dream
)
"""Those of Qwen2.5, then of Dream, then of the Omni-Diffusion release, arXiv:2603.06577.

With Qwen2.5's 151,643 text ids, 16,384 speech and 8,192 image codes all ids are the release's.
"""

SETS: dict[SpecialTokensName, SpecialTokens] = {"own": OWN, "released": RELEASED}
