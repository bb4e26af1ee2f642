"""Parquet files of written dialogues, as the Tulu mixtures are published.

A row has `messages`, a list of structs of `role` (system, user, assistant) and `content`. Columns
beside it (`id`, `source`) are not read. Layout: the card of
huggingface.co/datasets/allenai/tulu-3-sft-mixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_prep.corpora.entries import ContentPart, Conversation, Entry
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.parquet import PARQUET_SUFFIXES, Row, parquet_entries, required_column
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

SUFFIXES = PARQUET_SUFFIXES
_MESSAGES = "messages"
_ROLES = ("system", "user", "assistant")


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield every dialogue of a Parquet file, or of the files below a folder, as text QA."""
    yield from parquet_entries(source, _choose_columns, _row_to_dialogue, part)


def _choose_columns(names: Sequence[str]) -> list[str]:
    return [required_column(names, (_MESSAGES,), "dialogues")]


def _row_to_dialogue(origin: str, row: Row) -> Conversation:
    messages = row[_MESSAGES]
    if not isinstance(messages, list) or not messages:
        raise OmniError(f"'{origin}' has no messages")
    turns = tuple(_parse_turn(message, origin) for message in messages)
    roles = [role for role, _ in turns if role != "system"]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        raise OmniError(
            f"'{origin}' has the turns {', '.join(roles)}; user and assistant alternate"
        )
    return Conversation(origin, "tqa", turns)


def _parse_turn(message: object, origin: str) -> tuple[str, tuple[ContentPart, ...]]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in _ROLES:
        raise OmniError(f"'{origin}' has the role {role!r}; wanted one of {', '.join(_ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise OmniError(f"'{origin}' has a turn of the {role} without words")
    return role, (ContentPart("text", content.strip()),)
