"""Claude by the Anthropic SDK, or by the simulator, which speaks the same protocol."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache

import anthropic
import httpx2
from anthropic.types import Message, MetadataParam, OutputConfigParam
from pydantic import BaseModel

from config.anthropic import AnthropicSettings
from services.core.claude.answer import read_answer
from services.core.claude.chat_span import chat_span, note_answer
from services.core.claude.cost import PriceList, Spend
from services.core.claude.error_map import to_claude_error
from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest, OnText
from services.core.errors import (
    ClaudeError,
    ClaudeNotConfiguredError,
    ClaudeUnavailableError,
)

SIMULATED_HEADER = "x-penstock-simulated"
"""On every answer of the simulator, so that an answer itself tells where it is from."""
SIMULATOR_KEY = "sk-simulator"
"""The simulator takes any key; a real one is never sent to it."""

# ValueError and LookupError are what the SDK raises on a stream that is not the API's: broken
# JSON, or a piece of a block that never began.
STREAM_ERRORS = (anthropic.APIError, httpx2.HTTPError, ValueError, LookupError)


@dataclass(slots=True)
class Arrival:
    """What has arrived of one answer so far."""

    message: Message | None = None
    is_complete: bool = False
    is_simulated: bool = False


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
        self._client = _sdk_client(settings, http_client) if settings.is_configured else None

    async def ask(
        self,
        request: ClaudeRequest,
        answer_type: type[Answer],
        *,
        on_text: OnText | None = None,
    ) -> ClaudeReply[Answer]:
        """Get an answer of the given type; see services.core.claude.protocol.Claude.ask."""
        if self._client is None:
            raise ClaudeNotConfiguredError
        arrival = Arrival()
        model = request.model or self._settings.model
        with chat_span(request, model=model, server=self._client.base_url.host):
            try:
                await self._receive(request, answer_type, arrival, on_text)
                answer = read_answer(_whole_message(arrival), answer_type)
            except ClaudeError as error:
                if arrival.message is not None:
                    spend = self._account(arrival.message, arrival)
                    error.usage, error.cost_usd = spend.usage, spend.cost_usd
                raise
            message = _whole_message(arrival)
            spend = self._account(message, arrival)
        return ClaudeReply(
            answer=answer,
            model=message.model,
            usage=spend.usage,
            cost_usd=spend.cost_usd,
            is_simulated=arrival.is_simulated,
        )

    async def aclose(self) -> None:
        """Close the connections; calls under way fail."""
        if self._client is not None:
            await self._client.close()

    async def _receive(
        self,
        request: ClaudeRequest,
        answer_type: type[BaseModel],
        arrival: Arrival,
        on_text: OnText | None,
    ) -> None:
        """Make the call and read the answer to its end, within the time that one call may take."""
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s) as deadline,
                aclosing(self._pieces(request, answer_type, arrival)) as pieces,
            ):
                async for piece in pieces:
                    if on_text is not None:
                        await on_text(piece)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = f"Claude did not finish within {self._settings.timeout_s:g} s"
            raise ClaudeUnavailableError(message, error_type="timeout") from error

    async def _pieces(
        self, request: ClaudeRequest, answer_type: type[BaseModel], arrival: Arrival
    ) -> AsyncGenerator[str]:
        """Yield the answer's text as it streams in, and note in `arrival` what it belongs to."""
        if self._client is None:
            raise ClaudeNotConfiguredError
        output_config = _output_config(answer_type)
        metadata = MetadataParam(user_id=request.trace_key)
        try:
            async with self._client.messages.stream(
                model=request.model or self._settings.model,
                max_tokens=request.max_tokens,
                system=request.system or anthropic.omit,
                messages=[{"role": "user", "content": request.prompt}],
                output_config=output_config,
                metadata=metadata if request.trace_key else anthropic.omit,
            ) as stream:
                arrival.is_simulated = SIMULATED_HEADER in stream.response.headers
                async for event in stream:
                    if event.type == "message_start":
                        arrival.message = stream.current_message_snapshot
                    elif event.type == "message_stop":
                        arrival.is_complete = True
                    elif event.type == "text":
                        yield event.text
        except STREAM_ERRORS as error:
            raise to_claude_error(error) from error

    def _account(self, message: Message, arrival: Arrival) -> Spend:
        """Price what has arrived and put it into the span."""
        spend = self._prices.spend_of(message)
        note_answer(message, spend, is_simulated=arrival.is_simulated)
        return spend


def _whole_message(arrival: Arrival) -> Message:
    """The message, if it has arrived to its end.

    Raises:
        ClaudeUnavailableError: It has not. A proxy may end a stream in good order in mid-answer,
            which the SDK takes for the answer's end.
    """
    if arrival.message is None or not arrival.is_complete:
        message = "The answer ended before its end"
        raise ClaudeUnavailableError(message, error_type="cut")
    return arrival.message


def _sdk_client(
    settings: AnthropicSettings, http_client: httpx2.AsyncClient | None
) -> anthropic.AsyncAnthropic:
    """The SDK's client: no retries, since the record owns them."""
    timeout = httpx2.Timeout(settings.timeout_s, connect=settings.connect_timeout_s)
    limits = httpx2.Limits(max_connections=settings.max_connections)
    if settings.is_simulated:
        api_key, base_url = SIMULATOR_KEY, settings.simulator_url
    else:
        api_key = settings.api_key.get_secret_value() if settings.api_key else ""
        base_url = settings.base_url
    return anthropic.AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        timeout=timeout,
        max_retries=0,
        open_telemetry={"traces": False},  # ours is in chat_span.py
        http_client=http_client
        or anthropic.DefaultAsyncHttpxClient(timeout=timeout, limits=limits),
    )


@lru_cache(maxsize=256)
def _output_config(answer_type: type[BaseModel]) -> OutputConfigParam:
    """Ask for an answer of the type.

    Not by the SDK's `output_format`: that validates in mid-stream, before the usage is known.
    """
    return {"format": {"type": "json_schema", "schema": anthropic.transform_schema(answer_type)}}
