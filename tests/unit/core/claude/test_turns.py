"""services.core.claude.turns: answers in several turns, and the most that a call can cost."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.cost import PriceList
from services.core.claude.messages import GO_ON, message_params
from services.core.claude.protocol import ClaudeRequest, Truncation
from services.core.errors import (
    ClaudeMalformedAnswerError,
    ClaudeOverloadedError,
    ClaudeTruncatedError,
)
from services.core.usage import Usage
from services.simulator.prefixes import count_input_tokens
from services.simulator.schemas import CountTokensRequest
from tests.unit.core.claude.messages_api import (
    MessagesApi,
    answer,
    claude_for,
    message_events,
    sse,
)
from tests.unit.core.claude.test_cost import message

LONG = ClaudeRequest(
    system="Be brief.", prompt="All words?", max_tokens=50, on_truncation=Truncation.CONTINUE
)
SHORT = ClaudeRequest(system="Be brief.", prompt="All words?", max_tokens=50)
MODELS = (
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-sonnet-4-5",
    "claude-fable-5-2",
    "claude-3-haiku",
    "claude-2",
    "claude-next-9",
)


class Word(BaseModel):
    """What is asked for."""

    word: str


def cut(*pieces: str) -> bytes:
    """An answer that reached max_tokens."""
    return answer(*pieces, stop_reason="max_tokens")


async def test_a_cut_off_answer_is_continued_where_the_step_allows_it() -> None:
    """The text so far goes back, without the schema, and the whole is one answer with one price."""
    api = MessagesApi(answer('s"}'), before=[cut('{"wo', 'rd": "y'), cut("e")])
    pieces: list[str] = []

    async def keep(piece: str) -> None:
        pieces.append(piece)

    reply = await claude_for(api).ask(LONG, Word, on_text=keep)

    assert reply.answer.word == "yes"
    assert pieces == ['{"wo', 'rd": "y', "e", 's"}']
    assert reply.usage == Usage(300, 60)
    assert reply.cost_usd == 3 * Decimal("0.0004")
    assert [
        {"role": "user", "content": "All words?"},
        {"role": "assistant", "content": '{"word": "ye'},
        {"role": "user", "content": GO_ON},
    ] == api.asked["messages"]
    assert "output_config" not in api.asked
    assert api.asked["max_tokens"] == 50


async def test_an_answer_without_end_is_given_up() -> None:
    """After three continuations; all that it cost is on the error."""
    api = MessagesApi(cut("{"))

    with pytest.raises(ClaudeTruncatedError) as caught:
        await claude_for(api).ask(LONG, Word)

    assert len(api.requests) == 4
    assert caught.value.usage == Usage(400, 80)


@pytest.mark.parametrize("text", ["", " \n"])
async def test_an_answer_without_text_cannot_be_continued(text: str) -> None:
    """Claude takes no empty turn."""
    api = MessagesApi(cut(text))

    with pytest.raises(ClaudeTruncatedError):
        await claude_for(api).ask(LONG, Word)

    assert len(api.requests) == 1


async def test_a_step_that_does_not_allow_it_gets_the_error_at_once() -> None:
    """An email that was cut off is not worth a second price."""
    api = MessagesApi(cut('{"word": "y'))

    with pytest.raises(ClaudeTruncatedError, match="20 tokens"):
        await claude_for(api).ask(SHORT, Word)

    assert len(api.requests) == 1


async def test_the_whole_is_validated() -> None:
    """Pieces that do not join are a malformed answer."""
    api = MessagesApi(answer('{"word": "yes"}'), before=[cut('{"word": "y')])

    with pytest.raises(ClaudeMalformedAnswerError) as caught:
        await claude_for(api).ask(LONG, Word)

    assert caught.value.usage == Usage(200, 40)


async def test_an_error_in_a_later_turn_has_the_cost_of_all() -> None:
    """What came before is paid for."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    broken = sse(*message_events('s"}')[:3], error)
    api = MessagesApi(broken, before=[cut('{"word": "ye')])

    with pytest.raises(ClaudeOverloadedError) as caught:
        await claude_for(api).ask(LONG, Word)

    assert caught.value.usage == Usage(200, 21)


