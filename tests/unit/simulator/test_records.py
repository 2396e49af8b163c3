"""Simulated records are made of the documents' `field: value` lines."""

from typing import Any

import pytest

from services.simulator.material import Material
from services.simulator.records import find_records

PROMPT = """<document id="1">Title: Salt
Pages: about 120
Price: 9.50
New: yes

Only prose.

Title: Rain</document>"""


def answer_schema(**properties: Any) -> dict[str, Any]:
    items = {"type": "object", "properties": properties, "required": ["title"]}
    return {"type": "object", "properties": {"records": {"type": "array", "items": items}}}


def test_a_paragraph_is_a_record() -> None:
    """Values have the schema's types; what is not said is null where that is allowed, else left out."""
    schema = answer_schema(
        title={"type": "string"},
        pages={"anyOf": [{"type": "integer"}, {"type": "null"}]},
        price={"type": "number"},
        new={"type": "boolean"},
        size={"type": "string"},
    )

    assert find_records(Material(PROMPT), schema) == {
        "records": [
            {"title": "Salt", "pages": 120, "price": 9.5, "new": True},
            {"title": "Rain", "pages": None},
        ]
    }


@pytest.mark.parametrize(
    ("prompt", "schema"),
    [
        (PROMPT, {"type": "object", "properties": {"summary": {"type": "string"}}}),
        (PROMPT, {"type": "object"}),
        ("<document>Only prose.</document>", answer_schema(title={"type": "string"})),
        ("Title: Salt", answer_schema(title={"type": "string"})),
    ],
)
def test_other_questions_are_left_to_other_rules(prompt: str, schema: dict[str, Any]) -> None:
    """No records wanted, or none that this rule sees."""
    assert find_records(Material(prompt), schema) is None
