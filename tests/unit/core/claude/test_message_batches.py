"""The Message Batches API: what is sent, what results are, what errors mean."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from config.anthropic import AnthropicSettings
from services.core.claude.message_batches import (
    BatchResult,
    MessageBatches,
    batch_body,
    keep_error,
    reread_error,
)
from services.core.errors import (
    ClaudeError,
    ClaudeNotConfiguredError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRejectedError,
    ClaudeSpendLimitError,
    ClaudeUnavailableError,
    MessageBatchInDoubtError,
)
from services.core.usage import Usage
from tests.fakes.batches_api import MODEL, errored, succeeded

Json = dict[str, Any]
URL = "http://claude.test/v1/messages/batches/msgbatch_1"
ENDED = {
    "id": "msgbatch_1",
    "type": "message_batch",
    "processing_status": "ended",
    "request_counts": {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 4},
    "created_at": "2026-11-23T12:00:00Z",
    "expires_at": "2026-11-24T12:00:00Z",
    "results_url": f"{URL}/results",
}


def _batches(answer: Callable[[httpx2.Request], httpx2.Response]) -> MessageBatches:
    settings = AnthropicSettings(simulator_url="http://claude.test")
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return MessageBatches(settings, http_client=client)


def _with_results(*lines: bytes, **headers: str) -> MessageBatches:
    """An API whose only batch has these results."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/results"):
            return httpx2.Response(200, content=b"\n".join(lines), headers=headers)
        return httpx2.Response(200, json=ENDED)

    return _batches(answer)


def _line(result: Json) -> bytes:
    return json.dumps({"custom_id": "mine", "result": result}, ensure_ascii=False).encode()


async def _results(batches: MessageBatches) -> list[BatchResult]:
    return [result async for result in batches.results("msgbatch_1")]


async def test_requests_are_sent_as_they_are_in_the_record() -> None:
    """Their JSON is not read and written again; the batch's id comes back."""
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json=ENDED)

    batch_id = await _batches(answer).submit(batch_body([("a", '{"x": "ü"}'), ("b", "{}")]))

    assert "msgbatch_1" == batch_id
    assert "application/json" == sent[0].headers["content-type"]
    expected = [{"custom_id": "a", "params": {"x": "ü"}}, {"custom_id": "b", "params": {}}]
    assert {"requests": expected} == json.loads(sent[0].content)


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [
        (400, "invalid_request_error", ClaudeRejectedError),
        (401, "authentication_error", ClaudeRejectedError),
        (413, "request_too_large", ClaudeRejectedError),
        (429, "rate_limit_error", ClaudeRateLimitedError),
        (402, "billing_error", ClaudeSpendLimitError),
        (408, "timeout_error", MessageBatchInDoubtError),
        (409, "conflict_error", MessageBatchInDoubtError),
        (500, "api_error", MessageBatchInDoubtError),
        (529, "overloaded_error", MessageBatchInDoubtError),
    ],
)
async def test_only_a_refusal_says_that_there_is_no_batch(
    status: int, error_type: str, kind: type[ClaudeError]
) -> None:
    """After a server's error there may be one."""
    body = {"type": "error", "error": {"type": error_type, "message": "no"}}
    batches = _batches(lambda _: httpx2.Response(status, json=body))

    with pytest.raises(ClaudeError) as caught:
        await batches.submit(b"{}")

    assert kind is type(caught.value)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx2.ConnectError("refused"), ClaudeUnavailableError),
        (httpx2.ReadTimeout("silence"), MessageBatchInDoubtError),
        (httpx2.RemoteProtocolError("cut"), MessageBatchInDoubtError),
    ],
)
async def test_a_connection_that_was_never_made_leaves_no_doubt(
    failure: Exception, kind: type[ClaudeError]
) -> None:
    """One that broke later does."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        raise failure

    with pytest.raises(ClaudeError) as caught:
        await _batches(answer).submit(b"{}")

    assert kind is type(caught.value)


async def test_an_answer_that_is_no_batch_leaves_doubt() -> None:
    """A proxy's page under status 200."""
    batches = _batches(lambda _: httpx2.Response(200, text="<html>"))

    with pytest.raises(MessageBatchInDoubtError):
        await batches.submit(b"{}")


