"""The JSON Schemas that a caller may give: a bounded subset, checked here, told to Claude and checked with.

Bounded, because Claude compiles it to a grammar and records are checked with it, patterns included: those run in
an engine of linear time. What is not in the subset is refused by name.
"""

import json
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError, meta

Schema = dict[str, Any]

MAX_SCHEMA_CHARS = 20_000
"""As JSON, as given and with its references written out."""
MAX_DEPTH = 8
"""Schemas within schemas, such as a list's items."""
MAX_SCHEMAS = 200
"""With references written out."""
MAX_PROBLEMS = 10
MAX_PROBLEM_CHARS = 300

ANNOTATIONS = frozenset({"title", "description", "default", "examples"})
STRUCTURE = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"}
)
LIMITS = frozenset(
    {"format", "pattern", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
KEYWORDS = ANNOTATIONS | STRUCTURE | LIMITS
ROOT_KEYWORDS = frozenset({"$schema", "$defs"})
FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname"} | {"ipv4", "ipv6", "time", "uri", "uuid"}
)
REFERENCE = "#/$defs/"


class SchemaProblemError(ValueError):
    """The schema cannot be used; says where and why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}" if place else reason)


class RecordSchema:
    """A caller's schema, ready for use."""

    def __init__(self, schema: Schema) -> None:
        """Check the schema.

        Raises:
            SchemaProblemError: It is none, is too large, or uses what is not supported.
        """
        _check_size(schema)
        _check_is_schema(schema)
        root = {key: value for key, value in schema.items() if key not in ROOT_KEYWORDS}
        self.for_claude = _Expansion(schema.get("$defs", {})).expand(root, "")
        """With references written out and each choice of types as anyOf."""
        if self.for_claude.get("type") != "object":
            raise SchemaProblemError("/type", "a record is an object")
        _check_size(self.for_claude)
        self._validator = _validator(schema)

    def problems_of(self, record: dict[str, Any]) -> list[str]:
        """What is wrong with a record, as `/place: reason`; empty if it fits."""
        errors = islice(self._validator.iter_errors(record), MAX_PROBLEMS)
        return [f"{_pointer(error)}: {error.message}"[:MAX_PROBLEM_CHARS] for error in errors]


class _Expansion:
    """Writes references out, and counts what comes of it."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._count = 0

    def expand(self, schema: Any, place: str, within: tuple[str, ...] = (), depth: int = 0) -> Any:
        """A schema and all within it; `within` names the references around it."""
        self._count += 1
        if self._count > MAX_SCHEMAS:
            raise SchemaProblemError("", f"it holds more than {MAX_SCHEMAS} schemas")
        if depth > MAX_DEPTH:
            raise SchemaProblemError(place, f"it nests deeper than {MAX_DEPTH} schemas")
        if not isinstance(schema, dict):
            raise SchemaProblemError(place, "this must be an object")
        if "$ref" in schema:
            return self._referenced(schema, place, within, depth)
        _check_keywords(schema, place)

        def inside(part: Any, *path: object) -> Any:
            return self.expand(part, "/".join((place, *map(str, path))), within, depth + 1)

        return _without_type_lists(schema) | {
            keyword: _map_parts(value, keyword, inside)
            for keyword, value in schema.items()
            if keyword in {"properties", "items", "anyOf"}
        }

    def _referenced(self, schema: Schema, place: str, within: tuple[str, ...], depth: int) -> Any:
        name = schema["$ref"].removeprefix(REFERENCE)
        if name == schema["$ref"] or name not in self._definitions:
            raise SchemaProblemError(f"{place}/$ref", f"only {REFERENCE}… is followed")
        if name in within:
            raise SchemaProblemError(f"{place}/$ref", f"{name} refers to itself")
        if others := set(schema) - ANNOTATIONS - {"$ref"}:
            raise SchemaProblemError(f"{place}/{min(others)}", "not supported beside $ref")
        about = {key: value for key, value in schema.items() if key != "$ref"}
        return self.expand(self._definitions[name], place, (*within, name), depth) | about


def _map_parts(value: Any, keyword: str, inside: Any) -> Any:
    if keyword == "properties":
        return {name: inside(part, keyword, name) for name, part in value.items()}
    if keyword == "anyOf":
        return [inside(part, keyword, number) for number, part in enumerate(value)]
    return inside(value, keyword)


def _without_type_lists(schema: Schema) -> Schema:
    """A list of types as `anyOf`, which is what Claude takes."""
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return schema
    rest = {key: value for key, value in schema.items() if key != "type"}
    if {"enum", "const"} & set(schema):
        return rest
    about = {key: rest.pop(key) for key in ANNOTATIONS & set(rest)}
    return about | {"anyOf": [{"type": kind} | ({} if kind == "null" else rest) for kind in kinds]}


def _check_keywords(schema: Schema, place: str) -> None:
    """Refuse what cannot be told to Claude; that it is a schema at all was checked before."""
    if unknown := sorted(set(schema) - KEYWORDS):
        raise SchemaProblemError(f"{place}/{unknown[0]}", "this keyword is not supported")
    if not {"type", "anyOf", "enum", "const"} & set(schema):
        raise SchemaProblemError(place, "it needs a type, anyOf, enum or const")
    if schema.get("format") not in {None, *FORMATS}:
        raise SchemaProblemError(f"{place}/format", f"known are {', '.join(sorted(FORMATS))}")
    if any(isinstance(value, dict | list) for value in (*schema.get("enum", ()), schema.get("const"))):  # fmt: skip
        raise SchemaProblemError(place, "enum and const hold no objects and no lists")
    _check_type(schema, place)


def _check_type(schema: Schema, place: str) -> None:
    kind = schema.get("type")
    if isinstance(kind, list) and ({"object", "array"} & set(kind) or "anyOf" in schema):
        raise SchemaProblemError(f"{place}/type", "objects, lists and anyOf go into one anyOf")
    if kind == "array" and "items" not in schema:
        raise SchemaProblemError(place, "a list needs items")
    if kind == "object":
        _check_object(schema, place)


def _check_object(schema: Schema, place: str) -> None:
    if not schema.get("properties"):
        raise SchemaProblemError(place, "an object needs properties")
    if missing := set(schema.get("required", ())) - set(schema["properties"]):
        raise SchemaProblemError(f"{place}/required", f"{min(missing)} is no property")
    if not isinstance(schema.get("additionalProperties", False), bool):
        raise SchemaProblemError(f"{place}/additionalProperties", "only true or false")


def _check_size(schema: Schema) -> None:
    if len(json.dumps(schema)) > MAX_SCHEMA_CHARS:
        raise SchemaProblemError("", f"it is longer than {MAX_SCHEMA_CHARS} characters")


def _check_is_schema(schema: Schema) -> None:
    """Each keyword has a value that it may have, so that the rest of this module can rely on it."""
    try:
        # By the draft that is used here, whatever $schema says.
        meta.validate({key: value for key, value in schema.items() if key != "$schema"})
    except ValidationError as error:
        raise SchemaProblemError(_pointer(error), error.message[:MAX_PROBLEM_CHARS]) from error


def _validator(schema: Schema) -> Draft202012Validator:
    try:
        return Draft202012Validator(
            schema, validate_formats=True, pattern_options=RegexOptions(), offline=True
        )
    except ValidationError as error:
        raise SchemaProblemError(_pointer(error), error.message[:MAX_PROBLEM_CHARS]) from error


def _pointer(error: ValidationError) -> str:
    """Where the error is, as a JSON Pointer."""
    return "".join(f"/{part}" for part in error.instance_path) or "/"
