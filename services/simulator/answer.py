"""The simulated answer to a request: always the same for the same request."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.simulator.email import compose_email
from services.simulator.instance import InstanceBuilder
from services.simulator.json_schema import fits
from services.simulator.material import Material
from services.simulator.records import find_records
from services.simulator.schemas import CountTokensRequest, MessagesRequest
from services.simulator.summary import summarize
from services.simulator.tokens import TOKENS_PER_MESSAGE, count_tokens, cut_to_tokens

MAX_QUOTED_SENTENCES = 3


@dataclass(frozen=True)
class SimulatedAnswer:
    """What the simulator says, and what Claude would have charged for."""

    id: str
    model: str
    text: str
    stop_reason: str
    stop_sequence: str | None
    input_tokens: int
    output_tokens: int
    stop_details: dict[str, Any] | None = None

    @property
    def usage(self) -> dict[str, int]:
        """Tokens as the API reports them; the simulator has no prompt cache."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        }

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
            "usage": self.usage,
        }


def answer_request(request: MessagesRequest) -> SimulatedAnswer:
    """Answer a request by rule.

    Raises:
        InvalidRequestError: Its schema uses what is not supported, or nothing fits it.
    """
    schema = request.json_schema
    text = _text_for(request.prompt, json.dumps(schema, sort_keys=True) if schema else None)
    text, stop_reason, stop_sequence = _stopped(text, request)
    return SimulatedAnswer(
        id="msg_sim_" + fingerprint(request.model_dump_json())[:24],
        model=request.model,
        text=text,
        stop_reason=stop_reason,
        stop_sequence=stop_sequence,
        input_tokens=count_input_tokens(request),
        output_tokens=max(1, count_tokens(text)),
    )


def count_input_tokens(request: CountTokensRequest) -> int:
    """Tokens of the system prompt, the messages and the schema."""
    texts = [request.system, *(message.content for message in request.messages)]
    if request.json_schema:
        texts.append(json.dumps(request.json_schema))
    return sum(count_tokens(text) + TOKENS_PER_MESSAGE for text in texts if text)


def fingerprint(text: str) -> str:
    """A hash that tells requests apart."""
    return hashlib.sha256(text.encode()).hexdigest()


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
    shorter = cut_to_tokens(text, request.max_tokens)
    return (text, stop_reason, sequence) if shorter == text else (shorter, "max_tokens", None)
