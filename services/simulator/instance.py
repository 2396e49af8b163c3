"""Building a value that fits a JSON Schema out of what a prompt says."""

from dataclasses import replace
from typing import Any, Final

from services.simulator.errors import InvalidRequestError
from services.simulator.json_schema import (
    AnySchema,
    Json,
    Schema,
    canonical,
    fits,
    resolve,
    types_of,
)
from services.simulator.material import Element, Material
from services.simulator.scalars import Place, build_number, build_string, fit_length

NO_HINT: Final = object()
SHALLOW = 8
"""Depth below which what is optional is left out, so that a recursive schema comes to an end."""
DEEPEST = 40
"""Depth at which a schema is taken to have no end."""
PLENTY = 3
"""Items of an array that asks for no number of them."""


class InstanceBuilder:
    """Builds a value for one schema and one prompt."""

    def __init__(self, schema: Schema, material: Material) -> None:
        """Take what to fit and what to draw on."""
        self._root = schema
        self._material = material

    def build(self, hints: dict[str, Any]) -> Json:
        """A value that fits the whole schema.

        Args:
            hints: Values by field name, used where they fit.

        Raises:
            InvalidRequestError: The schema uses what is not supported, or no value was found.
        """
        value = self._value(self._root, Place(), hints or NO_HINT)
        if not fits(value, self._root, self._root):
            message = "output_config.format.schema: no value was found that fits it"
            raise InvalidRequestError(message)
        return value

    def _value(self, schema: AnySchema, place: Place, hint: Any = NO_HINT) -> Json:
        schema = resolve(schema, self._root)
        if place.depth > DEEPEST:
            message = "output_config.format.schema: it nests without end"
            raise InvalidRequestError(message)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(schema["enum"], place, hint)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._variant(schema, keyword, place, hint)
        kinds = types_of(schema) or ("string",)
        if len(kinds) > 1:
            variants = [{"type": kind} for kind in kinds]
            return self._variant(schema | {"anyOf": variants}, "anyOf", place, hint)
        return self._of_type(kinds[0], schema, place, hint)

    def _of_type(self, kind: str, schema: Schema, place: Place, hint: Any) -> Json:
        if kind == "object":
            return self._object(schema, place, hint)
        if kind == "array":
            return self._array(schema, place, hint)
        if kind == "string" and isinstance(hint, str):
            hint = fit_length(hint, schema)
        if hint is not NO_HINT and fits(hint, schema, self._root):
            return hint
        return self._scalar(kind, schema, place)

    def _scalar(self, kind: str, schema: Schema, place: Place) -> Json:
        if kind == "string":
            return build_string(schema, place, self._material)
        if kind == "boolean":
            return place.index % 2 == 0
        if kind == "null":
            return None
        return build_number(schema, place, self._material, is_integer=kind == "integer")

    def _choice(self, values: list[Json], place: Place, hint: Any) -> Json:
        """One of the values: the hinted, the one the prompt names, or the first."""
        if not values:
            message = "output_config.format.schema: it allows no value"
            raise InvalidRequestError(message)
        named = self._material.value_of(place.name)
        for wanted in (hint, named):
            for value in values:
                if wanted is not NO_HINT and wanted is not None and value == wanted:
                    return value
        return values[place.index % len(values)]

    def _variant(self, schema: Schema, keyword: str, place: Place, hint: Any) -> Json:
        """The first variant that a fitting value is found for."""
        rest = {key: value for key, value in schema.items() if key not in {keyword, "type"}}
        variants = [rest | resolve(part, self._root) for part in schema[keyword]]
        for variant in sorted(variants, key=lambda part: self._rank(part, place, hint)):
            try:
                value = self._value(variant, replace(place, depth=place.depth + 1), hint)
            except InvalidRequestError:
                continue
            if fits(value, schema, self._root):
                return value
        message = "output_config.format.schema: no variant was found that fits it"
        raise InvalidRequestError(message)

    def _rank(self, variant: Schema, place: Place, hint: Any) -> int:
        """Null comes first where there is nothing to say, and last where there is."""
        if hint is not NO_HINT:
            return 0 if fits(hint, variant, self._root) else 1
        if "null" not in types_of(variant):
            return 1
        return 2 if self._has_facts(place) and place.depth < SHALLOW else 0

    def _has_facts(self, place: Place) -> bool:
        return bool(place.context) or self._material.value_of(place.name) is not None

    def _object(self, schema: Schema, place: Place, hint: Any) -> dict[str, Json]:
        hints = hint if isinstance(hint, dict) else {}
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        inside = replace(place, depth=place.depth + 1)
        value = {
            name: self._value(part, replace(inside, name=name), hints.get(name, NO_HINT))
            for name, part in properties.items()
            if name in required or name in hints or place.depth < SHALLOW
        }
        others = schema.get("additionalProperties", True)
        for name in required:
            if name not in value:
                value[name] = self._value(others, replace(inside, name=name))
        return value

    def _array(self, schema: Schema, place: Place, hint: Any) -> list[Json]:
        first = schema.get("prefixItems", [])
        items = schema.get("items", True)
        about = self._sections_for(items)
        fewest, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 1_000))
        if isinstance(hint, list):
            wanted = len(hint)
        elif place.depth >= SHALLOW or items is False:
            wanted = len(first)
        else:
            wanted = len(about) or PLENTY
        count = max(fewest, min(wanted, most))
        values: list[Json] = []
        index = 0
        while len(values) < count and index < count + 100:
            inside = replace(place, index=index, depth=place.depth + 1)
            if index < len(about):
                topic = about[index]
                inside = replace(inside, section=topic.tag, context=topic.text.strip(), index=0)
            item_hint = hint[index] if isinstance(hint, list) and index < len(hint) else NO_HINT
            part = first[index] if index < len(first) else items
            value = self._value(part, inside, item_hint)
            if not schema.get("uniqueItems") or canonical(value) not in map(canonical, values):
                values.append(value)
            index += 1
        return values

    def _sections_for(self, items: AnySchema) -> list[Element]:
        """The prompt's sections that the items are about: `<find>` for a field `find`."""
        for name in resolve(items, self._root).get("properties", {}):
            sections = self._material.elements(name)
            if sections:
                return sections
        return []
