"""What goes wrong at the simulator arrives as the right error."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime

import httpx2
import pytest
from pydantic import BaseModel

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.protocol import ClaudeRequest
from services.core.clock import monotonic_s, utc_now
from services.core.errors import (
    ClaudeError,
    ClaudeMalformedAnswerError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRefusedError,
    ClaudeRejectedError,
    ClaudeSpendLimitError,
    ClaudeTruncatedError,
    ClaudeUnavailableError,
)
from tests.integration.claude.conftest import RunningSimulator

REQUEST = ClaudeRequest(system="Be brief.", prompt="<note>The harbour freezes in January.</note>")


class Note(BaseModel):
    """What is asked for."""

    note: str
    detail: str


ANSWERED_AS_ERRORS = [
    ("overloaded", ClaudeOverloadedError, "overloaded_error"),
    ("rate_limit", ClaudeRateLimitedError, "rate_limit_error"),
    ("ramp_limit", ClaudeRateLimitedError, "ramp_limit_exceeded"),
    ("spend_limit", ClaudeSpendLimitError, "enforced_spend_limit_reached"),
    ("api_error", ClaudeUnavailableError, "api_error"),
    ("timeout_error", ClaudeUnavailableError, "timeout_error"),
    ("bad_gateway", ClaudeUnavailableError, "http_502"),
    ("invalid_request", ClaudeRejectedError, "invalid_request_error"),
    ("authentication", ClaudeRejectedError, "authentication_error"),
]
PAID_FOR = [
    ("garbage", ClaudeMalformedAnswerError, "malformed"),
    ("refusal", ClaudeRefusedError, "refusal"),
    ("max_tokens", ClaudeTruncatedError, "max_tokens"),
    ("context_window", ClaudeRejectedError, "model_context_window_exceeded"),
]
CUT_SHORT = [
    ("drop", ClaudeUnavailableError, "connection"),
    ("midstream_overloaded", ClaudeOverloadedError, "overloaded_error"),
]


async def fail(claude: AnthropicClaude, error_type: type[ClaudeError]) -> ClaudeError:
    """The error of a call that has to fail."""
    with pytest.raises(error_type) as caught:
        await claude.ask(REQUEST, Note)
    assert type(caught.value) is error_type
    return caught.value


@pytest.mark.parametrize(("fault", "expected", "error_type"), ANSWERED_AS_ERRORS)
async def test_an_error_answer_is_told_by_its_type(
    simulator, claude, fault, expected, error_type
) -> None:
    """Each kind of error answer is its own error; it used nothing, and is not tried again."""
    simulator.fail(fault)

    error = await fail(claude, expected)

    assert error.error_type == error_type
    assert error.usage is None
    assert error.cost_usd is None
    assert simulator.ledger()["requests"] == 1


@pytest.mark.parametrize(("fault", "expected", "error_type"), PAID_FOR)
async def test_a_useless_answer_carries_what_it_cost(
    simulator, claude, fault, expected, error_type
) -> None:
    """An answer that was paid for and gave nothing is accounted like any other."""
    simulator.fail(fault)

    error = await fail(claude, expected)

    ledger = simulator.ledger()
    assert error.error_type == error_type
    assert error.usage is not None
    assert ledger["input_tokens"] == error.usage.input_tokens > 0
    assert ledger["output_tokens"] == error.usage.output_tokens > 0
    assert error.cost_usd is not None
    assert error.cost_usd > 0


@pytest.mark.parametrize(("fault", "expected", "error_type"), CUT_SHORT)
async def test_an_answer_that_breaks_off_carries_what_was_reported(
    simulator, claude, fault, expected, error_type
) -> None:
    """Pieces have arrived, then the connection or Claude gave up."""
    simulator.fail(fault)
    pieces: list[str] = []

    async def keep(piece: str) -> None:
        pieces.append(piece)

    with pytest.raises(expected) as caught:
        await claude.ask(REQUEST, Note, on_text=keep)

    assert caught.value.error_type == error_type
    assert pieces
    assert caught.value.usage is not None
    assert caught.value.usage.input_tokens > 0


@pytest.mark.parametrize(
    ("retry_after", "expected_s"), [("7", 7), ("0.5", 0.5), ("999999", 3600), ("soon", None)]
)
async def test_retry_after_is_read(simulator, claude, retry_after, expected_s) -> None:
    """Seconds are believed up to an hour."""
    simulator.fail("rate_limit", retry_after=retry_after)

    error = await fail(claude, ClaudeRateLimitedError)

    assert isinstance(error, ClaudeRateLimitedError)
    assert error.retry_after_s == expected_s


async def test_retry_after_is_read_as_a_date(simulator, claude) -> None:
    """An HTTP date means the seconds until then."""
    moment = utc_now() + timedelta(seconds=90)
    simulator.fail("overloaded", retry_after=format_datetime(moment, usegmt=True))

    error = await fail(claude, ClaudeOverloadedError)

    assert isinstance(error, ClaudeOverloadedError)
    assert error.retry_after_s is not None
    assert 80 < error.retry_after_s <= 90


async def test_a_hanging_claude_is_given_up_in_time(simulator, make_claude) -> None:
    """No call takes longer than timeout_s, and its request is closed."""
    simulator.fail("hang")
    started = monotonic_s()

    error = await fail(make_claude(timeout_s=0.4), ClaudeUnavailableError)

    assert error.error_type == "timeout"
    assert error.is_cost_final is False
    assert monotonic_s() - started < 5
    simulator.wait_for("cancelled")


async def test_a_dripping_claude_is_given_up_in_time(simulator, make_claude) -> None:
    """timeout_s is for the whole call: pieces that keep coming do not prolong it."""
    simulator.fail(None, chunk_delay_ms=150)
    started = monotonic_s()

    error = await fail(make_claude(timeout_s=0.5), ClaudeUnavailableError)

    assert error.error_type == "timeout"
    assert error.usage is not None
    assert monotonic_s() - started < 5
    simulator.wait_for("cancelled")


@pytest.mark.parametrize("rule", [{"latency_ms": 30_000}, {"chunk_delay_ms": 500}])
async def test_cancelling_closes_the_request(simulator, claude, rule) -> None:
    """A cancelled call stops costing at once, before the answer begins and in the middle of it."""
    simulator.fail(None, **rule)
    call = asyncio.create_task(claude.ask(REQUEST, Note))
    await asyncio.to_thread(wait_for_open_call, simulator)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    ended = await asyncio.to_thread(simulator.wait_for, "cancelled")
    assert ended["duration_ms"] < 5000


def wait_for_open_call(simulator: RunningSimulator) -> None:
    """Return as soon as a call is under way."""
    simulator.wait_for("open")


async def test_an_error_of_the_listener_is_passed_on_and_closes_the_request(
    simulator, claude
) -> None:
    """What on_text raises is not Claude's fault."""
    simulator.fail(None, chunk_delay_ms=200)

    async def lose_lease(_: str) -> None:
        message = "lease lost"
        raise TimeoutError(message)

    with pytest.raises(TimeoutError, match="lease lost"):
        await claude.ask(REQUEST, Note, on_text=lose_lease)

    await asyncio.to_thread(simulator.wait_for, "cancelled")


