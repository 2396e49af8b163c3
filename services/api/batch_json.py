"""A JSON object with a long list in it, read piece by piece.

`json.loads` would hold the loop for as long as the whole takes, and keep objects that take many times the room of the
text. So this says where each item of the list is; who wants an item reads it from there.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from services.api.slices import Slices

FIRST_WINDOW: Final = 4096
WINDOW_GROWTH: Final = 8

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class MalformedJsonError(ValueError):
    """The text is no JSON object, or holds a value that is too long."""


class TooManyItemsError(ValueError):
    """The list is too long."""


@dataclass(frozen=True, slots=True)
class Document:
    """An object whose long list was not read yet."""

    members: dict[str, Any]
    """All but the list."""
    spans: list[tuple[int, int]] | None
    """Where in the text each item of the list is; None if there is no such list."""


async def scan_document(
    text: str, list_name: str, *, max_items: int, max_value_chars: int
) -> Document:
    """Read an object, all but one list of it.

    Args:
        text: The object.
        list_name: The member that is the list.
        max_items: Items that it may have.
        max_value_chars: Longest text of a member or an item; longer ones count as malformed.

    Raises:
        MalformedJsonError: It is none.
        TooManyItemsError: The list is too long.
    """
    scanner = _Scanner(text, max_value_chars)
    members: dict[str, Any] = {}
    spans: list[tuple[int, int]] | None = None
    scanner.expect("{")
    is_open = not scanner.take("}")
    while is_open:
        name = scanner.read_name()
        if name == list_name and scanner.take("["):
            spans = await _scan_items(scanner, max_items)
        else:
            members[name] = scanner.read_value()
        is_open = not scanner.take("}")
        if is_open:
            scanner.expect(",")
    scanner.expect_end()
    return Document(members, spans)


async def _scan_items(scanner: "_Scanner", max_items: int) -> list[tuple[int, int]]:
    """Where the items are; the list's opening bracket is behind."""
    spans: list[tuple[int, int]] = []
    slices = Slices()
    is_open = not scanner.take("]")
    while is_open:
        if len(spans) == max_items:
            raise TooManyItemsError
        spans.append(scanner.find_value())
        is_open = not scanner.take("]")
        if is_open:
            scanner.expect(",")
        await slices.give_way()
    return spans


class _Scanner:
    """Goes through a JSON text."""

    def __init__(self, text: str, max_value_chars: int) -> None:
        self._text = text
        self._max_value_chars = max_value_chars
        self._position = 0

    def take(self, mark: str) -> bool:
        """Pass a mark; whether it was there."""
        self._pass_space()
        is_there = self._text.startswith(mark, self._position)
        self._position += is_there
        return is_there

    def expect(self, mark: str) -> None:
        """Pass a mark that must be there."""
        if not self.take(mark):
            raise MalformedJsonError

    def expect_end(self) -> None:
        """Only white space may follow."""
        self._pass_space()
        if self._position < len(self._text):
            raise MalformedJsonError

    def read_name(self) -> str:
        """The name of a member; its colon is passed too."""
        name = self.read_value()
        if not isinstance(name, str):
            raise MalformedJsonError
        self.expect(":")
        return name

    def find_value(self) -> tuple[int, int]:
        """Where the next value is; passes it."""
        self._pass_space()
        start = self._position
        self.read_value()
        return start, self._position

    def read_value(self) -> Any:
        """The next value. It is looked for in ever longer windows, so that a huge one costs no more than allowed."""
        self._pass_space()
        size = min(FIRST_WINDOW, self._max_value_chars)
        while True:
            window = self._text[self._position : self._position + size]
            is_last = size >= self._max_value_chars or len(window) < size
            try:
                value, end = _DECODER.raw_decode(window)
            except (ValueError, RecursionError) as error:
                if is_last:
                    raise MalformedJsonError from error
            else:
                # A number that ends with the window may go on behind it.
                if end < len(window) or is_last:
                    self._position += end
                    return value
            size = min(size * WINDOW_GROWTH, self._max_value_chars)

    def _pass_space(self) -> None:
        match = _SPACE.match(self._text, self._position)
        if match is not None:
            self._position = match.end()
