"""One call to POST /v1/messages: how an answer is sent, and how it fails on the way."""

import asyncio
import json
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.core.clock import monotonic_s
from services.simulator.answer import SimulatedAnswer
from services.simulator.delivery import (
    EVENT_STREAM,
    JSON,
    ClientGoneError,
    Event,
    closing_events,
    encode_event,
    error_event,
    opening_events,
    send_body,
    send_head,
    split_text,
    stamp_piece,
    text_event,
    unless_gone,
)
from services.simulator.errors import ApiError
from services.simulator.fault_errors import error_of, midstream_error_of
from services.simulator.faults import Fault, FaultRule
from services.simulator.ledger import LoggedRequest, Outcome
from services.simulator.lost_answer import send_bad_gateway
from services.simulator.state import State
from services.simulator.usage import Kind, used_by

KINDS = {Outcome.ANSWERED: Kind.LIVE, Outcome.CANCELLED: Kind.CANCELLED}
"""How a call is charged that got at least the beginning of an answer; else as broken."""


class CutError(Exception):
    """The connection is to be cut here."""


class Call(Response):
    """Sends one answer, at the pace and with the fault that a rule says, and logs how it went."""

    def __init__(
        self,
        answer: SimulatedAnswer,
        rule: FaultRule,
        *,
        log: LoggedRequest,
        state: State,
        request_id: str,
    ) -> None:
        """Prepare to answer; nothing is sent before the response is called."""
        super().__init__()
        self._answer = answer
        self._rule = rule
        self._log = log
        self._state = state
        self._settings = state.settings
        self._limits = state.limits.of(answer.model)
        self._request_id = request_id
        self._has_begun = False

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 - ASGI's signature
        receive: Receive,
        send: Send,
    ) -> None:
        """Send the answer; a client that goes away ends it at once."""
        started = monotonic_s()
        self._log.fault = self._rule.fault
        try:
            await unless_gone(self._send(send), receive)
        except ClientGoneError:
            self._log.outcome = Outcome.CANCELLED
        except CutError:
            # Returning from an unfinished answer makes uvicorn close the connection.
            self._log.outcome = Outcome.DROPPED
        finally:
            self._note_usage()
            self._state.ledger.close(self._log, duration_ms=(monotonic_s() - started) * 1000)

    async def _send(self, send: Send) -> None:
        await _sleep_ms(self._rule.latency_ms, self._settings.latency_ms)
        if self._rule.fault is Fault.HANG:
            await asyncio.Event().wait()
        error = error_of(self._rule) or (None if self._streams else midstream_error_of(self._rule))
        if error is not None:
            await self._send_error(send, error)
        elif self._rule.fault is Fault.BAD_GATEWAY:
            self._log.outcome, self._log.status = Outcome.ERROR, 502
            await send_bad_gateway(send)
        elif self._streams:
            await self._send_events(send)
        else:
            await self._send_json(send)

    @property
    def _streams(self) -> bool:
        return self._log.is_streamed

    async def _send_error(self, send: Send, error: ApiError) -> None:
        self._log.outcome, self._log.status = Outcome.ERROR, error.status
        body = json.dumps(error.body(self._request_id)).encode()
        headers = self._limits.headers() | error.headers | {"content-length": str(len(body))}
        await send_head(send, status=error.status, media_type=JSON, headers=headers)
        await send_body(send, body)

    async def _send_json(self, send: Send) -> None:
        self._begin()
        self._produce(self._answer.output_tokens)
        body = json.dumps(self._answer.message(), ensure_ascii=False).encode()
        headers = self._limits.headers() | {"content-length": str(len(body))}
        await send_head(send, status=200, media_type=JSON, headers=headers)
        if self._rule.fault is Fault.DROP:
            await send_body(send, body[: len(body) // 2], more=True)
            raise CutError
        await send_body(send, body)
        self._note_answered()

    async def _send_events(self, send: Send) -> None:
        self._begin()
        headers = self._limits.headers()
        await send_head(send, status=200, media_type=EVENT_STREAM, headers=headers)
        await _send_together(send, opening_events(self._answer))
        pieces = split_text(self._answer.text, self._settings.chunks)
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2 and await self._fails_midway(send):
                return
            self._produce(self._answer.output_tokens * (number + 1) // len(pieces))
            await _send_together(send, [text_event(self._stamped(piece))])
            await _sleep_ms(self._rule.chunk_delay_ms, self._settings.chunk_delay_ms)
        self._produce(self._answer.output_tokens)
        await _send_together(send, closing_events(self._answer))
        await send_body(send, b"")
        self._note_answered()

    async def _fails_midway(self, send: Send) -> bool:
        if self._rule.fault is Fault.DROP:
            raise CutError
        error = midstream_error_of(self._rule)
        if error is not None:
            await _send_together(send, [error_event(error, self._request_id)])
        elif self._rule.fault is not Fault.TRUNCATED_STREAM:
            return False
        self._log.outcome = Outcome.ERROR
        await send_body(send, b"")
        return True

    def _stamped(self, piece: str) -> str:
        if not (self._rule.stamp_pieces or self._settings.stamp_pieces):
            return piece
        return stamp_piece(piece, is_structured=self._answer.is_structured)

    def _begin(self) -> None:
        """The answer begins: from now on it is charged, and what it wrote to the cache is there."""
        self._has_begun = True
        self._log.status = 200
        self._state.cache.begin(self._answer.cache)

    def _produce(self, output_tokens: int) -> None:
        """So many tokens of the answer have been produced."""
        self._limits.produce(output_tokens - self._log.output_tokens)
        self._log.output_tokens = output_tokens

    def _note_answered(self) -> None:
        self._log.outcome = Outcome.ANSWERED
        self._log.stop_reason = self._answer.stop_reason

    def _note_usage(self) -> None:
        """Charge what there is of the answer."""
        if not self._has_begun:
            return
        cache = self._answer.cache
        self._log.input_tokens = cache.input_tokens
        self._log.cache_read_input_tokens = cache.read_tokens
        self._log.cache_creation_input_tokens = cache.written_tokens
        used = used_by(self._answer, output_tokens=self._log.output_tokens)
        kind = KINDS.get(self._log.outcome, Kind.BROKEN)
        self._state.ledger.usage.add(self._log.user_id, kind, self._answer.model, used)


async def _send_together(send: Send, events: Iterable[Event]) -> None:
    """Send events between which nothing is waited for as one piece: each piece costs the loop a round."""
    await send_body(send, b"".join(map(encode_event, events)), more=True)


async def _sleep_ms(wanted: int | None, configured: int) -> None:
    await asyncio.sleep((configured if wanted is None else wanted) / 1000)
