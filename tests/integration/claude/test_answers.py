"""The SDK, unmodified, against the simulator."""

import asyncio
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import anthropic
import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from services.core.claude.protocol import ClaudeRequest

PROMPT = """<recipient>
name: Elena Marsh
affiliation: Northfield University
</recipient>
<source id="3" url="https://example.org/elena">
Her research interest is mud. She won the Harland Medal in 2025.
</source>"""
REQUEST = ClaudeRequest(system="You read carefully.", prompt=PROMPT, trace_key="run-17")
PRICE_PER_INPUT_TOKEN = Decimal("0.000002")
PRICE_PER_OUTPUT_TOKEN = Decimal("0.00001")
"""Of claude-sonnet-5-5, the default model: $2 and $10 a million."""


class Kind(StrEnum):
    """A choice."""

    RESEARCH = "research"
    BOOK = "book"


class Fact(BaseModel):
    """One statement and where it is from."""

    text: str = Field(max_length=80)
    source_id: int


class Profile(BaseModel):
    """Of every kind of field one."""

    name: str
    affiliation: str | None
    phone: str | None
    kind: Kind
    year: int = Field(ge=1900, le=2100)
    confidence: float = Field(ge=0, le=1)
    is_found: bool
    facts: list[Fact] = Field(min_length=2, max_length=3)
    mode: Literal["fast"]
    best: Fact | None = None


async def test_an_answer_fits_its_type_and_draws_on_the_prompt(simulator, claude) -> None:
    """Fields hold what the prompt says, and nothing where it says nothing."""
    reply = await claude.ask(REQUEST, Profile)

    assert reply.answer.name == "Elena Marsh"
    assert reply.answer.affiliation == "Northfield University"
    assert reply.answer.phone is None
    assert reply.answer.year == 2025
    assert all(fact.text in PROMPT for fact in reply.answer.facts[:2])
    assert reply.is_simulated is True
    assert reply.model == "claude-sonnet-5-5"


async def test_pieces_join_to_the_answer(simulator, claude) -> None:
    """on_text gets the whole text, in order, in several pieces."""
    pieces: list[str] = []

    async def keep(piece: str) -> None:
        pieces.append(piece)

    reply = await claude.ask(REQUEST, Profile, on_text=keep)

    assert reply.answer == Profile.model_validate_json("".join(pieces))
    assert len(pieces) > 5


async def test_the_same_question_has_the_same_answer(simulator, claude) -> None:
    """The simulator is deterministic."""
    assert await claude.ask(REQUEST, Profile) == await claude.ask(REQUEST, Profile)


async def test_usage_and_cost_are_those_of_the_ledger(simulator, claude) -> None:
    """What a reply says it used and cost is what the simulator counted."""
    reply = await claude.ask(REQUEST, Profile)

    call = simulator.requests()[-1]
    used = (call["input_tokens"], call["output_tokens"])
    assert used == (reply.usage.input_tokens, reply.usage.output_tokens)
    assert reply.cost_usd == used[0] * PRICE_PER_INPUT_TOKEN + used[1] * PRICE_PER_OUTPUT_TOKEN
    assert call["user_id"] == "run-17"
    assert call["model"] == "claude-sonnet-5-5"
    assert call["is_streamed"] is True
    assert call["outcome"] == "answered"


async def test_300_calls_at_once(simulator, claude) -> None:
    """Many calls share one client; all are answered, and their sums are the ledger's."""
    simulator.fail(None, latency_ms=1000)
    requests = [
        ClaudeRequest(system="", prompt=f"<recipient>\nname: Person {number}\n</recipient>")
        for number in range(300)
    ]

    replies = await asyncio.gather(*(claude.ask(request, Profile) for request in requests))

    ledger = simulator.ledger()
    assert [reply.answer.name for reply in replies] == [f"Person {n}" for n in range(300)]
    assert ledger["answered"] == 300
    assert ledger["most_open"] > 100
    assert ledger["input_tokens"] == sum(reply.usage.input_tokens for reply in replies)
    assert ledger["output_tokens"] == sum(reply.usage.output_tokens for reply in replies)


async def test_max_connections_bounds_the_calls_under_way(simulator, make_claude) -> None:
    """More calls than connections wait for their turn and are all answered."""
    simulator.fail(None, latency_ms=50)
    claude = make_claude(max_connections=4)

    replies = await asyncio.gather(*(claude.ask(REQUEST, Profile) for _ in range(20)))

    assert len(replies) == 20
    assert simulator.ledger()["most_open"] == 4


async def test_a_plain_json_answer_is_the_streamed_one(simulator) -> None:
    """The SDK's create() and stream() give the same message."""
    async with anthropic.AsyncAnthropic(
        api_key="any", base_url=simulator.url, max_retries=0
    ) as client:
        question: dict[str, Any] = {
            "model": "claude-haiku-5-5",
            "max_tokens": 500,
            "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        }
        plain = await client.messages.create(**question)
        async with client.messages.stream(**question) as stream:
            streamed = await stream.get_final_message()
        counted = await client.messages.count_tokens(
            model=question["model"], messages=question["messages"]
        )

    assert plain.content[0].to_dict() == {
        key: value
        for key, value in streamed.content[0].to_dict().items()
        if key in {"type", "text"}
    }
    assert plain.usage == streamed.usage
    assert plain.usage.input_tokens == counted.input_tokens
    assert plain.stop_reason == streamed.stop_reason == "end_turn"
    assert plain.id.startswith("msg_sim_")
    assert plain.model == "claude-haiku-5-5"


async def test_the_sdks_own_structured_output_works(simulator) -> None:
    """`messages.parse` of the SDK gets an instance, too."""
    async with anthropic.AsyncAnthropic(api_key="any", base_url=simulator.url) as client:
        parsed = await client.messages.parse(
            model="claude-sonnet-5-5",
            max_tokens=900,
            messages=[{"role": "user", "content": PROMPT}],
            output_format=Profile,
        )

    assert parsed.parsed_output is not None
    assert parsed.parsed_output.name == "Elena Marsh"


FIELDS = st.sampled_from(
    [
        (str, ...),
        (str | None, ...),
        (int, Field(ge=3, le=9)),
        (float, Field(gt=0, lt=1)),
        (bool, ...),
        (Kind, ...),
        (list[str], Field(max_length=2)),
        (list[Fact], Field(min_length=1)),
        (Fact | None, None),
        (str, Field(min_length=30, max_length=60)),
        (int | str, ...),
    ]
)
NAMES = st.sampled_from(["name", "title", "summary", "facts", "year", "sources", "kind", "note"])


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fields=st.dictionaries(NAMES, FIELDS, min_size=1, max_size=6))
def test_any_model_gets_its_instance(simulator, fields) -> None:
    """Whatever a step asks for, as long as the API could, validates."""
    answer_type = create_model("Generated", **fields)
    question = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": PROMPT}],
        "output_config": {
            "format": {"type": "json_schema", "schema": anthropic.transform_schema(answer_type)}
        },
    }

    answer = httpx2.post(
        f"{simulator.url}/v1/messages", json=question, headers={"x-api-key": "any"}
    ).json()

    assert answer["stop_reason"] == "end_turn", answer
    answer_type.model_validate_json(answer["content"][0]["text"])
