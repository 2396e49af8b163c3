"""services.core.claude.anthropic_claude: one call, its answer, its errors, its price."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import httpx2
import pytest
import time_machine
from pydantic import BaseModel

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.messages import message_params
from services.core.claude.protocol import CallEstimate, ClaudeRequest
from services.core.claude.sdk_clients import sdk_client
from services.core.errors import (
    ClaudeError,
    ClaudeMalformedAnswerError,
    ClaudeNotConfiguredError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRefusedError,
    ClaudeUnavailableError,
)
from services.core.rate_limits import SeenLimit, SeenLimits
from services.core.usage import Usage
from tests.unit.core.claude.messages_api import MessagesApi, claude_for, message_events, sse

REQUEST = ClaudeRequest(system="Be brief.", prompt="Yes or no?", max_tokens=50)


class Word(BaseModel):
    """What is asked for."""

    word: str


async def test_ask_sends_the_request_as_the_api_wants_it():
    """Model, limits, prompt, schema and key go out once, and the run only as an opaque key."""
    api = MessagesApi()
    request = ClaudeRequest(system="Be brief.", prompt="Hi", max_tokens=50, trace_key="run-1")

    await claude_for(api, model="claude-haiku-5-5").ask(request, Word)

    assert api.asked == {
        "model": "claude-haiku-5-5",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Hi"}],
        "metadata": {"user_id": "run-1"},
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {
                    "type": "object",
                    "title": "Word",
                    "description": "What is asked for.",
                    "properties": {"word": {"type": "string", "title": "Word"}},
                    "required": ["word"],
                    "additionalProperties": False,
                },
            }
        },
        "stream": True,
    }
    assert "Bearer sk-ant-real" == api.requests[0].headers["authorization"]
    assert "https://api.anthropic.com/v1/messages" == str(api.requests[0].url)


async def test_ask_sends_what_the_sdk_itself_would_send():
    """Body and headers are those of `messages.create(stream=True)`, whose copies of the question we do without."""
    api = MessagesApi()
    request = replace(REQUEST, prompt="Größe? \U0001f600", trace_key="run-1")
    settings = AnthropicSettings(api_key="sk-ant-real", simulator_url=None)

    await claude_for(api).ask(request, Word)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(api)) as http_client:
        client = sdk_client(settings, http_client)
        async with await client.messages.create(
            **message_params(request, Word, settings.model), stream=True
        ):
            pass

    ours, theirs = api.requests
    assert json.loads(theirs.content) == json.loads(ours.content)
    assert dict(theirs.headers) == dict(ours.headers)
    assert theirs.extensions == ours.extensions


async def test_ask_leaves_out_what_is_not_given():
    """An empty system prompt or trace key is no parameter; a step's own model wins."""
    api = MessagesApi()

    await claude_for(api).ask(ClaudeRequest(system="", prompt="Hi", model="claude-opus-5-5"), Word)

    assert "system" not in api.asked
    assert "metadata" not in api.asked
    assert api.asked["model"] == "claude-opus-5-5"


async def test_ask_returns_answer_usage_and_cost():
    """Cached tokens are counted apart and priced as such."""
    usage = {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200}
    api = MessagesApi(sse(*message_events('{"wo', 'rd": "yes"}', **usage)))

    reply = await claude_for(api).ask(REQUEST, Word)

    assert reply.answer == Word(word="yes")
    assert reply.model == "claude-sonnet-5-5"
    assert reply.usage == Usage(100, 20, 1000, 200)
    # $2 in, $10 out, $0.10 cache read and $2.50 cache write a million.
    assert reply.cost_usd == Decimal("0.0002") + Decimal("0.0002") + Decimal("0.0001") + Decimal(
        "0.0005"
    )
    assert reply.is_simulated is False


async def test_ask_passes_pieces_on_in_order():
    """on_text gets each piece as it was sent."""
    api = MessagesApi(sse(*message_events('{"word"', ": ", '"yes"}')))
    pieces: list[str] = []

    async def keep(piece: str) -> None:
        pieces.append(piece)

    await claude_for(api).ask(REQUEST, Word, on_text=keep)

    assert pieces == ['{"word"', ": ", '"yes"}']


