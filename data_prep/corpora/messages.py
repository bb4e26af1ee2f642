"""JSON Lines of chat `messages` (or `conversations`) with `<|image|>` and `<|audio|>` placeholders.

A further modality has the placeholder `<|NAME|>` and its files in the list `NAMEs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from data_prep.corpora.entries import ContentPart, Conversation, DeferredEntry, Entry
from data_prep.corpora.text_files import read_json_lines
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.files import parse_json_object
from lightning_omni.modalities import MODALITIES
from lightning_omni.tasks import TASKS

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}
_MEDIA = {
    "<|image|>": ("image", "images"),
    "<|audio|>": ("speech", "audios"),
    **{f"<|{m.name}|>": (m.name, f"{m.name}s") for m in MODALITIES if m.is_file},
}
"""Modality and name of the list of files by placeholder."""
_PLACEHOLDER = re.compile(f"({'|'.join(map(re.escape, _MEDIA))})")
_INSTRUCTIONS = {
    task.name: task.released_instruction
    for task in TASKS
    if task.released_instruction and task.has_released_instruction
}


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every conversation; file names are relative to the folder of `source`."""
    for number, line in read_json_lines(source):
        location = f"'{source}' line {number}"
        origin = f"{source}:{number}"
        yield DeferredEntry(
            origin, partial(_line_to_conversation, source.parent, line, origin, location)
        )


def _line_to_conversation(
    folder: Location, line: bytes, origin: str, location: str
) -> Conversation:
    plain = parse_json_object(line, name=location)
    messages = plain.get("messages") or plain.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise OmniError(f"{location} has no messages")
    lists = [name for _, name in _MEDIA.values()]
    files = {m: _resolve_files(plain.get(m), folder, f"{location}: {m}") for m in lists}
    turns = [_parse_turn(message, files, location) for message in messages]
    left = {name: rest for name, rest in files.items() if rest}
    if left:
        name, rest = next(iter(left.items()))
        raise OmniError(f"{location} lists {len(rest)} {name} more than it has placeholders")
    return _classify_conversation(origin, turns)


def _resolve_files(names: Any, folder: Location, location: str) -> list[Location]:
    names = names or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OmniError(f"{location} is {names!r}, wanted a list of file names")
    return [folder / name for name in names]


def _parse_turn(
    message: Any, files: dict[str, list[Location]], location: str
) -> tuple[str, tuple[ContentPart, ...]]:
    if not isinstance(message, dict):
        raise OmniError(f"{location} has the message {message!r}, wanted an object")
    content = message.get("content", message.get("value", ""))
    if not isinstance(content, str):
        raise OmniError(f"{location} has the content {content!r}, wanted text")
    role = str(message.get("role", message.get("from")))
    if role not in _ROLES:
        raise OmniError(f"{location} has the role '{role}'; wanted one of {', '.join(_ROLES)}")
    lines = []
    for piece in _PLACEHOLDER.split(content):
        if piece not in _MEDIA:
            if piece.strip():
                lines.append(ContentPart("text", piece.strip()))
            continue
        modality, name = _MEDIA[piece]
        if not files[name]:
            raise OmniError(f"{location} has more {piece} placeholders than {name}")
        lines.append(ContentPart(modality, files[name].pop(0)))
    return _ROLES[role], tuple(lines)


def _classify_conversation(
    origin: str, turns: list[tuple[str, tuple[ContentPart, ...]]]
) -> Conversation:
    """Recognise a task by instruction and modalities; everything else is `chat`."""
    bare = [turn for turn in turns if turn[0] != "system"]
    if len(bare) == 2 and [role for role, _ in bare] == ["user", "assistant"]:
        for task in TASKS:
            request = _strip_instruction(bare[0][1], _INSTRUCTIONS.get(task.name))
            if request is None:
                continue
            shape = tuple(line.modality for line in request)
            answers = tuple(line.modality for line in bare[1][1])
            if shape == task.inputs and answers == task.outputs and shape:
                return Conversation(origin, task.name, (("user", request), bare[1]))
    return Conversation(origin, "chat", tuple(turns))


def _strip_instruction(
    lines: tuple[ContentPart, ...], instruction: str | None
) -> tuple[ContentPart, ...] | None:
    """Remove the leading instruction; None if it is missing."""
    if instruction is None:
        return lines
    if not lines or not str(lines[0].content).startswith(instruction):
        return None
    rest = str(lines[0].content)[len(instruction) :].strip()
    return ((ContentPart("text", rest),) if rest else ()) + lines[1:]
