"""Claude's Message Batches API: many questions at once, at half the price, answered within a day.

https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import anthropic
import httpx2
from anthropic.types import Message
from anthropic.types.messages import MessageBatch as SdkBatch

from config.anthropic import AnthropicSettings
from services.core.claude.arrival import SIMULATED_HEADER
from services.core.claude.cost import PriceList
from services.core.claude.error_map import our_error, to_claude_error
from services.core.claude.kept import keep_answer
from services.core.claude.outcomes import BATCH_RESULTS, OURS, Follow, follow_of, outcome_of_error
from services.core.claude.protocol import Json
from services.core.claude.sdk_clients import sdk_client
from services.core.errors import ClaudeError, ClaudeNotConfiguredError, MessageBatchInDoubtError
from services.core.usage import Usage

BATCHES_PATH = "/v1/messages/batches"
PAGE_SIZE = 100
"""Batches per page when listing; the API gives 20 to 1000."""
REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422, 429})
"""Status of answers after which no batch exists. After any other error there may be one."""
LINE_END = b"\n"

# Before a byte of the question is on its way.
NOTHING_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
TRANSPORT_ERRORS = (anthropic.AnthropicError, httpx2.HTTPError, ValueError)


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """A message batch as Claude knows it."""

    id: str
    size: int
    """Requests in it."""
    created_at: datetime
    has_ended: bool
    is_canceling: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request: a message or an error."""

    custom_id: str | None
    """None: the line cannot be read."""
    message: Message | None = None
    error: ClaudeError | None = None
    is_simulated: bool = False

    @property
    def may_succeed_later(self) -> bool:
        """It failed, and not for what was asked."""
        return self.error is not None and follow_of(self.error) in {Follow.WAIT, Follow.RETRY}


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What the record keeps of a result, and what it cost."""

    kept: Json
    usage: Usage
    cost_usd: Decimal


class MessageBatches:
    """The API; one per event loop, for its connections."""

    def __init__(
        self, settings: AnthropicSettings, *, http_client: httpx2.AsyncClient | None = None
    ) -> None:
        """Set up, without connecting.

        Args:
            settings: Where Claude is. Without a key and a simulator nothing can be submitted.
            http_client: Replaces the client that the settings would give.
        """
        self._prices = PriceList(fallback_model=settings.fallback_price_model)
        self._timeout_s = settings.batch_timeout_s
        self._client = sdk_client(settings, http_client) if settings.is_configured else None

    @property
    def is_configured(self) -> bool:
        """There is a key, or a simulator."""
        return self._client is not None

    async def aclose(self) -> None:
        """Close the connections; calls under way fail."""
        if self._client is not None:
            await self._client.close()

    async def submit(self, body: bytes) -> str:
        """Have a batch made, once; its id.

        Args:
            body: From batch_body().

        Raises:
            MessageBatchInDoubtError: Claude may have made it, or not.
            ClaudeError: Claude did not.
        """
        try:
            batch = await self._open_client().post(
                BATCHES_PATH,
                content=body,
                cast_to=SdkBatch,
                options={
                    "headers": {"Content-Type": "application/json"},
                    "timeout": self._timeout_s,
                },
            )
        except TRANSPORT_ERRORS as error:
            raise _as_submission_error(error) from error
        if not isinstance(batch, SdkBatch) or not batch.id:
            raise MessageBatchInDoubtError(error_type="unreadable")
        return batch.id

    async def get(self, batch_id: str) -> MessageBatch:
        """A batch as it is now.

        Raises:
            ClaudeError: Claude does not say.
        """
        with _our_errors():
            return _batch(await self._open_client().messages.batches.retrieve(batch_id))

    async def list_since(self, moment: datetime) -> list[MessageBatch]:
        """The batches that were made since then, newest first, whoever made them.

        Raises:
            ClaudeError: Claude does not say.
        """
        found: list[MessageBatch] = []
        with _our_errors():
            async for sdk_batch in self._open_client().messages.batches.list(limit=PAGE_SIZE):
                batch = _batch(sdk_batch)
                if batch.created_at < moment:
                    break
                found.append(batch)
        return found

    async def cancel(self, batch_id: str) -> None:
        """Have a batch end early; what has been answered until then is paid for.

        Raises:
            ClaudeError: Claude does not take it.
        """
        with _our_errors():
            await self._open_client().messages.batches.cancel(batch_id)

    async def results(self, batch_id: str) -> AsyncGenerator[BatchResult]:
        """The results of a batch that has ended, in no order, as they stream in.

        Raises:
            ClaudeError: The stream was cut, or there is none.
        """
        with _our_errors():
            decoder = await self._open_client().messages.batches.results(batch_id)
            try:
                response = decoder.http_response
                is_simulated = SIMULATED_HEADER in response.headers
                async for line in _lines(response):
                    yield _read_result(line, is_simulated=is_simulated)
            finally:
                await decoder.close()

    def keep(self, result: BatchResult, *, asked_model: str) -> BatchAnswer:
        """What is to be kept of a result, and what it cost: half of what a live call would.

        Args:
            result: With a message or an error.
            asked_model: The model that was asked.
        """
        if result.message is None:
            error = result.error or our_error("unreadable", "The result holds nothing")
            return BatchAnswer(keep_error(error), Usage(), Decimal(0))
        spend = self._prices.spend_of(result.message, asked_model=asked_model, is_batch=True)
        kept = keep_answer(
            [result.message],
            asked_model=asked_model,
            is_simulated=result.is_simulated,
            is_batch=True,
        )
        return BatchAnswer(kept, spend.usage, spend.cost_usd)

    def _open_client(self) -> anthropic.AsyncAnthropic:
        if self._client is None:
            raise ClaudeNotConfiguredError
        return self._client


def batch_body(requests: Sequence[tuple[str, str]]) -> bytes:
    """The body of a POST that has a batch made.

    Args:
        requests: Of each the custom_id, and the parameters as JSON text, which stays as it is.
    """
    items = (f'{{"custom_id":"{name}","params":{params}}}'.encode() for name, params in requests)
    return b'{"requests":[' + b",".join(items) + b"]}"


def keep_error(error: ClaudeError) -> Json:
    """An error as JSON, for reread_error()."""
    return {"error_type": error.error_type, "message": str(error)}


def reread_error(kept: Json) -> ClaudeError:
    """The error that keep_error() has kept, as if Claude had just said so."""
    return _error(kept["error_type"], kept["message"])


def _error(error_type: str | None, message: str, *, code: str | None = None) -> ClaudeError:
    """The error of ours for what Claude, or we, call it."""
    outcome = (OURS | BATCH_RESULTS).get(error_type or "") or outcome_of_error(
        code=code or error_type, error_type=error_type, status=_status_in(error_type)
    )
    return (outcome.error or ClaudeError)(message, error_type=code or error_type)


def _status_in(error_type: str | None) -> int:
    """The status in an error type such as http_404, which an answer without a type of its own gets."""
    status = (error_type or "").removeprefix("http_")
    return int(status) if status.isdecimal() else HTTPStatus.INTERNAL_SERVER_ERROR


def _batch(batch: SdkBatch) -> MessageBatch:
    counts = batch.request_counts
    return MessageBatch(
        id=batch.id,
        size=counts.processing
        + counts.succeeded
        + counts.errored
        + counts.canceled
        + counts.expired,
        created_at=batch.created_at,
        has_ended=batch.processing_status == "ended",
        is_canceling=batch.processing_status == "canceling",
    )


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except TRANSPORT_ERRORS as error:
        raise to_claude_error(error) from error


def _as_submission_error(error: Exception) -> ClaudeError:
    """Tell a refusal, after which there is no batch, from an end that leaves it open."""
    ours = to_claude_error(error)
    is_refused = isinstance(error, anthropic.APIStatusError) and error.status_code in REFUSALS
    if is_refused or isinstance(error.__cause__ or error, NOTHING_SENT):
        return ours
    return MessageBatchInDoubtError(str(ours), error_type=ours.error_type)


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Lines as they arrive. Not the SDK's: one that is broken would end the stream."""
    rest = b""
    async for piece in response.aiter_bytes():
        *whole, rest = (rest + piece).split(LINE_END)
        for line in whole:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def _read_result(line: bytes, *, is_simulated: bool) -> BatchResult:
    """A line of the results. One that cannot be read costs its own call only."""
    try:
        given: dict[str, Any] = json.loads(line)
        custom_id, result = str(given["custom_id"]), given["result"]
        if result["type"] == "succeeded":
            message = Message.model_validate(result["message"])
            return BatchResult(custom_id, message, is_simulated=is_simulated)
        return BatchResult(custom_id, error=_result_error(result))
    except (ValueError, LookupError, TypeError) as error:
        unreadable = our_error("unreadable", f"A result cannot be read ({type(error).__name__})")
        return BatchResult(_custom_id_in(line), error=unreadable)


def _custom_id_in(line: bytes) -> str | None:
    """The name of a result that cannot be read as a whole, if at least that can be."""
    try:
        return str(json.loads(line)["custom_id"])
    except (ValueError, LookupError, TypeError):
        return None


def _result_error(result: dict[str, Any]) -> ClaudeError:
    """The error of a request that was not answered."""
    kind = str(result["type"])
    if kind != "errored":
        return _error(kind, f"The request in the message batch was {kind}")
    found = result["error"]["error"]
    error_type, text = found["type"], found.get("message") or "no explanation"
    code = (found.get("details") or {}).get("error_code")
    return _error(error_type, f"Claude answered {code or error_type}: {text}", code=code)
