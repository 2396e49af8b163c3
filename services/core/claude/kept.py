"""Answers as JSON, so that the record can keep them and they can be read again."""

from collections.abc import Sequence
from dataclasses import dataclass

from anthropic.types import Message

from services.core.claude.protocol import Json

FIELDS = frozenset(
    {"id", "type", "role", "model", "content", "stop_reason", "stop_details", "usage"}
)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was kept of an answer."""

    messages: tuple[Message, ...]
    """More than one where it was continued."""
    asked_model: str
    is_simulated: bool
    is_batch: bool


def keep_answer(
    messages: Sequence[Message], *, asked_model: str, is_simulated: bool, is_batch: bool = False
) -> Json:
    """The whole messages of one answer, as JSON for read_kept()."""
    return {
        "messages": [
            message.model_dump(mode="json", include=set(FIELDS), exclude_none=True)
            for message in messages
        ],
        "asked_model": asked_model,
        "is_simulated": is_simulated,
        "is_batch": is_batch,
    }


def join_kept(parts: Sequence[Json]) -> Json:
    """One answer of the parts that separate calls gave; each as keep_answer() has kept it."""
    return parts[-1] | {"messages": [message for part in parts for message in part["messages"]]}


def read_kept(kept: Json) -> KeptAnswer:
    """What keep_answer() has kept."""
    return KeptAnswer(
        messages=tuple(Message.model_validate(message) for message in kept["messages"]),
        asked_model=kept["asked_model"],
        is_simulated=kept["is_simulated"],
        is_batch=kept["is_batch"],
    )
