"""What is wrong with a request, said without repeating it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_FIELD_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with a request."""

    location: str
    """body, query, header or path."""
    field: str
    """JSON Pointer (RFC 6901) into that place; empty for all of it."""
    message: str
    row: int | None = None
    """The row of a batch, 1, 2, 3, ... as sent; the pointer is into its input then."""


def describe_validation(errors: Iterable[Any], *, body: object) -> list[FieldError]:
    """Pydantic's findings without the values that caused them.

    Args:
        errors: What `ValidationError.errors()` gives, each `loc` beginning with body, query, header or path.
        body: The JSON body, to tell its members from the names of union members that Pydantic puts between them.
    """
    found = []
    for error in errors:
        place, *path = error["loc"]
        is_missing = error["type"] == "missing"
        parts = _locate(path, body, is_missing=is_missing) if place == "body" else path
        message = str(error["msg"]).removeprefix("Value error, ")
        found.append(FieldError(str(place), pointer_to(parts), message))
    return found


def _locate(path: Sequence[Any], body: object, *, is_missing: bool) -> list[Any]:
    """The parts of a path that are in the body, and the last one if it is what is missing there."""
    parts = []
    for number, part in enumerate(path, start=1):
        if _has(body, part):
            body = body[part]  # type: ignore[index]  # it has it
        elif not (is_missing and number == len(path)):
            continue
        parts.append(part)
    return parts


def _has(value: object, part: object) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def pointer_to(parts: Iterable[Any]) -> str:
    """The JSON Pointer of a path, cut if it is very long."""
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return "".join(f"/{part}" for part in escaped)[:MAX_FIELD_CHARS]
