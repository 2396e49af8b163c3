"""services.core.claude.kept: answers that the record keeps and that are read again."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from anthropic.types import Message
from pydantic import BaseModel

from services.core.claude.kept import keep_answer
from services.core.claude.protocol import ClaudeRequest, Truncation
from services.core.errors import (
    ClaudeMalformedAnswerError,
    ClaudeRefusedError,
    ClaudeTruncatedError,
)
from services.core.usage import Usage
from tests.unit.core.claude.messages_api import MessagesApi, answer, claude_for

REQUEST = ClaudeRequest(system="s", prompt="p", max_tokens=50, on_truncation=Truncation.CONTINUE)
CACHE = {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200}


class Word(BaseModel):
    """What is asked for."""

    word: str


class Number(BaseModel):
    """What is not."""

    number: int


def batch_answer(text: str, stop_reason: str = "end_turn") -> Message:
    """A message as a message batch gives it."""
    return Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-5-5",
            "content": [{"type": "text", "text": text}],
            "stop_reason": stop_reason,
            "usage": {"input_tokens": 100, "output_tokens": 20, "service_tier": "batch"},
        }
    )


async def test_a_kept_answer_is_as_it_was() -> None:
    """After its way through the record as JSON, several turns and cached tokens included."""
    cut = answer('{"word": "y', stop_reason="max_tokens", **CACHE)
    api = MessagesApi(
        answer('es"}'), before=[cut], headers={"anthropic-ratelimit-requests-limit": "50"}
    )
    claude = claude_for(api)
    reply = await claude.ask(REQUEST, Word)

    again = claude.reread(json.loads(json.dumps(reply.kept)), Word)

    assert again == replace(reply, seen_limits=None)
    assert again.usage == Usage(200, 40, 1000, 200)
    assert len(api.requests) == 2


async def test_a_kept_answer_can_be_read_as_another_type() -> None:
    """A pipeline that was changed meanwhile judges it anew, and knows what it has cost."""
    claude = claude_for(MessagesApi())
    reply = await claude.ask(REQUEST, Word)

    with pytest.raises(ClaudeMalformedAnswerError) as caught:
        claude.reread(reply.kept, Number)

    assert caught.value.usage == reply.usage
    assert caught.value.cost_usd == reply.cost_usd


def test_an_answer_from_a_batch_costs_half() -> None:
    """It is kept as those that were asked live."""
    kept = keep_answer(
        [batch_answer('{"word": "yes"}')],
        asked_model="claude-sonnet-5-5",
        is_simulated=True,
        is_batch=True,
    )

    reply = claude_for(MessagesApi()).reread(kept, Word)

    assert reply.answer.word == "yes"
    assert reply.cost_usd == Decimal("0.0002")
    assert reply.is_simulated is True


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [("max_tokens", ClaudeTruncatedError), ("refusal", ClaudeRefusedError)],
)
def test_a_kept_answer_that_is_none_says_so(stop_reason: str, expected: type) -> None:
    """As it would have when it came."""
    kept = keep_answer(
        [batch_answer("", stop_reason)], asked_model="claude-sonnet-5-5", is_simulated=False
    )

    with pytest.raises(expected):
        claude_for(MessagesApi()).reread(kept, Word)
