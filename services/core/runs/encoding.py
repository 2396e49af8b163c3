"""JSON as PostgreSQL's jsonb can hold it, and cursors."""

import base64
import binascii
import json
import re
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic_core import to_json

# An escaped NUL: a backslash that is not itself escaped, then u0000.
ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
REPLACEMENT = "\ufffd"
_UNSTORABLE = re.compile(rb"\\u0000|NaN|Infinity")
"""What jsonb does not take, and texts that only look like it."""
PLACE = re.compile(r"([0-9]{1,8}) ([0-9]{1,4})")


class MalformedCursorError(ValueError):
    """The cursor is not one that a page gave."""


def encode_json(value: Any) -> str:
    """JSON text that jsonb takes.

    jsonb has no NUL and no lone surrogates; text from the web or from Claude may. They become
    U+FFFD and "?": better a mark in the text than a run that cannot be stored.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
        TypeError: Something that is not JSON at all.
    """
    encoded = encode_storable(value)
    if encoded is not None:
        return encoded.decode()
    return _encode_carefully(value)


def encode_storable(value: Any) -> bytes | None:
    """JSON in a fifth of the time, or None if there may be something in it that jsonb does not take."""
    try:
        encoded = to_json(value, inf_nan_mode="constants", bytes_mode="hex")
    except ValueError:  # lone surrogates, what is no JSON, and what is nested without bound
        return None
    return None if _UNSTORABLE.search(encoded) else encoded


def _encode_carefully(value: Any) -> str:
    """The same for everything that may come."""
    encoded = _ENCODER.encode(value)
    if r"\u0000" in encoded:  # hardly ever, and the pattern is slow
        encoded = ESCAPED_NUL.sub(rf"\1{REPLACEMENT}", encoded)
    return storable_text(encoded)


def storable_text(value: str) -> str:
    """Text that a text column takes: no NUL, no lone surrogates."""
    return value.replace("\0", REPLACEMENT).encode("utf-8", "replace").decode("utf-8")


def _encode_scalar(value: Any) -> str:
    """The JSON form of what the store's own columns hold."""
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    message = f"{type(value).__name__} is not JSON"
    raise TypeError(message)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_encode_scalar)
"""json.dumps would make one each time."""


def encode_cursor(*, id: UUID, at: datetime | None = None) -> str:  # noqa: A002 - the column's name
    """An opaque mark of where a page ended."""
    text = f"{id}" if at is None else f"{at.isoformat()} {id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_id_cursor(cursor: str) -> UUID:
    """The id in a cursor.

    Raises:
        MalformedCursorError: It is not one of ours.
    """
    try:
        return UUID(_decode(cursor))
    except ValueError as error:
        raise MalformedCursorError(MalformedCursorError.__doc__) from error


def decode_time_cursor(cursor: str) -> tuple[datetime, UUID]:
    """The time and id in a cursor.

    Raises:
        MalformedCursorError: It is not one of ours.
    """
    try:
        at, _, id_text = _decode(cursor).partition(" ")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise MalformedCursorError(MalformedCursorError.__doc__)
        return moment, UUID(id_text)
    except ValueError as error:
        raise MalformedCursorError(MalformedCursorError.__doc__) from error


def encode_place_cursor(row: int, number: int) -> str:
    """An opaque mark of where a page of a batch's errors ended."""
    return base64.urlsafe_b64encode(f"{row} {number}".encode()).decode().rstrip("=")


def decode_place_cursor(cursor: str) -> tuple[int, int]:
    """The row and number in a cursor.

    Raises:
        MalformedCursorError: It is not one of ours.
    """
    match = PLACE.fullmatch(_decode(cursor))
    if match is None:
        raise MalformedCursorError(MalformedCursorError.__doc__)
    return int(match[1]), int(match[2])


def _decode(cursor: str) -> str:
    """The text in a cursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError) as error:
        raise MalformedCursorError(MalformedCursorError.__doc__) from error
