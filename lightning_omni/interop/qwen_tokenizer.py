"""Read the byte-pair tokenizer beside Qwen's weights, and write it as text ranks of ours."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.interop.checkpoint import refuse_pointer
from lightning_omni.tokenizers.text import QWEN_PATTERN_LINE
from lightning_omni.vocab import PAD, RELEASED

TOKENIZER, VOCAB, MERGES, SETTINGS = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
)
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenization pattern of Qwen2 and Qwen3 as `tokenizer.json` spells it."""
_REQUIRED = (PAD, "<|im_start|>", "<|im_end|>")
_REMEDY = "copy the checkpoint again"


@dataclass(frozen=True, slots=True)
class QwenTokenizer:
    """Text ids and special tokens of a checkpoint.

    Attributes:
        tokens: Bytes of each text id, in order.
        num_known: Number of leading ids that the released set of special tokens has too.
    """

    tokens: list[bytes]
    num_known: int

    @property
    def pad_token_id(self) -> int:
        """Id of `<|endoftext|>`, the first behind the text."""
        return len(self.tokens)

    def write_ranks(self, path: Path) -> None:
        """Write the text ids as a file for `data.text_ranks`."""
        lines = [f"{base64.b64encode(token).decode()} {i}" for i, token in enumerate(self.tokens)]
        path.write_text("\n".join([QWEN_PATTERN_LINE, *lines]) + "\n", encoding="ascii")


def read_qwen_tokenizer(folder: Path, *, rows: int) -> QwenTokenizer:
    """Read `tokenizer.json`, or `vocab.json` with `merges.txt` and `tokenizer_config.json`.

    Args:
        folder: Folder of the checkpoint.
        rows: Rows of its embedding table.

    Raises:
        OmniError: If a file is missing or damaged, or the ids are not laid out as Qwen's: bytes,
            then merges in their order, then special tokens.
    """
    whole = (folder / TOKENIZER).is_file()
    for name in (TOKENIZER,) if whole else (VOCAB, MERGES, SETTINGS):
        if not (folder / name).is_file():
            missing = TOKENIZER if name == VOCAB else name
            raise OmniError(
                f"no {missing} in '{folder}', whose text ids are those of its tokenizer; copy "
                f"{TOKENIZER}, or {VOCAB}, {MERGES} and {SETTINGS}, of the same checkpoint there"
            )
        refuse_pointer(folder / name)
    path = folder / (TOKENIZER if whole else VOCAB)
    try:
        ids, merges, special = _read_whole(path) if whole else _read_parts(folder)
        tokens = _order_tokens(ids, merges, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OmniError(f"'{path}' is no byte-pair tokenizer ({error!r}); {_REMEDY}") from error
    return QwenTokenizer(tokens, _count_known(len(tokens), special, path, rows=rows))


def _read_whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, str]]:
    plain = read_json_object(path, remedy=_REMEDY)
    model = plain["model"]
    patterns = _find_patterns(plain.get("pre_tokenizer"))
    if model.get("type") != "BPE" or patterns != [_PATTERN]:
        raise OmniError(
            f"'{path}' has another vocabulary than Qwen's: a {model.get('type')} that splits words "
            f"by {patterns or 'no pattern'}, wanted BPE and the pattern of Qwen2 and Qwen3"
        )
    merges = [_split_merge(merge) for merge in model["merges"]]
    special = {int(t["id"]): str(t["content"]) for t in plain.get("added_tokens", [])}
    ids = {str(token): int(i) for token, i in model["vocab"].items()}
    return {t: i for t, i in ids.items() if special.get(i) != t}, merges, special


def _find_patterns(plain: Any) -> list[str]:
    """Return the regular expressions of a pre-tokenizer, nested or not."""
    if isinstance(plain, list):
        return [pattern for each in plain for pattern in _find_patterns(each)]
    if not isinstance(plain, dict):
        return []
    own = plain.get("pattern")
    found = [str(own["Regex"])] if isinstance(own, dict) and "Regex" in own else []
    return found + _find_patterns(plain.get("pretokenizers"))


def _read_parts(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, str]]:
    settings = read_json_object(folder / SETTINGS, remedy=_REMEDY)
    added = settings.get("added_tokens_decoder", {})
    if "Qwen2" not in str(settings.get("tokenizer_class")):
        raise OmniError(
            f"'{folder / SETTINGS}' has tokenizer_class {settings.get('tokenizer_class')!r}, whose "
            "vocabulary is not Qwen's; wanted Qwen2Tokenizer"
        )
    lines = (folder / MERGES).read_text("utf-8").split("\n")
    merges = [_split_merge(line) for line in lines if line and not line.startswith("#version")]
    special = {int(i): str(token["content"]) for i, token in added.items()}
    ids = read_json_object(folder / VOCAB, remedy=_REMEDY)
    return {str(t): int(i) for t, i in ids.items()}, merges, special


def _split_merge(plain: Any) -> tuple[str, str]:
    """Return the two tokens of a merge, written as one string or as a list."""
    one, two = plain.split(" ") if isinstance(plain, str) else plain
    return str(one), str(two)


def _order_tokens(ids: dict[str, int], merges: list[tuple[str, str]], path: Path) -> list[bytes]:
    """Return the bytes of every text id, whose order must be that of the merges."""
    ordered = sorted(ids, key=ids.__getitem__)
    wanted = 256 + len(merges)
    if [ids[token] for token in ordered] != list(range(wanted)):
        raise OmniError(
            f"'{path}' has {len(ids)} text ids up to {max(ids.values(), default=-1)} and "
            f"{len(merges)} merges, wanted ids 0 to {wanted - 1}: 256 bytes, then the merges; "
            f"{_REMEDY}"
        )
    for i, (one, two) in enumerate(merges, 256):
        if ordered[i] != one + two:
            raise OmniError(
                f"'{path}' has {ordered[i]!r} as id {i}, wanted the merge {one + two!r}; ids that "
                "are not in the order of merges are not Qwen's"
            )
    as_byte = _byte_of_characters()
    return [bytes(as_byte[character] for character in token) for token in ordered]


def _byte_of_characters() -> dict[str, int]:
    """Return the byte of each character that stands for one in byte-level vocabularies.

    Printable bytes stand for themselves, the others for the characters from 256 on. Source: GPT-2.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


def _count_known(num_text: int, special: dict[int, str], path: Path, *, rows: int) -> int:
    """Return how many leading ids are those of a vocabulary with the released special tokens."""
    count = 0
    for name in RELEASED.names[: RELEASED.inherited]:
        if special.get(num_text + count) != name:
            break
        count += 1
    if count < len(_REQUIRED):
        found = [special.get(num_text + i) for i in range(len(_REQUIRED))]
        raise OmniError(
            f"'{path}' has {found} behind its {num_text} text ids, wanted {list(_REQUIRED)}; it is "
            "the tokenizer of another vocabulary"
        )
    if rows < num_text + count:
        raise OmniError(
            f"'{path}' has {num_text + count} ids, but the weights have rows for {rows}; copy the "
            "tokenizer of the same checkpoint"
        )
    return num_text + count
