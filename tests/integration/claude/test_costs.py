"""What calls cost, over HTTP: to the token what the simulator has counted, and never more than was to be feared.

`pytest tests/integration/claude/test_costs.py -s` also prints the figures of docs/claude.md.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.outcomes import ERROR_CODES, ERROR_TYPES
from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest, Truncation
from services.core.errors import ClaudeError, ClaudeTruncatedError
from services.core.usage import Usage
from services.pipelines.definition import StepContext
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from services.pipelines.extract_records.schemas import ExtractedRecords
from tests.fakes.step_context import RUN_ID
from tests.fakes.web import FakeWeb
from tests.integration.claude.conftest import RunningSimulator

KINDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
PRICES = (Decimal(2), Decimal(10), Decimal("0.1"), Decimal("2.5"))
"""Of claude-sonnet-5-5, a million tokens of each kind."""
SENTENCES = " ".join(f"The ferry number {number} sails at dawn." for number in range(40))
DETAIL = "What the announcement says about this, word for word; null if it says nothing about it."
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        **{
            f"detail_{number}": {"type": ["string", "null"], "description": DETAIL}
            for number in range(30)
        },
    },
    "required": ["title"],
}


class Notes(BaseModel):
    """A long answer."""

    notes: list[str]


class Counting:
    """Claude for a step: keeps the replies."""

    def __init__(self, claude: AnthropicClaude) -> None:
        self._claude = claude
        self.replies: list[ClaudeReply[Any]] = []

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Ask for the run."""
        request = replace(request, trace_key=str(RUN_ID))
        reply = await self._claude.ask(request, answer_type)
        self.replies.append(reply)
        return reply


def usage_of(simulator: RunningSimulator, trace_key: str, kind: str = "live") -> Usage:
    """What the simulator says that the run used."""
    simulator.ledger()  # once all calls have ended
    rows = simulator.http.get("/admin/usage", params={"user_id": trace_key}).json()["runs"]
    return sum(
        (Usage(*(row[name] for name in KINDS)) for row in rows if row["kind"] == kind), Usage()
    )


def price_of(usage: Usage) -> Decimal:
    """What the tokens cost, by the price list above."""
    counts = [getattr(usage, name) for name in KINDS]
    return sum((Decimal(n) * p for n, p in zip(counts, PRICES, strict=True)), Decimal(0)) / 10**6


def request_for(prompt: str = SENTENCES, **changes: Any) -> ClaudeRequest:
    """A question with a long answer."""
    text = f'<document id="1">{prompt}</document>'
    return ClaudeRequest(system="Take notes.", prompt=text, trace_key="run-17", **changes)


@pytest.mark.parametrize("place", ["error", "midstream_error"])
@pytest.mark.parametrize("row", [*ERROR_TYPES, *ERROR_CODES])
async def test_each_error_arrives_over_http(simulator, claude, place: str, row: str) -> None:
    """As an answer and in mid-stream, as what the table says that it is."""
    outcome = ERROR_CODES.get(row) or ERROR_TYPES[row]
    named = {"error_type": row} if row in ERROR_TYPES else {"error_code": row}
    simulator.fail(place, **named)

    with pytest.raises(ClaudeError) as caught:
        await claude.ask(request_for(), Notes)

    assert (outcome.error, row) == (type(caught.value), caught.value.error_type)
    assert (place == "midstream_error") is (caught.value.usage is not None)


async def test_cached_tokens_are_those_of_the_simulator(simulator, claude) -> None:
    """Written by the first call, read by the second, and priced as what they are."""
    request = request_for(shared=f"<rules>{SENTENCES * 4}</rules>", max_tokens=5000)

    first = await claude.ask(request, Notes)
    second = await claude.ask(replace(request, prompt="<document>Other.</document>"), Notes)

    assert first.usage.cache_creation_input_tokens > 1024
    assert first.usage.cache_read_input_tokens == 0
    assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens
    assert second.usage.cache_creation_input_tokens == 0
    assert first.usage + second.usage == usage_of(simulator, "run-17")
    for reply in (first, second):
        assert reply.cost_usd == price_of(reply.usage)