@pytest.mark.parametrize("request_", [SHORT, LONG])
async def test_a_paused_answer_goes_on(request_: ClaudeRequest) -> None:
    """What came goes back as it is, and what is left of max_tokens is asked for."""
    api = MessagesApi(answer('s"}'), before=[answer('{"word": "ye', stop_reason="pause_turn")])

    reply = await claude_for(api).ask(request_, Word)

    assert reply.answer.word == "yes"
    assert reply.usage == Usage(200, 40)
    assert [
        {"role": "user", "content": "All words?"},
        {"role": "assistant", "content": [{"type": "text", "text": '{"word": "ye'}]},
    ] == api.asked["messages"]
    assert "output_config" in api.asked
    assert api.asked["max_tokens"] == 30


async def test_an_answer_that_pauses_for_ever_is_given_up() -> None:
    """As often as one is continued."""
    api = MessagesApi(answer("{", stop_reason="pause_turn"))
    request = ClaudeRequest(system="", prompt="x" * 5000, max_tokens=5000)

    with pytest.raises(ClaudeTruncatedError, match="paused"):
        await claude_for(api).ask(request, Word)

    assert len(api.requests) == 4


@pytest.mark.parametrize("request_", [SHORT, LONG])
async def test_no_turn_may_exceed_what_is_reserved(request_: ClaudeRequest) -> None:
    """A further turn that could cost more than is left of it is not asked for."""
    stop = "max_tokens" if request_ is LONG else "pause_turn"
    first_usd = Decimal("0.0004")
    prices = PriceList(fallback_model="claude-fable-5-2")
    # 100 tokens of the first turn, 20 that it wrote, counted twice, and those of the frame.
    left = 50 if request_ is LONG else 30
    second_usd = prices.most_usd("claude-sonnet-5-5", input_tokens=440, output_tokens=left)

    for ceiling_usd, turns in [
        (first_usd + second_usd - Decimal("0.0000001"), 1),
        (first_usd + second_usd, 2),
    ]:
        api = MessagesApi(answer('s"}'), before=[answer('{"word": "ye', stop_reason=stop)])
        asking = claude_for(api).ask(request_, Word, ceiling_usd=ceiling_usd)
        if turns == 1:
            with pytest.raises(ClaudeTruncatedError):
                await asking
        else:
            await asking
        assert len(api.requests) == turns


@settings(deadline=None, max_examples=200)
@given(
    model=st.sampled_from(MODELS),
    system=st.text(max_size=50),
    shared=st.text(max_size=50),
    prompt=st.text(st.characters(codec="utf-8"), min_size=1),
    repeated=st.sampled_from([1, 1, 10, 1000]),
    max_tokens=st.integers(1, 200_000),
    is_counted=st.booleans(),
    is_batch=st.booleans(),
    data=st.data(),
)
def test_no_usage_costs_more_than_the_worst_case(  # noqa: PLR0913 - hypothesis gives them by name
    *,
    model: str,
    system: str,
    shared: str,
    prompt: str,
    repeated: int,
    max_tokens: int,
    is_counted: bool,
    is_batch: bool,
    data: st.DataObject,
) -> None:
    """However many tokens a text has by the simulator's count, and of whatever kind they are."""
    request = ClaudeRequest(
        system=system, shared=shared, prompt=prompt * repeated, max_tokens=max_tokens, model=model
    )
    sent = message_params(request, Word, model)
    tokens = count_input_tokens(CountTokensRequest.model_validate(sent))
    written = data.draw(st.integers(0, tokens))
    read = data.draw(st.integers(0, tokens - written))
    used = message(
        model,
        input_tokens=tokens - written - read,
        cache_creation_input_tokens=written,
        cache_read_input_tokens=read,
        output_tokens=data.draw(st.integers(0, max_tokens)),
    )
    claude = AnthropicClaude(AnthropicSettings(api_key=None, simulator_url=None))
    prices = PriceList(fallback_model=AnthropicSettings().fallback_price_model)

    worst_usd = claude.worst_case_usd(
        request, Word, input_tokens=tokens if is_counted else None, is_batch=is_batch
    )

    cost_usd = prices.spend_of(used, asked_model=model, is_batch=is_batch).cost_usd
    assert cost_usd <= worst_usd


