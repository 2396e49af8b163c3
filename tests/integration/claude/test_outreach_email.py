"""The outreach pipeline's own steps against the simulator: its emails must pass the pipeline's checks."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
import trafilatura

from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest
from services.pipelines.definition import StepContext, WebPage
from services.pipelines.outreach_email.pipeline import OUTREACH_EMAIL
from services.pipelines.outreach_email.schemas import OutreachEmail, OutreachInput
from tests.integration.claude.conftest import RunningSimulator

RUN_ID = UUID("019b0000-0000-7000-8000-000000000001")
RESEARCH = """Subject: A question about {{recent_paper}}

Dear {{name}},

I read about your work on {{research_topic}}, and {{recent paper}} in particular. \
Your award, {{award}}, is well deserved.

Have you ever worked with {{favourite_vendor}}? Could we talk for twenty minutes?

Kind regards
{{sender}}
{{sender.affiliation}}
"""
BOOK = """Dear {{name}},

We enjoyed {{book_title}}, which {{publisher}} brought out. Its theme, {{theme}}, is close to us.
{{sender}}
"""
GENERAL = """Hello {{name}},

Your mission is {{mission}}, and we hear that the latest project is {{latest_project}}. \
Greetings to {{director}} in {{city}}!
{{sender}}
"""


@dataclass(frozen=True)
class SampleWeb:
    """Reads the simulator's pages over the loopback; the real reader refuses private addresses."""

    http: httpx.Client

    async def read_page(self, url: str) -> WebPage:
        """The page's main text."""
        html = self.http.get(url).raise_for_status().text
        return WebPage(url=url, title=None, text=trafilatura.extract(html) or "")

    async def read_feed(self, url: str, params: dict[str, str]) -> bytes:
        """The feed's bytes."""
        return self.http.get(url, params=params).raise_for_status().content


@dataclass(frozen=True)
class PlainStepClaude:
    """Claude for a step, without the executor around it."""

    claude: AnthropicClaude

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Ask the simulator."""
        return await self.claude.ask(request, answer_type)


async def run_pipeline(
    simulator: RunningSimulator, claude: AnthropicClaude, **given: Any
) -> OutreachEmail:
    """All steps, one after the other."""
    value: Any = OutreachInput.model_validate({"sender": "Sam Okafor", **given})
    for step in OUTREACH_EMAIL.steps:
        context = StepContext(
            run_id=RUN_ID,
            step=step.name,
            attempt=1,
            claude=PlainStepClaude(claude),
            web=SampleWeb(simulator.http),
            arxiv_url=f"{simulator.url}/arxiv/api/query",
        )
        value = await step.function(value, context)
    return OutreachEmail.model_validate(value)


async def test_a_research_email_says_only_what_the_sources_say(simulator, claude) -> None:
    """Placeholders are filled from page and arXiv; what nobody tells goes with its sentence."""
    email = await run_pipeline(
        simulator,
        claude,
        template=RESEARCH,
        template_type="research",
        recipient={"name": "Dr. Elena Marsh", "affiliation": "Northfield University"},
        sources=[f"{simulator.url}/samples/researcher.html"],
    )

    paper = "Storm memory of salt marshes: forty sensors, three winters"
    assert email.subject == f"A question about {paper}"
    assert email.body == (
        "Dear Dr. Elena Marsh,\n\n"
        "I read about your work on sediment transport in tidal estuaries, and "
        f"{paper} in particular. Your award, the 2025 Harland Medal for Coastal Science, "
        "is well deserved.\n\n"
        "Could we talk for twenty minutes?\n\n"
        "Kind regards\nSam Okafor"
    )
    assert email.metadata.left_out == ("favourite_vendor", "sender.affiliation")
    assert email.metadata.simulated is True
    assert len(email.metadata.sources) == 4


async def test_a_research_email_draws_on_arxiv_where_no_page_is_given(simulator, claude) -> None:
    """The recipient's papers come from the small arXiv."""
    email = await run_pipeline(
        simulator,
        claude,
        template="Dear {{name}},\n\nYour paper {{recent_paper}} caught my eye.",
        template_type="research",
        recipient={"name": "Hana Okonjo"},
    )

    title = "Pieces that arrive late: streaming graph sketches with bounded delay"
    assert email.body == f"Dear Hana Okonjo,\n\nYour paper {title} caught my eye."
    assert email.metadata.filled["recent_paper"] == title
    assert [True, False] == [source.cited for source in email.metadata.sources]


async def test_a_book_email_names_book_and_publisher(simulator, claude) -> None:
    """A page about a book answers for title, publisher and theme."""
    email = await run_pipeline(
        simulator,
        claude,
        template=BOOK,
        template_type="book",
        recipient={"name": "Jonas Ferreira-Holt"},
        sources=[f"{simulator.url}/samples/book.html"],
    )

    assert email.subject == "About The Lanternmaker's Ledger"
    assert email.body == (
        "Dear Jonas Ferreira-Holt,\n\n"
        "We enjoyed The Lanternmaker's Ledger, which Quill & Harbour Press brought out. "
        "Its theme, what neighbours owe each other, is close to us.\nSam Okafor"
    )


async def test_a_general_email_names_mission_project_and_people(simulator, claude) -> None:
    """A page about an organisation answers in sentences and in lists."""
    email = await run_pipeline(
        simulator,
        claude,
        template=GENERAL,
        template_type="general",
        recipient={"name": "Open Tools for Rivers"},
        sources=[f"{simulator.url}/samples/organisation.html"],
    )

    assert email.body == (
        "Hello Open Tools for Rivers,\n\n"
        "Your mission is to put good measuring instruments into the hands of people who live by "
        "rivers, and we hear that the latest project is the Night Gauge. "
        "Greetings to Priya Ravensworth in Kestrel Bridge!\nSam Okafor"
    )


async def test_an_email_without_any_answer_is_still_an_email(simulator, claude) -> None:
    """Where no source tells anything, gaps go and nothing is put in their place."""
    email = await run_pipeline(
        simulator,
        claude,
        template="Hello {{name}}, how is {{mascot}} these days?",
        template_type="general",
        recipient={"name": "Alan"},
        sources=[f"{simulator.url}/samples/book.html"],
    )

    assert email.body == "Hello Alan, how is these days?"
    assert email.metadata.left_out == ("mascot",)


@pytest.mark.parametrize("example", OUTREACH_EMAIL.input_examples)
async def test_the_documented_examples_work(simulator, claude, example) -> None:
    """Every input that the API shows as an example ends in an email."""
    sources = [f"{simulator.url}/samples/researcher.html"] if "sources" in example else []

    email = await run_pipeline(simulator, claude, **(example | {"sources": sources}))

    assert email.subject
    assert example["recipient"]["name"] in email.body
