"""A caller's schema is bounded, can be told to Claude, and is what records are checked with."""

import time
from typing import Any

import anthropic
import pytest
from jsonschema_rs import validator_for

from services.pipelines.extract_records.answer import answer_type_for
from services.pipelines.extract_records.record_schema import RecordSchema, SchemaProblemError

TEXT = {"type": "string"}


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def nested(depth: int) -> dict[str, Any]:
    return record(a=nested(depth - 1)) if depth else record(a=TEXT)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({}, "it needs a type"),
        ({"type": "object"}, "an object needs properties"),
        ({"type": "array", "items": TEXT}, "/type: a record is an object"),
        ({"type": ["object", "null"], "properties": {"a": TEXT}}, "/type: objects, lists"),
        ({"type": "object", "properties": 5}, '/properties: 5 is not of type "object"'),
        (record(a={"type": "strin"}), "/properties/a/type: "),
        (record(a=True), "/properties/a: this must be an object"),
        (record(a={"type": "array"}), "/properties/a: a list needs items"),
        (record(a={"type": "array", "items": {"type": "object"}}), "/properties/a/items: an object"),
        (record(a={}), "/properties/a: it needs a type"),
        (record(a=TEXT | {"not": TEXT}), "/properties/a/not: this keyword"),
        (record(a=TEXT | {"format": "regex"}), "/properties/a/format: known are date"),
        (record(a=TEXT | {"pattern": "("}), "/properties/a/pattern: "),
        (record(a=TEXT | {"pattern": "(?=a)b"}), "/properties/a/pattern: "),
        (record(a=TEXT | {"pattern": "(a{1000}){1000}"}), "/properties/a/pattern: "),
        (record(a={"enum": [{}]}), "/properties/a: enum and const"),
        (record(a={"const": []}), "/properties/a: enum and const"),
        (record(a=TEXT) | {"required": ["b"]}, "/required: b is no property"),
        (record(a=TEXT) | {"additionalProperties": TEXT}, "/additionalProperties: only true"),
        (record(a={"$ref": "https://example.org/x"}), r"/properties/a/\$ref: only #/\$defs/… is"),
        (record(a={"$ref": "#/$defs/x"}), r"/properties/a/\$ref: only"),
        (record(a={"$ref": 5}), r"/properties/a/\$ref: 5 is not of type"),
        (record(a=TEXT) | {"$defs": []}, r"/\$defs: "),
        (record(a={"$ref": "#/properties/b"}, b=TEXT), r"/properties/a/\$ref: only"),
        (record(a={"$ref": "#/$defs/x"}) | {"$defs": {"x": record(y={"$ref": "#/$defs/x"})}}, "refers to itself"),
        (record(a={"$ref": "#/$defs/x", "type": "string"}) | {"$defs": {"x": TEXT}}, "not supported beside"),
        (record(a=TEXT | {"description": "x" * 20_000}), "longer than 20000 characters"),
        (record(**{f"a{number}": TEXT for number in range(200)}), "more than 200 schemas"),
        (nested(9), "it nests deeper than 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(schema: dict[str, Any], problem: str) -> None:
    """The message has the place in the schema."""
    with pytest.raises(SchemaProblemError, match=problem):
        RecordSchema(schema)


def test_references_that_multiply_are_refused_at_once() -> None:
    """Twenty definitions of two references each would be a million schemas."""
    definitions: dict[str, Any] = {"x0": TEXT}
    for number in range(1, 20):
        reference = {"$ref": f"#/$defs/x{number - 1}"}
        definitions[f"x{number}"] = {"anyOf": [reference, reference]}
    begun = time.perf_counter()

    with pytest.raises(SchemaProblemError, match=r"more than 200|deeper than 8"):
        RecordSchema(record(a={"$ref": "#/$defs/x19"}) | {"$defs": definitions})
    assert time.perf_counter() - begun < 5


def test_claude_gets_the_schema_without_references_and_type_lists() -> None:
    """The SDK takes it, and what Claude answers by it fits the schema as given."""
    schema = record(
        year={"type": ["integer", "null"], "minimum": 1, "description": "When"},
        place={"$ref": "#/$defs/place", "description": "Where"},
        kinds={"type": "array", "items": {"enum": ["a", "b", None]}},
        size={"anyOf": [{"type": "number"}, TEXT]},
        state={"type": ["string", "null"], "enum": ["on", None]},
    ) | {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": {"place": record(city=TEXT)}}  # fmt: skip

    sent = anthropic.transform_schema(answer_type_for(RecordSchema(schema).for_claude))

    items = sent["properties"]["records"]["items"]
    assert items["properties"]["year"] == {
        "description": "When",
        "anyOf": [{"type": "integer", "description": "{minimum: 1}"}, {"type": "null"}],
    }
    assert items["properties"]["place"]["properties"] == {"city": TEXT}
    assert items["properties"]["place"]["description"] == "Where"
    assert "$defs" not in sent
    validator_for(sent).validate(
        {"records": [{"year": None, "place": {"city": "x"}, "kinds": ["a"], "size": 1.5}]}
    )


def test_the_same_schema_has_the_same_type() -> None:
    """What is kept for each type is kept for each schema, not for each run."""
    assert answer_type_for(record(a=TEXT)) is answer_type_for(record(a=TEXT))
    assert answer_type_for(record(a=TEXT)) is not answer_type_for(record(b=TEXT))


def test_a_record_s_problems_have_their_place() -> None:
    """All are told at once, so that one more question can mend them all."""
    schema = RecordSchema(
        record(id=TEXT, n={"type": "integer"}, mail=TEXT | {"format": "email"})
        | {"required": ["id", "n"]}
    )

    assert schema.problems_of({"id": "a", "n": 1, "mail": "a@b.example"}) == []
    problems = schema.problems_of({"n": "x", "mail": "nobody"})
    assert sorted(problems) == [
        '/: "id" is a required property',
        '/mail: "nobody" is not a "email"',
        '/n: "x" is not of type "integer"',
    ]


def test_problems_are_bounded() -> None:
    """A hostile record does not fill the record of the run."""
    schema = RecordSchema(record(a={"type": "array", "items": {"type": "integer"}}))

    problems = schema.problems_of({"a": ["x" * 10_000] * 100})

    assert len(problems) == 10
    assert max(map(len, problems)) == 300


def test_a_pattern_takes_linear_time() -> None:
    """A pattern that takes years elsewhere, and a text that brings it out."""
    schema = RecordSchema(record(a=TEXT | {"pattern": "^(a+)+$"}))
    begun = time.perf_counter()

    assert schema.problems_of({"a": "a" * 50_000 + "!"})
    assert time.perf_counter() - begun < 5
