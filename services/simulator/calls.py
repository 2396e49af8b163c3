"""One call to POST /v1/messages: how an answer is sent, and how it fails on the way."""

import asyncio
import json
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from config.simulator import SimulatorSettings
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
    text_event,
    unless_gone,
)
from services.simulator.errors import ApiError
from services.simulator.faults import Fault, FaultRule, error_of, failing_answer
from services.simulator.ledger import Ledger, LoggedRequest, Outcome

BAD_GATEWAY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
OVERLOADED = ApiError(529, "overloaded_error", "Overloaded")


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
        ledger: Ledger,
        settings: SimulatorSettings,
        request_id: str,
    ) -> None:
        """Prepare to answer; nothing is sent before the response is called."""
        super().__init__()
        self._answer = failing_answer(answer, rule.fault)
        self._rule = rule
        self._log = log
        self._ledger = ledger
        self._settings = settings
        self._request_id = request_id

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
            self._ledger.close(self._log, duration_ms=(monotonic_s() - started) * 1000)

    async def _send(self, send: Send) -> None:
        await _sleep_ms(self._rule.latency_ms, self._settings.latency_ms)
        if self._rule.fault is Fault.HANG:
            await asyncio.Event().wait()
        error = error_of(self._rule)
        if error is None and self._rule.fault is Fault.MIDSTREAM_OVERLOADED and not self._streams:
            error = OVERLOADED
        if error is not None:
            await self._send_error(send, error)
        elif self._rule.fault is Fault.BAD_GATEWAY:
            await self._send_bad_gateway(send)
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
        headers = error.headers | {"content-length": str(len(body))}
        await send_head(send, status=error.status, media_type=JSON, headers=headers)
        await send_body(send, body)

    async def _send_bad_gateway(self, send: Send) -> None:
        self._log.outcome, self._log.status = Outcome.ERROR, 502
        headers = {"content-length": str(len(BAD_GATEWAY_PAGE))}
        await send_head(send, status=502, media_type="text/html", headers=headers)
        await send_body(send, BAD_GATEWAY_PAGE)

    async def _send_json(self, send: Send) -> None:
        self._log.status = 200
        body = json.dumps(self._answer.message(), ensure_ascii=False).encode()
        headers = {"content-length": str(len(body))}
        await send_head(send, status=200, media_type=JSON, headers=headers)
        if self._rule.fault is Fault.DROP:
            await send_body(send, body[: len(body) // 2], more=True)
            raise CutError
        await send_body(send, body)
        self._log_answered()

    async def _send_events(self, send: Send) -> None:
        self._log.status = 200
        await send_head(send, status=200, media_type=EVENT_STREAM, headers={})
        await _send_together(send, opening_events(self._answer))
        self._log.input_tokens = self._answer.input_tokens
        pieces = split_text(self._answer.text, self._settings.chunks)
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2 and await self._fails_midway(send):
                return
            await _send_together(send, [text_event(piece)])
            await _sleep_ms(self._rule.chunk_delay_ms, self._settings.chunk_delay_ms)
        await _send_together(send, closing_events(self._answer))
        await send_body(send, b"")
        self._log_answered()

    async def _fails_midway(self, send: Send) -> bool:
        if self._rule.fault is Fault.DROP:
            raise CutError
        if self._rule.fault is not Fault.MIDSTREAM_OVERLOADED:
            return False
        self._log.outcome = Outcome.ERROR
        await _send_together(send, [error_event(OVERLOADED, self._request_id)])
        await send_body(send, b"")
        return True

    def _log_answered(self) -> None:
        self._log.outcome = Outcome.ANSWERED
        self._log.stop_reason = self._answer.stop_reason
        self._log.input_tokens = self._answer.input_tokens
        self._log.output_tokens = self._answer.output_tokens


async def _send_together(send: Send, events: Iterable[Event]) -> None:
    """Send events between which nothing is waited for as one piece: each piece costs the loop a round."""
    await send_body(send, b"".join(map(encode_event, events)), more=True)


async def _sleep_ms(wanted: int | None, configured: int) -> None:
    await asyncio.sleep((configured if wanted is None else wanted) / 1000)