async def test_a_continued_answer_is_the_one_that_was_cut_off(simulator, claude) -> None:
    """And all of its turns are in its price."""
    whole = await claude.ask(request_for(), Notes)
    turns = -(-whole.usage.output_tokens // 3)
    request = request_for(max_tokens=turns, on_truncation=Truncation.CONTINUE)
    simulator.http.delete("/admin/requests").raise_for_status()

    reply = await claude.ask(request, Notes)

    assert reply.answer == whole.answer
    assert len(simulator.requests()) == 3
    assert reply.usage == usage_of(simulator, "run-17")
    assert reply.cost_usd == price_of(reply.usage)
    assert reply.cost_usd <= claude.worst_case_usd(request, Notes)
    assert claude.reread(reply.kept, Notes) == replace(reply, seen_limits=None)


async def test_an_answer_that_is_cut_off_too_often_is_given_up(simulator, claude) -> None:
    """After four turns; what they cost is on the error."""
    request = request_for(max_tokens=5, on_truncation=Truncation.CONTINUE)

    with pytest.raises(ClaudeTruncatedError) as caught:
        await claude.ask(request, Notes)

    assert len(simulator.requests()) == 4
    assert caught.value.usage == usage_of(simulator, "run-17")
    assert caught.value.cost_usd == price_of(caught.value.usage)


async def test_a_paused_answer_goes_on(simulator, claude) -> None:
    """The rest follows what came."""
    whole = await claude.ask(request_for(), Notes)
    simulator.fail("pause_turn", count=2)
    simulator.http.delete("/admin/requests").raise_for_status()

    reply = await claude.ask(request_for(), Notes)

    assert reply.answer == whole.answer
    assert len(simulator.requests()) == 3
    assert reply.usage == usage_of(simulator, "run-17")


async def test_counted_tokens_are_those_that_are_used(simulator, claude) -> None:
    """Whatever is asked, the bound by counted tokens holds, and is the lower one."""
    for prompt in ("A.", SENTENCES, "Ünïcödé ﷺ 日本語 🚢 " * 50, "x" * 10_000):
        request = request_for(prompt, shared="<rules/>", max_tokens=5000)
        counted = await claude.count_tokens(request, Notes)
        reply = await claude.ask(request, Notes)

        assert counted == reply.usage.all_input_tokens
        by_count = claude.worst_case_usd(request, Notes, input_tokens=counted)
        assert reply.cost_usd <= by_count < claude.worst_case_usd(request, Notes)


async def test_the_questions_of_a_run_share_their_beginning(simulator, claude) -> None:
    """Twenty texts, one schema: all but the first five, which are asked at once, read it from the cache."""
    simulator.http.delete("/admin/cache").raise_for_status()
    counting = Counting(claude)
    context = StepContext(RUN_ID, "extract", 1, counting, FakeWeb(), "")
    value: Any = EXTRACT_RECORDS.input_type.model_validate(
        {
            "schema": SCHEMA,
            "texts": [f"Title: Ferry {number}\n{SENTENCES}" for number in range(20)],
            "instructions": "One record for each announcement.",
        }
    )
    for step in EXTRACT_RECORDS.steps:
        value = await step.function(value, context)

    assert len(ExtractedRecords.model_validate(value).sources) == 20
    used = sum((reply.usage for reply in counting.replies), Usage())
    cost_usd = sum((reply.cost_usd for reply in counting.replies), Decimal(0))
    plain = Usage(used.all_input_tokens, used.output_tokens)
    hit_ratio = used.cache_read_input_tokens / used.all_input_tokens
    print(  # noqa: T201 - the figures of docs/claude.md
        f"\n{len(counting.replies)} calls: hit rate {hit_ratio:.0%}, "
        f"${cost_usd:.4f} with the cache, ${price_of(plain):.4f} without"
    )
    assert used == usage_of(simulator, str(RUN_ID))
    assert cost_usd == price_of(used)
    assert hit_ratio > 0.5
    assert cost_usd < price_of(plain)
