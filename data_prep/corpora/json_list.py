"""Reader of a JSON file that holds a long list, item by item."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json_items(path: Location) -> Iterator[Any]:
    """Yield the items of a JSON file that holds a list, with memory for one of them.

    Raises:
        OmniError: If it is not UTF-8, or not a list of JSON values.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = _JsonWindow(file, path)
            text.expect_mark("[")
            if text.peek_mark() == "]":
                text.expect_mark("]")
            else:
                yield text.parse_value()
                while text.expect_mark(",]") == ",":
                    yield text.parse_value()
            if text.peek_mark():
                raise OmniError(f"'{path}' is not JSON (it goes on behind the list)")
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error


class _JsonWindow:
    """Text of a JSON file, of which a window is in memory."""

    def __init__(self, file: IO[str], path: Location) -> None:
        self._file, self._path = file, path
        self._window, self._at = "", 0
        self._decoder = json.JSONDecoder()

    def peek_mark(self) -> str:
        """Return the next character that is no white space; nothing at the end."""
        while True:
            space = _SPACE.match(self._window, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._window) or not self._read_more():
                return self._window[self._at : self._at + 1]

    def expect_mark(self, marks: str) -> str:
        """Take one of the characters and return it."""
        mark = self.peek_mark()
        if not mark or mark not in marks:
            found = f"'{mark}'" if mark else "the end"
            raise OmniError(
                f"'{self._path}' is not a JSON list (found {found}, wanted {' or '.join(marks)})"
            )
        self._at += 1
        return mark

    def parse_value(self) -> Any:
        """Take a JSON value and return it."""
        self.peek_mark()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._read_more():
                    raise OmniError(f"'{self._path}' is not JSON ({error})") from error
                continue
            if end == len(self._window) and self._read_more():
                continue  # a number may go on
            self._at = end
            return value

    def _read_more(self) -> bool:
        """Read on, more at a time if much is in memory; return whether there was more."""
        more = self._file.read(max(_CHUNK, len(self._window)))
        self._window, self._at = self._window[self._at :] + more, 0
        return bool(more)
