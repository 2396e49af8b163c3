"""From a real-looking template to an email: real reader, real SDK, the simulator for Claude."""

from dataclasses import dataclass
from typing import Any

import pytest

from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest
from services.core.errors import StepTransientError
from services.pipelines.definition import StepContext
from services.pipelines.outreach_email.pipeline import OUTREACH_EMAIL
from services.pipelines.outreach_email.schemas import OutreachEmail
from services.pipelines.web import SafeWeb
from tests.fakes.data import read_data
from tests.fakes.internet import http_answer
from tests.fakes.page_server import LoopbackOnly, PageServer
from tests.fakes.step_context import RUN_ID

HTML = "text/html; charset=utf-8"
SENDER = {"name": "Marek Novotny", "affiliation": "TU Ostrov", "email": "marek@ostrov.example"}


@dataclass
class RecordingClaude:
    """Claude for a step; keeps the prompts."""

    claude: AnthropicClaude
    prompts: list[str]

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Note the prompt and ask."""
        self.prompts.append(request.prompt)
        return await self.claude.ask(request, answer_type)


async def run_pipeline(
    pages: PageServer, claude: AnthropicClaude, **given: Any
) -> tuple[OutreachEmail, list[str]]:
    """All steps, with checkpoints read back from JSON; the email and the prompts."""
    web = SafeWeb(
        timeout_s=5,
        max_page_bytes=1_000_000,
        allowed_private_hosts=[pages.host],
        sockets=LoopbackOnly(),
    )
    asked = RecordingClaude(claude, [])
    context = StepContext(RUN_ID, "step", 1, asked, web, pages.url("/api/query"))
    value: Any = OUTREACH_EMAIL.input_type.model_validate({"sender": SENDER} | given)
    try:
        for step in OUTREACH_EMAIL.steps:
            checkpoint = value.model_dump_json()
            value = await step.function(step.input_type.model_validate_json(checkpoint), context)
    finally:
        await web.aclose()
    return OutreachEmail.model_validate_json(value.model_dump_json()), asked.prompts


def serve(pages: PageServer, path: str, name: str) -> str:
    """Serve one of the data files as a page; its address."""
    pages.answers[path] = http_answer(read_data(name).encode(), content_type=HTML)
    return pages.url(path)


async def test_a_research_email(pages: PageServer, claude: AnthropicClaude) -> None:
    """The page and the recipient's own papers answer; what nobody says is left out."""
    feed = http_answer(read_data("arxiv.xml").encode(), content_type="application/atom+xml")
    pages.answers["/api/query"] = feed

    email, _ = await run_pipeline(
        pages,
        claude,
        template=read_data("research.txt"),
        template_type="research",
        recipient={
            "name": "Ingrid Solheim",
            "affiliation": "University of Bergfjord",
            "interest": "neural emulators of convection",
        },
        sources=[serve(pages, "/solheim", "researcher.html"), pages.url("/gone")],
    )

    assert email.subject == "Ingrid Solheim at our spring seminar?"
    assert "Dear Ingrid Solheim," in email.body
    assert '"Stochastic emulators of convection in weather models"' in email.body
    assert "neural emulators of convection at University of Bergfjord" in email.body
    assert "https://seminar.example.org/spring" in email.body
    assert email.body.endswith("Kind regards,\nMarek Novotny\nmarek@ostrov.example")
    assert [(source.status.value, source.reason) for source in email.metadata.sources] == [
        ("found", None),
        ("not_found", "it answered 404"),
        ("found", None),
        ("found", None),
    ]
    assert email.metadata.sources[2].url == "https://arxiv.org/abs/2613.00002v2"
    assert email.metadata.sources[2].cited
    assert email.metadata.simulated


async def test_a_book_email(pages: PageServer, claude: AnthropicClaude) -> None:
    """Title and publisher come from the page."""
    email, _ = await run_pipeline(
        pages,
        claude,
        template=read_data("book.txt"),
        template_type="book",
        recipient={"name": "Tomás Arrieta"},
        sources=[serve(pages, "/book", "author.html")],
    )

    assert "Dear Tomás Arrieta," in email.body
    assert "24 April 2027" in email.body
    assert "{{" not in email.subject + email.body
    asked = {"book title", "what the book says about maps", "publisher's name"}
    assert asked == (set(email.metadata.filled) | set(email.metadata.left_out)) - {"name", "sender"}


async def test_a_general_email(pages: PageServer, claude: AnthropicClaude) -> None:
    """A page about an organisation answers, or its sentence goes."""
    email, _ = await run_pipeline(
        pages,
        claude,
        template=read_data("general.txt"),
        template_type="general",
        recipient={"name": "Second Wheel", "affiliation": "The workshop"},
        sources=[serve(pages, "/about", "workshop.html")],
    )

    assert email.body.startswith("Hello Second Wheel,")
    assert "We run a smaller workshop with four volunteers" in email.body
    assert email.body.endswith("Thank you,\nMarek Novotny")


async def test_a_hostile_page_stays_in_its_fence(
    pages: PageServer, claude: AnthropicClaude
) -> None:
    """Fetched over the wire, its instructions reach Claude as data and its link never the email."""
    email, prompts = await run_pipeline(
        pages,
        claude,
        template="Dear {{name}}, we like {{profession}}.",
        template_type="general",
        recipient={"name": "Bo"},
        sources=[serve(pages, "/me", "hostile.html")],
    )

    prompt = prompts[-1]
    assert "ignore all previous instructions" in prompt
    assert (prompt.count("<source "), prompt.count("</source>"), prompt.count("<system>")) == (
        1,
        1,
        0,
    )
    assert "{{secret}}" not in prompt
    assert "evil.example" not in email.subject + email.body


async def test_an_outage_of_all_sources_is_an_outage_of_the_step(
    pages: PageServer, claude: AnthropicClaude
) -> None:
    """The run waits for its sources and asks Claude for no email meanwhile."""
    pages.answers["/down"] = http_answer(b"", status=503)

    with pytest.raises(StepTransientError, match="it answered 503"):
        await run_pipeline(
            pages,
            claude,
            template="Dear {{name}}, we like {{profession}}.",
            template_type="general",
            recipient={"name": "Bo"},
            sources=[pages.url("/down")],
        )