async def test_without_a_key_the_simulator_is_asked():
    """The answer's own header tells that it was simulated; the simulator gets a dummy key."""
    api = MessagesApi(headers={"x-penstock-simulated": "true"})
    claude = claude_for(api, api_key=None, simulator_url="http://simulator:8080")

    reply = await claude.ask(REQUEST, Word)

    assert reply.is_simulated is True
    assert "http://simulator:8080/v1/messages" == str(api.requests[0].url)
    assert "Bearer sk-simulator" == api.requests[0].headers["authorization"]


async def test_a_key_keeps_the_simulator_out():
    """With a key nothing goes to the simulator, even if one is configured."""
    api = MessagesApi()

    await claude_for(api, simulator_url="http://simulator:8080").ask(REQUEST, Word)

    assert api.requests[0].url.host == "api.anthropic.com"


@pytest.mark.parametrize(
    ("configured", "is_allowed", "expected"),
    [
        ("claude-spare", True, "claude-spare"),
        ("claude-spare", False, None),
        (None, True, None),
        ("claude-main", True, None),
    ],
)
def test_the_fallback_is_another_model_that_the_request_allows(
    configured: str | None,
    is_allowed: bool,  # noqa: FBT001 - a parameter of the test
    expected: str | None,
):
    """To ask the overloaded model itself again would help nobody."""
    claude = claude_for(MessagesApi(), model="claude-main", fallback_model=configured)

    assert claude.fallback_of(replace(REQUEST, allows_fallback=is_allowed)) == expected


async def test_without_key_and_simulator_only_asking_fails():
    """A process can start without Claude and say so; each call says it again."""
    claude = AnthropicClaude(AnthropicSettings(api_key=None, simulator_url=None))

    with pytest.raises(ClaudeNotConfiguredError):
        await claude.ask(REQUEST, Word)

    await claude.aclose()


async def test_a_failing_call_is_made_once():
    """Retries belong to the record, not to the SDK."""
    api = MessagesApi()
    api.error("overloaded_error", status=529)

    with pytest.raises(ClaudeOverloadedError):
        await claude_for(api).ask(REQUEST, Word)

    assert len(api.requests) == 1


async def test_a_malformed_answer_is_accounted_but_not_quoted():
    """The error names the place that does not fit, and what the call cost, but not what stood there."""
    api = MessagesApi(sse(*message_events('{"word": ["secret"]}')))

    with pytest.raises(ClaudeMalformedAnswerError, match=r"Word: word: string_type") as caught:
        await claude_for(api).ask(REQUEST, Word)

    assert caught.value.usage == Usage(100, 20)
    assert caught.value.cost_usd == Decimal("0.0004")
    assert caught.value.is_cost_final is True
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ is True


async def test_a_refusal_says_in_which_category():
    """The API's category is in the message."""
    details = {"type": "refusal", "category": "bio", "explanation": None}
    api = MessagesApi(sse(*message_events(stop_reason="refusal", stop_details=details)))

    with pytest.raises(ClaudeRefusedError, match="bio"):
        await claude_for(api).ask(REQUEST, Word)


async def test_a_stream_that_ends_early_is_no_answer():
    """A proxy that ends the stream in good order does not make a half answer whole."""
    api = MessagesApi(sse(*message_events('{"word": "yes"}')[:4]))

    with pytest.raises(ClaudeUnavailableError) as caught:
        await claude_for(api).ask(REQUEST, Word)

    assert caught.value.error_type == "cut"
    assert caught.value.usage == Usage(100, 1)
    assert caught.value.is_cost_final is False


@pytest.mark.parametrize(
    "body",
    [
        b"<html>It works!</html>",
        b"",
        b"event: message_start\ndata: {broken\n\n",
        sse(*message_events('{"word": "yes"}')[:1], *message_events('{"word": "yes"}')[2:]),
        sse({"type": "ping"}, *message_events('{"word": "yes"}')[1:]),
    ],
)
async def test_an_unreadable_answer_is_unavailable(body):
    """Whatever something between us and Claude sends under status 200, the error is one of ours."""
    with pytest.raises(ClaudeUnavailableError):
        await claude_for(MessagesApi(body)).ask(REQUEST, Word)


