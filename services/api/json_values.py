"""JSON that clients may choose freely, within what the record can keep."""

import math
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from services.core.runs.encoding import encode_storable

MAX_DEPTH: Final = 32
MAX_METADATA_ENTRIES: Final = 32
MAX_METADATA_CHARS: Final = 500

_UNSTORABLE: Final = re.compile("[\\x00\\ud800-\\udfff]")

Json = dict[str, Any]


def _is_storable(value: object) -> bool:
    """Whether PostgreSQL can keep a JSON scalar or key: no U+0000, no lone surrogates, no NaN."""
    if isinstance(value, str):
        return _UNSTORABLE.search(value) is None
    return not isinstance(value, float) or math.isfinite(value)


def check_storable(value: Json) -> Json:
    """Refuse what the record cannot keep."""
    encoded = encode_storable(value)
    if encoded is None or encoded.count(b"{") + encoded.count(b"[") >= MAX_DEPTH:
        _check_each(value)
    return value


def _check_each(value: Json) -> None:
    """Walk level by level, since input may be nested without bound."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        children: list[object] = []
        for item in level:
            if isinstance(item, dict):
                children += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                children += item
            elif not _is_storable(item):
                code, message = (
                    "not_storable",
                    "U+0000, lone surrogates, NaN and Infinity cannot be stored",
                )
                raise PydanticCustomError(code, message)
        level = children
    if level:
        code, message = "too_deep", "Nested too deeply"
        raise PydanticCustomError(code, message)


def _check_metadata_value(value: object) -> object:
    is_short = not isinstance(value, str) or len(value) <= MAX_METADATA_CHARS
    if not isinstance(value, str | bool | int | float | None) or not is_short:
        code, allowed = (
            "metadata_value",
            "null, true, false, a number or a text of at most {max} characters",
        )
        raise PydanticCustomError(code, f"Must be {allowed}", {"max": MAX_METADATA_CHARS})
    return value


StorableJson = Annotated[Json, AfterValidator(check_storable)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[
    Any,
    AfterValidator(_check_metadata_value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": MAX_METADATA_CHARS},
                {"type": ["boolean", "number", "null"]},
            ]
        }
    ),
]
Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    Field(max_length=MAX_METADATA_ENTRIES, examples=[{"campaign": "spring"}]),
    AfterValidator(check_storable),
]
