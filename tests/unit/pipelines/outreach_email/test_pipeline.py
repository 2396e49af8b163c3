"""The three steps fit together, and checkpoints between them lose nothing."""

from typing import Any

import pytest
from pydantic import BaseModel

from services.pipelines.definition import WebPage
from services.pipelines.outreach_email.pipeline import OUTREACH_EMAIL
from services.pipelines.outreach_email.schemas import OutreachEmail
from tests.fakes.data import read_data
from tests.fakes.step_claude import ScriptedClaude
from tests.fakes.step_context import RUN_ID, step_context
from tests.fakes.web import FakeWeb

PAGE = "https://tidewater.example/cartographer"
INPUT = {
    "template": read_data("book.txt"),
    "template_type": "book",
    "recipient": {"name": "Tomás Arrieta"},
    "sources": [PAGE, "https://tidewater.example/gone"],
    "sender": "Lena Hofer",
}
QUESTIONS = {"questions": []}
EMAIL = {
    "subject": "An evening about The Cartographer's Silence",
    "body": (
        "Dear Tomás Arrieta,\n\nmy book club in Graz read The Cartographer's Silence this winter.\n\n"
        "We meet again on 24 April 2027. Tidewater Press told us that you enjoy such evenings.\n\n"
        "Yours,\nLena Hofer"
    ),
    "filled": [
        {"placeholder": "book title", "value": "The Cartographer's Silence", "source_id": 1},
        {"placeholder": "publisher's name", "value": "Tidewater Press", "source_id": 1},
    ],
    "left_out": ["what the book says about maps"],
    "source_ids": [1],
}


async def run_with_checkpoints(given: dict[str, Any]) -> OutreachEmail:
    text = "The Cartographer\u2019s Silence\nPublished by Tidewater Press in 2024."
    web = FakeWeb({PAGE: WebPage(PAGE, "The Cartographer\u2019s Silence", text)})
    context = step_context(claude=ScriptedClaude(QUESTIONS, EMAIL), web=web)
    value: BaseModel = OUTREACH_EMAIL.input_type.model_validate(given)
    for step in OUTREACH_EMAIL.steps:
        checkpoint = value.model_dump(mode="json")
        value = await step.function(step.input_type.model_validate(checkpoint), context)
    return OutreachEmail.model_validate(value.model_dump(mode="json"))


async def test_a_template_becomes_an_email() -> None:
    """Each step takes what the one before gave, read back from JSON as the worker does."""
    email = await run_with_checkpoints(INPUT)

    assert email.subject == EMAIL["subject"]
    assert email.metadata.filled["sender"] == "Lena Hofer"
    assert email.metadata.left_out == ("what the book says about maps",)
    assert ["found", "not_found"] == [source.status for source in email.metadata.sources]


async def test_the_stored_email_is_the_output() -> None:
    """Table `emails` gets the same id, texts and metadata, as plain JSON."""
    email = await run_with_checkpoints(INPUT)
    assert OUTREACH_EMAIL.email_of is not None

    draft = OUTREACH_EMAIL.email_of(email)

    assert (email.email_id, "book", email.subject) == (draft.id, draft.template_type, draft.subject)
    assert draft.metadata == email.metadata.model_dump(mode="json")
    assert draft.id != RUN_ID


@pytest.mark.parametrize("example", OUTREACH_EMAIL.input_examples, ids=lambda e: e["template_type"])
def test_the_documented_examples_are_valid(example: dict[str, Any]) -> None:
    """There is one for each template type, and the API's documentation shows them."""
    assert OUTREACH_EMAIL.input_type.model_validate(example)


def test_the_schema_explains_every_field() -> None:
    """A client reads from the JSON Schema alone what to send."""
    schema = OUTREACH_EMAIL.input_type.model_json_schema()

    for name, field in schema["properties"].items():
        assert "description" in field or "$ref" in field, name
    assert schema["properties"]["sources"]["maxItems"] == 10
    assert schema["additionalProperties"] is False
