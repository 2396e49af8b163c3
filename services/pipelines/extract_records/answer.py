"""The type of Claude's answer: records of the caller's schema.

The caller's schema goes to Claude as structured output, so Claude's decoder keeps to it. A model of its own for each
schema carries it there: Claude.ask() takes a type, sends that type's JSON Schema, and reads the answer with it. The
type itself lets any object pass, for what structured output does not enforce (limits, patterns, formats) is judged by
RecordSchema, one record at a time: one that does not fit must not cost the others. Records as JSON in
a string would need no such type, but no decoder would keep to the schema; models made from the schema would judge
by pydantic's rules, not by those of JSON Schema.
"""

import json
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema, create_model

from services.pipelines.extract_records.record_schema import Schema


class Records(BaseModel):
    """Claude's answer; a subclass says what a record is."""

    records: list[dict[str, Any]]


def answer_type_for(schema: Schema) -> type[Records]:
    """The answer's type for a schema without references; the same one for the same schema."""
    return _answer_type(json.dumps(schema))


# A run asks often with one schema, and the client of Claude keeps what it made of a type.
@lru_cache(maxsize=64)
def _answer_type(schema_json: str) -> type[Records]:
    record = Annotated[dict[str, Any], WithJsonSchema(json.loads(schema_json))]
    return create_model(
        "RecordsOfSchema",
        __base__=Records,
        records=(list[record], ...),
    )