async def test_an_overload_in_mid_stream_is_an_overload():
    """It comes under status 200 and as a plain APIStatusError: only its type tells."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    api = MessagesApi(sse(*message_events('{"word": "yes"}')[:3], error))

    with pytest.raises(ClaudeOverloadedError) as caught:
        await claude_for(api).ask(REQUEST, Word)

    assert caught.value.retry_after_s is None
    assert caught.value.usage == Usage(100, 1)
    assert caught.value.is_cost_final is False


async def test_ping_and_unknown_events_are_no_text():
    """Events that the API may add do not disturb."""
    events = message_events('{"word": "yes"}')
    api = MessagesApi(sse(*events[:2], {"type": "ping"}, {"type": "novelty"}, *events[2:]))

    reply = await claude_for(api).ask(REQUEST, Word)

    assert reply.answer.word == "yes"


LIMITS = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-11-23T12:00:30Z",
}
SEEN = SeenLimits(requests=SeenLimit(50, 0, datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)))


async def test_the_limits_that_an_answer_shows_are_on_the_reply():
    """Whoever shares Claude's limits learns them from it."""
    reply = await claude_for(MessagesApi(headers=LIMITS)).ask(REQUEST, Word)

    assert reply.seen_limits == SEEN


async def test_the_limits_are_on_errors_as_well():
    """On refused calls, and on those that fail after their headers."""
    limited = MessagesApi(headers=LIMITS)
    limited.error("rate_limit_error", status=429)
    broken = MessagesApi(sse(*message_events('{"word": "yes"}')[:4]), headers=LIMITS)

    for api in (limited, broken):
        with pytest.raises(ClaudeError) as caught:
            await claude_for(api).ask(REQUEST, Word)
        assert caught.value.seen_limits == SEEN


async def test_without_retry_after_the_used_up_limit_says_when():
    """A rate limit is waited for until its next window."""
    api = MessagesApi(headers=LIMITS)
    api.error("rate_limit_error", status=429)

    with time_machine.travel(datetime(2026, 11, 23, 12, tzinfo=UTC), tick=False):
        with pytest.raises(ClaudeRateLimitedError) as caught:
            await claude_for(api).ask(REQUEST, Word)
        api.headers = LIMITS | {"retry-after": "7"}
        with pytest.raises(ClaudeRateLimitedError) as asked:
            await claude_for(api).ask(REQUEST, Word)

    assert caught.value.retry_after_s == 30
    assert asked.value.retry_after_s == 7


async def test_tokens_are_counted_by_claude():
    """The same question, at the endpoint that costs nothing."""
    api = MessagesApi(b'{"input_tokens": 321}', media_type="application/json")
    claude = claude_for(api)

    assert await claude.count_tokens(REQUEST, Word) == 321
    assert "https://api.anthropic.com/v1/messages/count_tokens" == str(api.requests[0].url)
    assert {"model", "messages", "system", "output_config"} == set(api.asked)


async def test_counting_fails_as_asking_does():
    """With the same errors, in time, and not without a key."""
    api = MessagesApi()
    api.error("overloaded_error", status=529)

    async def hang(_: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(ClaudeOverloadedError):
        await claude_for(api).count_tokens(REQUEST, Word)
    with pytest.raises(ClaudeUnavailableError) as caught:
        await claude_for(hang, timeout_s=0.05).count_tokens(REQUEST, Word)
    assert caught.value.error_type == "timeout"
    with pytest.raises(ClaudeNotConfiguredError):
        await claude_for(api, api_key=None).count_tokens(REQUEST, Word)


async def test_estimates_learn_from_answers():
    """What an answer has used is what the next is expected to use."""
    claude = claude_for(MessagesApi())

    before = claude.estimate(REQUEST, Word)
    await claude.ask(REQUEST, Word)

    assert claude.estimate(REQUEST, Word) == CallEstimate("claude-sonnet-5-5", 100, 20)
    assert before != claude.estimate(REQUEST, Word)
