"""Extracting records the way Claude is asked to, but by rule: from `field: value` lines.

A paragraph with such lines is a record. Prose is no record by this rule, so of a document without any such line the
answer is made as for any other question: something of the prompt that fits.
"""

import re
from typing import Any

from services.simulator.json_schema import Json, Schema, resolve, types_of
from services.simulator.material import PAIR, Material, normal_name

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NO_VALUE = object()


def find_records(material: Material, schema: Schema) -> dict[str, Any] | None:
    """The records that the prompt's documents hold, as `{"records": [...]}`.

    Returns:
        None where the answer is to have no records, or the documents have no `field: value` line.
    """
    records = resolve(schema.get("properties", {}).get("records", False), schema)
    wanted = resolve(records.get("items", False), schema)
    blocks = [
        {normal_name(label): value for label, value in PAIR.findall(paragraph)}
        for document in material.elements("document")
        for paragraph in re.split(r"\n\s*\n", document.text)
    ]
    if "properties" not in wanted or not any(blocks):
        return None
    found = [_record(block, wanted, schema) for block in blocks]
    required = set(wanted.get("required", ()))
    return {"records": [record for record in found if record and required <= set(record)]}


def _record(block: dict[str, str], wanted: Schema, root: Schema) -> dict[str, Json]:
    """The fields that the block has a value for; null where the schema allows it."""
    record = {
        name: _value(block.get(normal_name(name)), resolve(part, root), root)
        for name, part in wanted["properties"].items()
    }
    return {name: value for name, value in record.items() if value is not NO_VALUE}


def _value(text: str | None, schema: Schema, root: Schema) -> Json:
    """What a text says, as the schema wants it; NO_VALUE if it does not say that."""
    kinds = types_of(schema) or tuple(
        kind for part in schema.get("anyOf", ()) for kind in types_of(resolve(part, root))
    )
    if text is None:
        return None if "null" in kinds else NO_VALUE
    number = NUMBER.search(text)
    if "integer" in kinds and number and "." not in number[0]:
        return int(number[0])
    if "number" in kinds and number:
        return float(number[0])
    if "boolean" in kinds and text.lower() in {"yes", "no", "true", "false"}:
        return text.lower() in {"yes", "true"}
    return text if "string" in kinds or not kinds else NO_VALUE
