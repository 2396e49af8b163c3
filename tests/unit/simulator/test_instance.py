"""services.simulator.instance: values that fit a schema and draw on the prompt."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.simulator.errors import InvalidRequestError
from services.simulator.instance import InstanceBuilder
from services.simulator.material import Material

PROMPT = """<recipient>
name: Elena Marsh
email: elena@example.org
</recipient>
<source id="7" url="https://example.org/a">
Her research interest is mud. It was measured on 2026-03-01.
</source>"""

NAMES = st.sampled_from(["name", "email", "title", "year", "items", "score", "is_good", "x"])
scalars = st.one_of(
    st.builds(
        lambda low, extra: {"type": "string", "minLength": low, "maxLength": low + extra},
        st.integers(0, 40),
        st.integers(0, 60),
    ),
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "boolean"},
            {"type": "null"},
            {"const": "fixed"},
            {"enum": ["research", "book", 3, None]},
            {"type": ["string", "null"]},
            *(
                {"type": "string", "format": name}
                for name in ("date", "date-time", "time", "email", "uri", "uuid", "ipv4", "ipv6")
            ),
        ]
    ),
    st.builds(
        lambda low, extra: {"type": "integer", "minimum": low, "maximum": low + extra},
        st.integers(-50, 50),
        st.integers(0, 50),
    ),
    st.builds(
        lambda low, step: {"type": "number", "exclusiveMinimum": low, "multipleOf": step},
        st.integers(-50, 50),
        st.sampled_from([0.5, 1, 3]),
    ),
)


def _objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, parts, max_size=4).flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties) or ["none"])).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required & properties.keys()),
                "additionalProperties": False,
            }
        )
    )


def _arrays(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda items, low, extra: {
            "type": "array",
            "items": items,
            "minItems": low,
            "maxItems": low + extra,
        },
        parts,
        st.integers(0, 4),
        st.integers(0, 3),
    )


schemas = st.recursive(
    scalars,
    lambda parts: st.one_of(
        _objects(parts),
        _arrays(parts),
        st.lists(parts, min_size=1, max_size=3).map(lambda variants: {"anyOf": variants}),
        _objects(parts).map(lambda part: {"allOf": [part], "description": "merged"}),
    ),
    max_leaves=8,
)


def with_reference(part: dict[str, Any]) -> dict[str, Any]:
    """A schema that uses the part twice by reference."""
    reference = {"$ref": "#/$defs/part"}
    properties = {"one": reference, "more": {"type": "array", "items": reference, "minItems": 1}}
    return {
        "type": "object",
        "properties": properties,
        "required": ["one", "more"],
        "additionalProperties": False,
        "$defs": {"part": part},
    }


def build(schema: dict[str, Any], prompt: str = PROMPT, **hints: Any) -> Any:
    """The value for a prompt."""
    return InstanceBuilder(schema, Material(prompt)).build(hints)


@settings(max_examples=300, deadline=None)
@given(schemas.map(with_reference) | schemas)
def test_build_fits_any_schema(schema):
    """Whatever schema of the supported kind is asked for, the answer fits it."""
    value = build(schema)

    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)


def test_build_says_what_the_prompt_says():
    """Fields get the prompt's own lines, attributes, sentences and dates."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "contact": {"type": "string", "format": "email"},
            "url": {"type": "string", "format": "uri"},
            "measured": {"type": "string", "format": "date"},
            "id": {"type": "integer"},
            "year": {"type": "integer"},
            "research": {"type": "string"},
        },
    }

    value = build(schema)

    assert value == {
        "name": "Elena Marsh",
        "contact": "elena@example.org",
        "url": "https://example.org/a",
        "measured": "2026-03-01",
        "id": 7,
        "year": 2026,
        "research": "Her research interest is mud.",
    }


@pytest.mark.parametrize(("name", "expected"), [("name", "Elena Marsh"), ("phone", None)])
def test_build_leaves_unknown_nullable_fields_null(name, expected):
    """What the prompt does not tell is null where the schema lets it."""
    part = {"anyOf": [{"type": "string"}, {"type": "null"}]}

    assert {name: expected} == build({"type": "object", "properties": {name: part}})


def test_build_chooses_the_enum_value_that_the_prompt_names():
    """A choice that the prompt has made is kept."""
    part = {"enum": ["research", "book", "general"]}
    schema = {"type": "object", "properties": {"template_type": part, "other": part}}

    value = build(schema, "<template_type>book</template_type>")

    assert value == {"template_type": "book", "other": "research"}


def test_build_gives_one_item_for_each_section_of_that_name():
    """An array of objects about sections of the prompt covers each section once."""
    item = {
        "type": "object",
        "properties": {
            "placeholder": {"type": "string"},
            "question": {"type": "string"},
            "terms": {"type": "array", "items": {"type": "string"}},
        },
    }
    prompt = (
        "<recipient>\nname: Elena Marsh\n</recipient>"
        "<placeholder>recent paper</placeholder><placeholder>award</placeholder>"
    )

    values = build({"type": "array", "items": item}, prompt)

    assert [value["placeholder"] for value in values] == ["recent paper", "award"]
    assert values[0]["question"] == "What is the recent paper of Elena Marsh?"
    assert values[0]["terms"][0] == "recent paper"


def test_build_heeds_limits_that_the_sdk_moved_into_the_description():
    """Limits that the API does not enforce are followed all the same."""
    schema = {
        "type": "array",
        "items": {"type": "string", "description": "A word\n\n{maxLength: 5}"},
        "description": "{minItems: 4, maxItems: 4}",
    }

    words = build(schema)

    assert len(words) == 4
    assert all(len(word) <= 5 for word in words)


def test_build_makes_items_distinct():
    """UniqueItems holds also where the prompt says only one thing."""
    part = {"type": "string", "maxLength": 3}
    schema = {"type": "array", "items": part, "minItems": 8, "uniqueItems": True}

    values = build(schema, "One.")

    assert len(set(values)) == len(values) == 8


def test_build_uses_hints_and_cuts_them_to_size():
    """Fields that the caller has composed are taken, if they fit."""
    schema = {
        "type": "object",
        "properties": {
            "subject": {"type": "string", "maxLength": 10},
            "ids": {"type": "array", "items": {"type": "integer"}},
            "count": {"type": "integer"},
        },
    }

    value = build(schema, subject="A subject that is long", ids=[3, 4], count="no number")

    assert value["subject"] == "A subject"
    assert value["ids"] == [3, 4]
    assert isinstance(value["count"], int)


def test_build_ends_recursive_schemas():
    """A tree of itself comes to an end."""
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "required": ["children"],
    }
    schema = {"$ref": "#/$defs/tree", "$defs": {"tree": tree}}

    jsonschema_rs.validator_for(schema).validate(build(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"type": "object", "patternProperties": {"a": {}}},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#"},
        {"type": "string", "pattern": "^[A-Z]{9}-[0-9]{9}$"},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"enum": []},
        {"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True},
        {
            "$ref": "#/$defs/endless",
            "$defs": {
                "endless": {
                    "type": "object",
                    "properties": {"next": {"$ref": "#/$defs/endless"}},
                    "required": ["next"],
                }
            },
        },
    ],
)
def test_build_refuses_what_it_cannot_fit(schema):
    """A schema that is unsupported or has no value is a wrong request, never a wrong answer."""
    with pytest.raises(InvalidRequestError, match=r"output_config\.format\.schema"):
        build(schema)
