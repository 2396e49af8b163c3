"""Records by the real SDK from the simulator: the caller's schema takes the whole way."""

from typing import Any

from services.core.claude.anthropic_claude import AnthropicClaude
from services.pipelines.definition import StepContext
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from services.pipelines.extract_records.schemas import ExtractedRecords
from services.pipelines.web import SafeWeb
from tests.fakes.internet import http_answer
from tests.fakes.page_server import LoopbackOnly, PageServer
from tests.fakes.step_context import RUN_ID

BOOKS = b"""Title: The Lanternmaker's Ledger
Year: 2021
ISBN: 978-3-16-148410-0

Title: A Map of Quiet Rivers
Year: 2024
ISBN: unknown

Just a remark between two books.
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "year": {"$ref": "#/$defs/year"},
        "isbn": {"type": ["string", "null"], "pattern": "^[0-9-]+$"},
    },
    "required": ["title", "year", "isbn"],
    "$defs": {"year": {"type": "integer", "minimum": 1400, "maximum": 2100}},
}


async def test_records_fit_the_schema_or_are_rejected(
    pages: PageServer, claude: AnthropicClaude
) -> None:
    """What the simulator cannot mend is named with its error, and the rest is kept."""
    pages.answers["/books"] = http_answer(BOOKS)
    web = SafeWeb(
        timeout_s=5,
        max_page_bytes=1_000_000,
        allowed_private_hosts=[pages.host],
        sockets=LoopbackOnly(),
    )
    context = StepContext(RUN_ID, "step", 1, claude, web, pages.url("/api/query"))
    value: Any = EXTRACT_RECORDS.input_type.model_validate(
        {
            "schema": SCHEMA,
            "urls": [pages.url("/books"), pages.url("/gone")],
            "texts": ["Title: Salt\nYear: 1999"],
            "instructions": "One record for each book.",
        }
    )
    try:
        for step in EXTRACT_RECORDS.steps:
            checkpoint = value.model_dump_json()
            value = await step.function(step.input_type.model_validate_json(checkpoint), context)
    finally:
        await web.aclose()
    output = ExtractedRecords.model_validate_json(value.model_dump_json())

    assert [
        (1, {"title": "The Lanternmaker's Ledger", "year": 2021, "isbn": "978-3-16-148410-0"}),
        (3, {"title": "Salt", "year": 1999, "isbn": None}),
    ] == [(each.source_id, each.record) for each in output.records]
    (rejected,) = output.rejected
    assert rejected.record["title"] == "A Map of Quiet Rivers"
    assert rejected.errors == ('/isbn: "unknown" does not match "^[0-9-]+$"',)
    assert ["found", "not_found", "found"] == [source.status.value for source in output.sources]
    assert output.simulated
