"""What an input's JSON Schema says about one of its fields, and the text of a table's cell made that."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

Schema = dict[str, Any]
Convert = Callable[[str], Any]

ANY_TYPE: Final = "any"
_PART_KEYS: Final = ("anyOf", "oneOf", "allOf")
_TYPES_OF_VALUE: Final[dict[type, set[str]]] = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    list: {"array"},
    dict: {"object"},
    type(None): {"null"},
}
_WORDS: Final = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list in JSON",
    "object": "an object in JSON",
    "null": "null",
}


class UnconvertibleError(ValueError):
    """The text does not mean a value of the field's type."""


@dataclass(frozen=True, slots=True)
class InputFields:
    """The fields of an input."""

    schema: Schema
    """JSON Schema, references within it only."""

    def find_converter(self, path: Sequence[str]) -> Convert | None:
        """What makes a value for a field of a cell's text; None if there is no such field."""
        found = list(self._parts(self.schema))
        for name in path:
            found = [part for schema in found for part in self._member(schema, name)]
        if not found:
            return None
        return _converter({kind for schema in found for kind in _types_of(schema)})

    def _member(self, schema: Schema, name: str) -> Iterator[Schema]:
        """The schemas of a member of an object."""
        if "object" not in _types_of(schema) and ANY_TYPE not in _types_of(schema):
            return
        member = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
        if member is not False:
            yield from self._parts(member if isinstance(member, dict) else {})

    def _parts(self, schema: Schema, seen: frozenset[str] = frozenset()) -> Iterator[Schema]:
        """The simple schemas that a schema is put together from."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference not in seen:
                yield from self._parts(self._resolve(reference), seen | {reference})
            return
        parts = [part for key in _PART_KEYS for part in schema.get(key, ())]
        if not parts:
            yield schema
        for part in parts:
            yield from self._parts(part, seen)

    def _resolve(self, reference: str) -> Schema:
        """A schema of the same document."""
        found: Any = self.schema
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        return dict(found)


def _types_of(schema: Schema) -> set[str]:
    """The JSON types that a simple schema allows."""
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return {kinds}
    if isinstance(kinds, list):
        return set(kinds)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return {kind for value in values for kind in _json_types(value)} or {ANY_TYPE}


def _converter(kinds: set[str]) -> Convert:
    """What makes a value of one of the types of a text; where a text is allowed it stays one."""
    if kinds & {"string", ANY_TYPE}:
        return str
    expected = " or ".join(_words_for(kinds - {"null"} or kinds))

    def convert(text: str) -> Any:
        try:
            value = json.loads(_as_json(text))
        except (ValueError, RecursionError):
            value = ...
        if not _json_types(value) & kinds:
            raise UnconvertibleError(f"Should be {expected}")
        return value

    return convert


def _words_for(kinds: Iterable[str]) -> list[str]:
    return sorted(_WORDS[kind] for kind in kinds)


def _as_json(text: str) -> str:
    """Spreadsheets write TRUE and FALSE."""
    lowered = text.strip().lower()
    return lowered if lowered in ("true", "false") else text


def _json_types(value: object) -> set[str]:
    """What a value is, in JSON Schema's words; nothing for what is no JSON."""
    return _TYPES_OF_VALUE.get(type(value), set())
