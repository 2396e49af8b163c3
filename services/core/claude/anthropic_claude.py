"""Claude by the Anthropic SDK, or by the simulator, which speaks the same protocol."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal

import anthropic
import httpx2
from anthropic import AsyncStream
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import BaseModel

from config.anthropic import AnthropicSettings
from services.core.claude.answer import read_answer
from services.core.claude.arrival import Arrival
from services.core.claude.chat_span import ChatSpan, note_answer
from services.core.claude.cost import PriceList
from services.core.claude.error_map import our_error, to_claude_error, unseen_end
from services.core.claude.estimates import Experience
from services.core.claude.kept import keep_answer, read_kept
from services.core.claude.messages import (
    Params,
    count_params,
    message_body,
    message_params,
    question_hash,
    size_bytes,
)
from services.core.claude.protocol import (
    Answer,
    CallEstimate,
    ClaudeReply,
    ClaudeRequest,
    Json,
    OnText,
)
from services.core.claude.sdk_clients import SdkClients
from services.core.claude.turns import CallPrice, following_turn
from services.core.errors import ClaudeError, ClaudeNotConfiguredError

MESSAGES_PATH = "/v1/messages"
# ValueError, LookupError and TypeError are of a stream that is not the API's: broken JSON, or a piece of a
# block that never began.
STREAM_ERRORS = (anthropic.APIError, httpx2.HTTPError, ValueError, LookupError, TypeError)


class AnthropicClaude:
    """Implements services.core.claude.protocol.Claude; one per event loop, for its connections."""

    def __init__(
        self, settings: AnthropicSettings, *, http_client: httpx2.AsyncClient | None = None
    ) -> None:
        """Set up, without connecting.

        Args:
            settings: Where Claude is. Without a key and a simulator this still builds, so that a
                process can start and say so: each call raises ClaudeNotConfiguredError.
            http_client: Replaces the client that the settings' timeouts and limits would give.

        Raises:
            LookupError: The prices of settings.fallback_price_model are unknown.
        """
        self._settings = settings
        self._prices = PriceList(fallback_model=settings.fallback_price_model)
        self._experience = Experience()
        self._clients = (
            SdkClients(settings, http_client=http_client) if settings.is_configured else None
        )

    async def ask(
        self,
        request: ClaudeRequest,
        answer_type: type[Answer],
        *,
        on_text: OnText | None = None,
        ceiling_usd: Decimal | None = None,
    ) -> ClaudeReply[Answer]:
        """Get an answer of the given type; see services.core.claude.protocol.Claude.ask."""
        if self._clients is None:
            raise ClaudeNotConfiguredError
        params = self._params(request, answer_type)
        arrivals: list[Arrival] = []
        with ChatSpan(request, model=params["model"], server=self._clients.first.base_url.host):
            try:
                await self._converse(request, params, arrivals, on_text, ceiling_usd)
                answer = read_answer(_messages(arrivals), answer_type)
            except ClaudeError as error:
                self._note_spend(error, arrivals, params)
                raise
            reply = self._reply(answer, arrivals, params)
        self._experience.learn(answer_type, reply.usage, size_bytes=size_bytes(params))
        return reply

    def reread(self, kept: Json, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Read an answer again; see services.core.claude.protocol.Claude.reread."""
        past = read_kept(kept)
        spend = self._prices.total_of(
            past.messages, asked_model=past.asked_model, is_batch=past.is_batch
        )
        try:
            answer = read_answer(past.messages, answer_type)
        except ClaudeError as error:
            error.usage, error.cost_usd = spend.usage, spend.cost_usd
            raise
        return ClaudeReply(
            answer=answer,
            model=past.messages[-1].model,
            usage=spend.usage,
            cost_usd=spend.cost_usd,
            is_simulated=past.is_simulated,
            kept=kept,
        )

    def question(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> bytes:
        """What is asked, as a hash; see services.core.claude.protocol.Claude.question."""
        return question_hash(self._params(request, answer_type))

    def estimate(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> CallEstimate:
        """The likely use; see services.core.claude.protocol.Claude.estimate."""
        params = self._params(request, answer_type)
        return self._experience.estimate(
            answer_type,
            model=params["model"],
            size_bytes=size_bytes(params),
            max_tokens=request.max_tokens,
        )

    def fallback_of(self, request: ClaudeRequest) -> str | None:
        """The other model; see services.core.claude.protocol.Claude.fallback_of."""
        fallback = self._settings.fallback_model if request.allows_fallback else None
        return None if fallback == (request.model or self._settings.model) else fallback

    def worst_case_usd(
        self,
        request: ClaudeRequest,
        answer_type: type[BaseModel],
        *,
        input_tokens: int | None = None,
        is_batch: bool = False,
    ) -> Decimal:
        """The highest cost; see services.core.claude.protocol.Claude.worst_case_usd."""
        price = CallPrice(self._prices, request, self._params(request, answer_type))
        return price.worst_usd(input_tokens=input_tokens, is_batch=is_batch)

    async def count_tokens(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> int:
        """The input's tokens; see services.core.claude.protocol.Claude.count_tokens."""
        if self._clients is None:
            raise ClaudeNotConfiguredError
        params = count_params(self._params(request, answer_type))
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                counted = await self._clients.first.messages.count_tokens(**params)
        except TimeoutError as error:
            raise our_error("timeout", "Claude did not count the tokens in time") from error
        except STREAM_ERRORS as error:
            raise to_claude_error(error) from error
        return counted.input_tokens

    async def aclose(self) -> None:
        """Close the connections; calls under way fail."""
        if self._clients is not None:
            await self._clients.aclose()

    def _params(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> Params:
        return message_params(request, answer_type, request.model or self._settings.model)

    async def _converse(
        self,
        request: ClaudeRequest,
        asked: Params,
        arrivals: list[Arrival],
        on_text: OnText | None,
        ceiling_usd: Decimal | None,
    ) -> None:
        """Ask, and let Claude go on for as long as its answer is to be continued and may cost that."""
        price = CallPrice(self._prices, request, asked)
        params: Params | None = asked
        while params is not None:
            arrivals.append(Arrival())
            await self._receive(params, arrivals[-1], on_text)
            messages = _messages(arrivals)
            params = following_turn(request, asked, params, messages)
            if params is not None:
                ceiling_usd = price.worst_usd() if ceiling_usd is None else ceiling_usd
                if not price.fits(messages, params, ceiling_usd):
                    return

    async def _receive(self, params: Params, arrival: Arrival, on_text: OnText | None) -> None:
        """Read one turn to its end, within the time that one may take."""
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s) as deadline,
                aclosing(self._pieces(params, arrival)) as pieces,
            ):
                async for piece in pieces:
                    if on_text is not None:
                        await on_text(piece)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = f"Claude did not finish within {self._settings.timeout_s:g} s"
            raise unseen_end("timeout", message) from error

    async def _pieces(self, params: Params, arrival: Arrival) -> AsyncGenerator[str]:
        """Yield a turn's text as it streams in, and note in `arrival` what it belongs to."""
        if self._clients is None:
            raise ClaudeNotConfiguredError
        try:
            async with (
                self._clients.client() as client,
                await _post(client, message_body(params)) as stream,
            ):
                arrival.begin(stream.response)
                async for portion in stream.response.aiter_bytes():
                    for piece in arrival.take(portion, stream.response):
                        yield piece
        except STREAM_ERRORS as error:
            raise to_claude_error(error) from error

    def _reply(
        self, answer: Answer, arrivals: list[Arrival], params: Params
    ) -> ClaudeReply[Answer]:
        """The answer with all that belongs to it, which goes into the span as well."""
        messages, is_simulated = _messages(arrivals), arrivals[-1].is_simulated
        spend = self._prices.total_of(messages, asked_model=params["model"])
        note_answer(messages, spend, is_simulated=is_simulated)
        return ClaudeReply(
            answer=answer,
            model=messages[-1].model,
            usage=spend.usage,
            cost_usd=spend.cost_usd,
            is_simulated=is_simulated,
            kept=keep_answer(messages, asked_model=params["model"], is_simulated=is_simulated),
            seen_limits=arrivals[-1].seen_limits,
        )

    def _note_spend(self, error: ClaudeError, arrivals: list[Arrival], params: Params) -> None:
        """Put into an error, and the span, what has arrived and what that cost."""
        if not arrivals:
            return
        error.seen_limits = error.seen_limits or arrivals[-1].seen_limits
        messages = [arrival.message for arrival in arrivals if arrival.message is not None]
        if messages:
            spend = self._prices.total_of(messages, asked_model=params["model"])
            error.usage, error.cost_usd = spend.usage, spend.cost_usd
            note_answer(messages, spend, is_simulated=arrivals[-1].is_simulated)


async def _post(
    client: anthropic.AsyncAnthropic, body: bytes
) -> AsyncStream[RawMessageStreamEvent]:
    """What `client.messages.create(..., stream=True)` gives."""
    return await client.post(
        MESSAGES_PATH,
        content=body,
        cast_to=Message,
        stream=True,
        stream_cls=AsyncStream[RawMessageStreamEvent],
        options={"headers": {"Content-Type": "application/json"}},
    )


def _messages(arrivals: list[Arrival]) -> list[Message]:
    """The turns, if all have arrived to their end.

    Raises:
        ClaudeUnavailableError: One has not. A proxy may end a stream in good order in mid-answer,
            which the SDK takes for the answer's end.
    """
    messages = [arrival.message for arrival in arrivals if arrival.is_complete and arrival.message]
    if len(messages) < len(arrivals):
        raise unseen_end("cut", "The answer ended before its end")
    return messages