async def test_an_unreachable_claude_is_unavailable(
    make_claude: Callable[..., AnthropicClaude],
) -> None:
    """Nobody listens on port 1 of the loopback."""
    error = await fail(make_claude(simulator_url="http://127.0.0.1:1"), ClaudeUnavailableError)

    assert error.error_type == "connection"
    assert error.is_cost_final is True


async def test_a_fault_can_be_asked_for_by_header(simulator) -> None:
    """One client's faults do not touch the others."""
    settings = AnthropicSettings(api_key=None, simulator_url=simulator.url)
    headers = {"x-simulator-fault": "rate_limit", "x-simulator-retry-after": "3"}
    async with httpx2.AsyncClient(headers=headers) as http_client:
        error = await fail(
            AnthropicClaude(settings, http_client=http_client), ClaudeRateLimitedError
        )

    assert isinstance(error, ClaudeRateLimitedError)
    assert error.retry_after_s == 3


async def test_a_fault_ends_after_its_count_and_keeps_to_its_prompts(simulator, claude) -> None:
    """Two calls with that text fail; others, and the third, do not."""
    simulator.fail("api_error", count=2, match="harbour")
    other = ClaudeRequest(system="", prompt="<note>Something else.</note>")

    await claude.ask(other, Note)
    await fail(claude, ClaudeUnavailableError)
    await claude.ask(other, Note)
    await fail(claude, ClaudeUnavailableError)
    reply = await claude.ask(REQUEST, Note)

    assert reply.answer.note == "The harbour freezes in January."
