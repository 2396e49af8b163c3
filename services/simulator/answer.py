"""The simulated answer to a request: always the same for the same request."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.simulator.conversation import UnfinishedAnswers, read_unfinished
from services.simulator.email import compose_email
from services.simulator.instance import InstanceBuilder
from services.simulator.json_schema import fits
from services.simulator.material import Material
from services.simulator.prefixes import count_input_tokens
from services.simulator.prompt_cache import CacheUse
from services.simulator.records import find_records
from services.simulator.schemas import MessagesRequest
from services.simulator.summary import summarize
from services.simulator.tokens import count_tokens, cut_to_tokens

MAX_QUOTED_SENTENCES = 3


@dataclass(frozen=True)
class SimulatedAnswer:
    """What the simulator says, and what Claude would have charged for."""

    id: str
    model: str
    text: str
    whole: str
    """The text that this is the text of, or a part of."""
    stop_reason: str
    stop_sequence: str | None
    cache: CacheUse
    output_tokens: int
    is_structured: bool = False
    stop_details: dict[str, Any] | None = None
    service_tier: str = "standard"

    @property
    def input_tokens(self) -> int:
        """Those that the cache has nothing to do with."""
        return self.cache.input_tokens

    @property
    def usage(self) -> dict[str, int]:
        """Tokens as the API sums them up."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache.written_tokens,
            "cache_read_input_tokens": self.cache.read_tokens,
            "output_tokens": self.output_tokens,
        }

    @property
    def whole_usage(self) -> dict[str, Any]:
        """Tokens as a message has them."""
        cache_creation = {
            "ephemeral_5m_input_tokens": self.cache.written_5m_tokens,
            "ephemeral_1h_input_tokens": self.cache.written_1h_tokens,
        }
        return self.usage | {"cache_creation": cache_creation, "service_tier": self.service_tier}

    def message(self) -> dict[str, Any]:
        """The answer as POST /v1/messages gives it."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [{"type": "text", "text": self.text}] if self.text else [],
            "stop_reason": self.stop_reason,
            "stop_sequence": self.stop_sequence,
            "stop_details": self.stop_details,
            "usage": self.whole_usage,
        }


def answer_request(
    request: MessagesRequest,
    *,
    cache: CacheUse | None = None,
    unfinished: UnfinishedAnswers | None = None,
) -> SimulatedAnswer:
    """Answer a request by rule.

    Args:
        request: What is asked.
        cache: What the prompt cache does for it; None: nothing.
        unfinished: Answers that it may want to be continued.

    Raises:
        InvalidRequestError: Its schema uses what is not supported, or nothing fits it.
    """
    whole, rest = _texts_for(request, unfinished or UnfinishedAnswers())
    text, stop_reason, stop_sequence = _stopped(rest, request)
    return SimulatedAnswer(
        id="msg_sim_" + fingerprint(request.model_dump_json())[:24],
        model=request.model,
        text=text,
        whole=whole,
        stop_reason=stop_reason,
        stop_sequence=stop_sequence,
        cache=cache or CacheUse(count_input_tokens(request)),
        output_tokens=max(1, count_tokens(text)),
        is_structured=whole.startswith(("{", "[")),
    )


def fingerprint(text: str) -> str:
    """A hash that tells requests apart."""
    return hashlib.sha256(text.encode()).hexdigest()


def _texts_for(request: MessagesRequest, unfinished: UnfinishedAnswers) -> tuple[str, str]:
    """A whole answer, and what of it the request does not have yet."""
    schema = json.dumps(request.json_schema, sort_keys=True) if request.json_schema else None
    asked = read_unfinished(request.messages)
    if asked is not None:
        known = unfinished.whole(asked.question)
        for whole in (known, _text_for(asked.question, schema)):
            rest = asked.rest_of(whole) if whole is not None else None
            if whole is not None and rest is not None:
                return whole, rest
    text = _text_for(request.prompt, schema)
    return text, text


# Many runs ask the same in a load test; an answer costs milliseconds and depends on nothing else.
@lru_cache(maxsize=256)
def _text_for(prompt: str, schema_json: str | None) -> str:
    material = Material(prompt)
    if schema_json is None:
        quoted = " ".join(material.sentences[:MAX_QUOTED_SENTENCES])
        return f"This is a simulated answer, not Claude's. The prompt says: {quoted}"
    schema = json.loads(schema_json)
    hints = compose_email(material) or find_records(material, schema) or summarize(material) or {}
    value = (
        hints
        if hints and fits(hints, schema, schema)
        else InstanceBuilder(schema, material).build(hints)
    )
    return json.dumps(value, ensure_ascii=False)


def _stopped(text: str, request: MessagesRequest) -> tuple[str, str, str | None]:
    """The text up to where Claude would have stopped, why, and at which sequence."""
    found = {text.find(stop): stop for stop in request.stop_sequences if stop and stop in text}
    if found:
        text, stop_reason, sequence = text[: min(found)], "stop_sequence", found[min(found)]
    else:
        stop_reason, sequence = "end_turn", None
    # Claude's tokens have their space in front: none is left behind where an answer stops.
    shorter = cut_to_tokens(text, request.max_tokens).rstrip(" ")
    if shorter == text.rstrip(" "):
        return text, stop_reason, sequence
    return shorter, "max_tokens", None
