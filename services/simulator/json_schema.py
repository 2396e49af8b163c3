"""JSON Schema, as far as Claude's structured output takes it: reading and checking."""

import json
import math
import re
from typing import Any

from services.simulator.errors import InvalidRequestError

Json = Any
"""A JSON value."""
Schema = dict[str, Any]
AnySchema = Schema | bool
"""True fits everything, false nothing."""

UNSUPPORTED = ("not", "if", "then", "else", "patternProperties", "dependentSchemas", "contains")
LIMIT_IN_DESCRIPTION = re.compile(
    r"\b(minLength|maxLength|minItems|maxItems|minimum|maximum|exclusiveMinimum|exclusiveMaximum"
    r"|multipleOf): (-?\d+(?:\.\d+)?)(?=[,}])"
)
"""The SDK moves limits that the API does not enforce into the description: `{maxItems: 3}`."""

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def resolve(schema: AnySchema, root: Schema) -> Schema:
    """The schema with its reference followed, its allOf merged and its described limits read.

    Raises:
        InvalidRequestError: It uses what is not supported.
    """
    if isinstance(schema, bool):
        return {} if schema else {"enum": []}
    for keyword in UNSUPPORTED:
        if keyword in schema:
            message = f"output_config.format.schema: '{keyword}' is not supported"
            raise InvalidRequestError(message)
    seen: set[str] = set()
    while "$ref" in schema:
        reference = schema["$ref"]
        if reference in seen:
            message = f"output_config.format.schema: '{reference}' refers to itself"
            raise InvalidRequestError(message)
        seen.add(reference)
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        schema = _referenced(reference, root) | siblings
    for part in schema.get("allOf", ()):
        schema = _merge({k: v for k, v in schema.items() if k != "allOf"}, resolve(part, root))
    return _described_limits(schema) | schema


def types_of(schema: Schema) -> tuple[str, ...]:
    """The types that a resolved schema allows; none if it does not restrict them."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return tuple(kind)
    if kind:
        return (kind,)
    if "properties" in schema:
        return ("object",)
    if "items" in schema or "prefixItems" in schema:
        return ("array",)
    return ()


def fits(value: Json, schema: AnySchema, root: Schema) -> bool:
    """Whether a value is an instance of a schema."""
    schema = resolve(schema, root)
    return (
        _fits_type(value, schema)
        and _fits_choice(value, schema, root)
        and _fits_limits(value, schema)
        and _fits_object(value, schema, root)
        and _fits_array(value, schema, root)
    )


def is_distinct(values: list[Json]) -> bool:
    """Whether no two values are the same JSON."""
    return len({canonical(value) for value in values}) == len(values)


def canonical(value: Json) -> str:
    """One text for each JSON value; 1 and 1.0 are the same number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _referenced(reference: str, root: Schema) -> Schema:
    found: Any = root
    try:
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                found = found[part.replace("~1", "/").replace("~0", "~")]
    except (KeyError, TypeError):
        found = None
    if not reference.startswith("#") or not isinstance(found, dict):
        message = f"output_config.format.schema: '{reference}' refers to nothing in this schema"
        raise InvalidRequestError(message)
    return found


def _merge(one: Schema, other: Schema) -> Schema:
    merged = one | other
    if "properties" in one and "properties" in other:
        merged["properties"] = one["properties"] | other["properties"]
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _described_limits(schema: Schema) -> Schema:
    description = schema.get("description")
    if not isinstance(description, str) or not description.endswith("}"):
        return {}
    limits = description[description.rfind("{") :]
    return {key: float(number) for key, number in LIMIT_IN_DESCRIPTION.findall(limits)}


def _fits_type(value: Json, schema: Schema) -> bool:
    return not types_of(schema) or any(_is_a(value, kind) for kind in types_of(schema))


def _is_a(value: Json, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])


def _fits_choice(value: Json, schema: Schema, root: Schema) -> bool:
    if "const" in schema and canonical(value) != canonical(schema["const"]):
        return False
    if "enum" in schema and canonical(value) not in map(canonical, schema["enum"]):
        return False
    if "anyOf" in schema and not any(fits(value, part, root) for part in schema["anyOf"]):
        return False
    return "oneOf" not in schema or sum(fits(value, part, root) for part in schema["oneOf"]) == 1


def _fits_limits(value: Json, schema: Schema) -> bool:
    if isinstance(value, str):
        return (
            schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
            and re.search(schema.get("pattern", ""), value) is not None
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    step = schema.get("multipleOf")
    return (
        schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < value
        and value < schema.get("exclusiveMaximum", math.inf)
        and (not step or math.isclose(value / step, round(value / step), abs_tol=1e-9))
    )


def _fits_object(value: Json, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    return (
        all(name in value for name in schema.get("required", ()))
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf)
        and all(fits(item, properties.get(name, others), root) for name, item in value.items())
    )


def _fits_array(value: Json, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, list):
        return True
    first = schema.get("prefixItems", ())
    return (
        schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        and all(fits(item, part, root) for item, part in zip(value, first, strict=False))
        and all(fits(item, schema.get("items", True), root) for item in value[len(first) :])
        and (not schema.get("uniqueItems") or is_distinct(value))
    )