async def test_a_batch_is_as_large_as_its_counts() -> None:
    """They add up to all requests in it."""
    batch = await _batches(lambda _: httpx2.Response(200, json=ENDED)).get("msgbatch_1")

    assert (7, True, False) == (batch.size, batch.has_ended, batch.is_canceling)


async def test_an_answer_costs_half() -> None:
    """2 and 10 US dollars per million tokens, live."""
    batches = _with_results(_line(succeeded("{}")), **{"x-penstock-simulated": "1"})
    [result] = await _results(batches)

    answer = batches.keep(result, asked_model=MODEL)

    assert Usage(input_tokens=1000, output_tokens=100) == answer.usage
    assert Decimal("0.0015") == answer.cost_usd
    assert answer.kept["is_batch"]
    assert answer.kept["is_simulated"]


async def test_text_with_line_separators_stays_one_result() -> None:
    """U+2028 and such are not the ends of JSON Lines."""
    [result] = await _results(_with_results(_line(succeeded('{"text": "a\u2028b\u0085c"}'))))

    assert result.message is not None
    assert '{"text": "a\u2028b\u0085c"}' == result.message.content[0].text  # type: ignore[union-attr]  # it is text


@pytest.mark.parametrize(
    ("outcome", "kind", "may_succeed_later"),
    [
        (errored("invalid_request_error"), ClaudeRejectedError, False),
        (errored("billing_error"), ClaudeSpendLimitError, False),
        (errored("api_error"), ClaudeUnavailableError, True),
        (errored("overloaded_error"), ClaudeOverloadedError, True),
        (errored("an_error_of_tomorrow"), ClaudeUnavailableError, True),
        ({"type": "expired"}, ClaudeUnavailableError, True),
        ({"type": "canceled"}, ClaudeUnavailableError, True),
        ({"type": "of tomorrow"}, ClaudeUnavailableError, True),
        ({}, ClaudeUnavailableError, True),
    ],
)
async def test_a_result_without_an_answer_is_an_error_of_the_table(
    outcome: Json, kind: type[ClaudeError], *, may_succeed_later: bool
) -> None:
    """What follows is the table's; kept and read again it is the same."""
    batches = _with_results(_line(outcome))
    [result] = await _results(batches)

    assert result.error is not None
    assert (kind, may_succeed_later) == (type(result.error), result.may_succeed_later)
    again = reread_error(batches.keep(result, asked_model=MODEL).kept)
    assert (kind, str(result.error), result.error.error_type) == (
        type(again),
        str(again),
        again.error_type,
    )


async def test_lines_that_cannot_be_read_spoil_no_others() -> None:
    """Neither broken JSON nor JSON that is something else."""
    batches = _with_results(b"{broken", b"[1]", b"", _line(succeeded()), b'{"custom_id": "x"}')

    names = [result.custom_id for result in await _results(batches)]

    assert [None, None, "mine", "x"] == names


@pytest.mark.parametrize("error_type", ["http_404", "http_503", None, "expired", "not_found_error"])
def test_errors_of_every_kind_can_be_kept(error_type: str | None) -> None:
    """Also those without a type of Claude's."""
    error = reread_error(keep_error(ClaudeError("why", error_type=error_type)))

    assert ("why", error_type) == (str(error), error.error_type)


async def test_without_a_key_nothing_is_sent() -> None:
    """The process starts even so."""
    batches = MessageBatches(AnthropicSettings())

    assert not batches.is_configured
    with pytest.raises(ClaudeNotConfiguredError):
        await batches.submit(b"{}")
