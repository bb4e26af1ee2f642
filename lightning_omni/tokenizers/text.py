"""Text <-> byte-pair ids through tiktoken, with ranks bundled with the package."""

from __future__ import annotations

import base64
import re
import unicodedata
from pathlib import Path

import tiktoken

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers import qwen
from lightning_omni.vocab import NATIVE, RELEASED

RANKS_FILE = "text.tiktoken"
"""Text ranks beside weights that have rows for them, as `import` and exports write them."""
DEFAULT_RANKS = Path(__file__).parent.parent / "assets" / "text_1k.tiktoken"
MAX_BYTES = 16_384
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
)
QWEN_PATTERN_LINE = "# pattern: qwen"
"""First line of ranks for text that is split as by Qwen, as `import` writes them."""
_NAMED = (re.escape(name) for name in (*NATIVE.names, *RELEASED.names))
# all of them begin with <
_SPECIAL = re.compile("|".join((r"<\|[^|<>]{1,64}\|>", *_NAMED)))


class TextTokenizer:
    """Byte-pair encoding that never emits a special token.

    Text that spells a special token is refused, as with it a user could close the turn or insert a
    mask.

    Args:
        ranks: File with one `base64(bytes) rank` per line, after a line with `#` if text is split
            as by Qwen; the word `qwen` stands for the file of the package `dashscope`.

    Attributes:
        ranks: The argument.
        size: Number of ids.
        ids: Id of each token's bytes.
    """

    def __init__(self, ranks: str | Path = DEFAULT_RANKS) -> None:
        self.ranks = ranks
        is_named = ranks == qwen.QWEN
        path = qwen.find_qwen_ranks() if is_named else Path(ranks)
        if not path.is_file():
            raise OmniError(f"no text ranks at '{path}'; give a .tiktoken file")
        lines = path.read_bytes().splitlines()
        is_qwen = is_named or lines[:1] == [QWEN_PATTERN_LINE.encode()]
        pairs = (line.split() for line in lines if line and not line.startswith(b"#"))
        try:
            table = {base64.b64decode(token): int(rank) for token, rank in pairs}
        except ValueError as error:
            raise OmniError(
                f"'{path}' holds no text ranks ({error}); wanted lines of base64 bytes and a rank"
            ) from error
        self.size, self.ids = len(table), table
        self._encoding = tiktoken.Encoding(
            path.stem,
            pat_str=qwen.PATTERN if is_qwen else PATTERN,
            mergeable_ranks=table,
            special_tokens={},
        )

    def encode(self, text: str) -> list[int]:
        """Turn text into ids in [0, size), after NFC normalisation.

        Raises:
            OmniError: If the text holds a special token, a NUL or a lone surrogate, or is longer
                than `MAX_BYTES` bytes.
        """
        if "<" in text and (found := _SPECIAL.search(text)):
            raise OmniError(
                f"text holds the special token '{found.group()}'; remove it, special tokens are "
                "placed by the template only"
            )
        try:
            num_bytes = len(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise OmniError("text holds a lone surrogate; pass valid Unicode") from error
        if num_bytes > MAX_BYTES:
            raise OmniError(
                f"text has {num_bytes} bytes, at most {MAX_BYTES} are accepted; split it"
            )
        if "\0" in text:
            raise OmniError("text holds a NUL character; remove it")
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def visible_ids(self, *, after_space: bool = False) -> list[int]:
        """Return the ids of tokens that are not white space alone.

        Args:
            after_space: Whether to return only tokens that begin with a space.
        """
        tokens = (self._encoding.decode_single_token_bytes(i) for i in range(self.size))
        return [
            i
            for i, token in enumerate(tokens)
            if token.strip() and (token.startswith(b" ") or not after_space)
        ]

    def decode(self, ids: list[int]) -> str:
        """Turn ids into text; bytes that are not UTF-8 become replacement characters."""
        return self._encoding.decode(ids, errors="replace")


def check_same_text_ids(text: TextTokenizer, path: Path) -> None:
    """Refuse text ids other than those of a file of ranks beside initial weights.

    Raises:
        OmniError: If they differ, naming both files.
    """
    theirs = TextTokenizer(path).ids
    differ = sorted(text.ids.items() ^ theirs.items(), key=lambda pair: pair[1])
    if differ:
        token = differ[0][0]
        raise OmniError(
            f"the text ids of data.text_ranks '{text.ranks}' are not those of the initial weights "
            f"in '{path}': of {len(differ)} differences the first is {token!r}, id "
            f"{text.ids.get(token)} here and {theirs.get(token)} there; set data.text_ranks to "
            f"'{path}'"
        )
