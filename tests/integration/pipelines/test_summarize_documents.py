"""Summaries by the real SDK from the simulator, over pages read by the real reader."""

from typing import Any

from services.core.claude.anthropic_claude import AnthropicClaude
from services.pipelines.definition import StepContext
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS
from services.pipelines.summarize_documents.schemas import DocumentsSummary
from services.pipelines.web import SafeWeb
from tests.fakes.data import read_data
from tests.fakes.internet import http_answer
from tests.fakes.page_server import LoopbackOnly, PageServer
from tests.fakes.step_context import RUN_ID

HTML = "text/html; charset=utf-8"
MINUTES = "The committee met at ten. The new penstock will cost 40,000 euros. Lunch was late."


async def test_pages_and_texts_are_summarized(pages: PageServer, claude: AnthropicClaude) -> None:
    """Each document has a summary of its own words, and the whole one cites them."""
    pages.answers["/solheim"] = http_answer(
        read_data("researcher.html").encode(), content_type=HTML
    )
    web = SafeWeb(
        timeout_s=5,
        max_page_bytes=1_000_000,
        allowed_private_hosts=[pages.host],
        sockets=LoopbackOnly(),
    )
    context = StepContext(RUN_ID, "step", 1, claude, web, pages.url("/api/query"))
    value: Any = SUMMARIZE_DOCUMENTS.input_type.model_validate(
        {
            "documents": [
                {"url": pages.url("/solheim")},
                {"url": pages.url("/gone")},
                {"text": MINUTES, "title": "Minutes"},
                {"text": "A long story. " * 4000},
            ],
            "focus": "What does the penstock cost?",
            "length": "short",
        }
    )
    try:
        for step in SUMMARIZE_DOCUMENTS.steps:
            checkpoint = value.model_dump_json()
            value = await step.function(step.input_type.model_validate_json(checkpoint), context)
    finally:
        await web.aclose()
    output = DocumentsSummary.model_validate_json(value.model_dump_json())

    assert "The new penstock will cost 40,000 euros." in output.summary
    assert ["found", "not_found", "found", "found"] == [d.status.value for d in output.documents]
    assert [True, False, True, True] == [document.cited for document in output.documents]
    assert output.documents[2].summary == MINUTES
    assert output.documents[3].summary == "A long story."  # three parts say the same
    assert output.simulated
