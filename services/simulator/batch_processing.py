"""Working on a message batch: waiting as long as one takes, then answering as live."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from services.core.clock import utc_now
from services.simulator.answer import SimulatedAnswer, fingerprint
from services.simulator.answering import answer_message
from services.simulator.batches import Batch, BatchBoard, BatchRules, ResultType
from services.simulator.errors import ApiError, InvalidRequestError
from services.simulator.fault_errors import STATUSES, error_of
from services.simulator.faults import Place
from services.simulator.reading import say_what_is_wrong
from services.simulator.schemas import MessagesRequest
from services.simulator.state import State
from services.simulator.usage import Kind, used_by

CANCELING_S = 0.2
"""A cancelled batch takes that long to end: what is being worked on is finished."""

Result = dict[str, Any]


async def process_batch(batch: Batch, state: State) -> None:
    """See a batch to its end."""
    await _wait(batch, state.batches)
    fates = _fates(batch, state.batches)
    counts: Counter[ResultType] = Counter()
    lines: list[bytes] = []
    for request, fate in zip(batch.requests, fates, strict=True):
        result = _result(request.params, fate, state)
        counts[ResultType(result["type"])] += 1
        line = {"custom_id": request.custom_id, "result": result}
        lines.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        # Live calls go on meanwhile.
        await asyncio.sleep(0)
    _dice(batch, state.batches.rules, "order").shuffle(lines)
    batch.end(lines, counts)


async def _wait(batch: Batch, board: BatchBoard) -> None:
    """Until the batch is due, which may change meanwhile."""
    async with board.changed:
        while (left_s := _due_in_s(batch, board)) > 0:
            try:
                async with asyncio.timeout(left_s):
                    await board.changed.wait()
            except TimeoutError:
                continue


def _due_in_s(batch: Batch, board: BatchBoard) -> float:
    now = utc_now()
    left_s = board.seconds - (now - batch.created_at).total_seconds()
    if batch.cancel_initiated_at is None:
        return left_s
    return min(left_s, CANCELING_S - (now - batch.cancel_initiated_at).total_seconds())


def _fates(batch: Batch, board: BatchBoard) -> list[ResultType]:
    """How each request ends, bad parameters aside: by dice, and canceled where it had not been reached."""
    dice = _dice(batch, board.rules, "fates")
    fates = [_fate(dice.random(), board.rules) for _ in batch.requests]
    if batch.cancel_initiated_at is None:
        return fates
    worked_s = (batch.cancel_initiated_at - batch.created_at).total_seconds()
    done = int(batch.size * min(1, worked_s / board.seconds)) if board.seconds else batch.size
    return fates[:done] + [ResultType.CANCELED] * (batch.size - done)


def _fate(roll: float, rules: BatchRules) -> ResultType:
    if roll < rules.errored_rate:
        return ResultType.ERRORED
    if roll < rules.errored_rate + rules.expired_rate:
        return ResultType.EXPIRED
    return ResultType.SUCCEEDED


def _dice(batch: Batch, rules: BatchRules, purpose: str) -> random.Random:
    return random.Random(f"{rules.seed} {batch.number} {purpose}")  # noqa: S311 - dice, not secrets


def _result(params: dict[str, Any], fate: ResultType, state: State) -> Result:
    if fate in {ResultType.EXPIRED, ResultType.CANCELED}:
        return {"type": fate.value}
    try:
        if fate is ResultType.ERRORED:
            raise _simulated_error(state.batches.rules.error_type)
        answer = _answer(params, state)
    except ApiError as error:
        return {"type": "errored", "error": error.body(None)}
    return {"type": "succeeded", "message": answer.message()}


def _answer(params: dict[str, Any], state: State) -> SimulatedAnswer:
    """The same answer as live, charged as batch usage.

    Raises:
        ApiError: There is none.
    """
    message = _read(params)
    rule = state.faults.rule_for(message.prompt, {}, place=Place.BATCH_REQUEST)
    error = error_of(rule)
    if error is not None:
        raise error
    user_id, sha256 = message.metadata.user_id, fingerprint(message.prompt)
    ledger = state.ledger
    ledger.calls.note_started(user_id, sha256)
    answer = answer_message(message, state.cache.look_up(message), rule.fault, state)
    state.cache.begin(answer.cache)
    ledger.calls.note_answered(user_id, sha256)
    used = used_by(answer, output_tokens=answer.output_tokens)
    ledger.usage.add(user_id, Kind.BATCH, answer.model, used)
    return replace(answer, service_tier="batch")


def _read(params: dict[str, Any]) -> MessagesRequest:
    try:
        message = MessagesRequest.model_validate(params)
    except ValidationError as error:
        raise InvalidRequestError(say_what_is_wrong(error)) from None
    if message.stream:
        raise InvalidRequestError("stream: a request in a batch cannot be streamed")
    return message


def _simulated_error(error_type: str) -> ApiError:
    return ApiError(STATUSES.get(error_type, 500), error_type, f"Simulated {error_type}")