class ByteClaude:
    """A Messages API for which each byte of text is a token, and which never comes to an end."""

    def __init__(self, output_tokens: int) -> None:
        self.output_tokens = output_tokens
        self.api = MessagesApi()

    def __call__(self, request: Any) -> Any:
        """An answer of that many tokens, of one byte each."""
        asked = json.loads(request.content)
        read = [asked["system"], asked["messages"], asked.get("output_config")]
        size = len(json.dumps(read, ensure_ascii=False).encode())
        events = message_events(
            "x" * self.output_tokens, stop_reason="max_tokens", input_tokens=size
        )
        events[-2]["usage"] = {"output_tokens": self.output_tokens}
        self.api.body = sse(*events)
        return self.api(request)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.sampled_from(Truncation), st.text(max_size=200))
async def test_a_continued_answer_costs_no_more_than_the_worst_case(
    max_tokens: int, truncation: Truncation, prompt: str
) -> None:
    """All its turns together, even if each byte of what is sent were a token."""
    request = ClaudeRequest(
        system="s", prompt=prompt, max_tokens=max_tokens, on_truncation=truncation
    )
    byte_claude = ByteClaude(max_tokens)
    claude = claude_for(byte_claude)

    with pytest.raises(ClaudeTruncatedError) as caught:
        await claude.ask(request, Word)

    assert len(byte_claude.api.requests) == (4 if truncation is Truncation.CONTINUE else 1)
    assert caught.value.cost_usd is not None
    assert caught.value.cost_usd <= claude.worst_case_usd(request, Word)


def test_the_worst_case_counts_every_kind_of_price() -> None:
    """Dear input, each turn of an answer that may be continued, half of all for a batch."""
    claude = AnthropicClaude(AnthropicSettings(api_key=None, simulator_url=None))

    def worst_usd(request: ClaudeRequest, **how: Any) -> Decimal:
        return claude.worst_case_usd(request, Word, **how)

    # 1,000 counted tokens count as 1,220, for $2.50 a million; 50 tokens out for $10.
    once = 1220 * Decimal("0.0000025") + 50 * Decimal("0.00001")
    assert once == worst_usd(SHORT, input_tokens=1000)
    assert once / 2 == worst_usd(SHORT, input_tokens=1000, is_batch=True)
    # Each turn reads what those before it have written, twice counted, and 300 tokens of frame.
    added = (1 + 2 + 3) * (2 * 50 + 300) * Decimal("0.0000025")
    assert 4 * once + added == worst_usd(LONG, input_tokens=1000)
    assert once / 2 == worst_usd(LONG, input_tokens=1000, is_batch=True)
    assert worst_usd(SHORT) > Decimal("0.003")


def test_long_input_has_the_prices_of_long_input() -> None:
    """Beyond 200,000 tokens all of a call is dearer, its output included."""
    request = ClaudeRequest(system="", prompt="x", max_tokens=1_000_000, model="claude-sonnet-4-5")
    claude = AnthropicClaude(AnthropicSettings(api_key=None, simulator_url=None))

    short, long = (
        claude.worst_case_usd(request, Word, input_tokens=tokens) for tokens in (1000, 200_000)
    )

    assert short < 16
    assert long > Decimal("22.5")
