"""A question as the Messages API takes it, live and in message batches alike."""

import hashlib
import json
import unicodedata
from functools import lru_cache
from typing import Any

import anthropic
from anthropic.types import Message
from pydantic import BaseModel

from services.core.claude.protocol import ClaudeRequest

Params = dict[str, Any]

CACHED = {"type": "ephemeral"}
"""Claude keeps the prefix up to a block with this mark for five minutes, if it is long enough."""
GO_ON = (
    "Your answer was cut off. Continue it with the very next character after where it stopped: no "
    "repetition, no introduction, no code fence, and nothing after its end."
)


def message_params(request: ClaudeRequest, answer_type: type[BaseModel], model: str) -> Params:
    """The body of POST /v1/messages, or of one request in a message batch.

    What is the same in many calls comes first and is marked: first the system prompt, then what
    the calls of one run share.
    """
    params: Params = {
        "model": model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": "user", "content": _user_content(request)}],
        "output_config": _output_config(answer_type),
    }
    if request.system:
        params["system"] = [_text_block(request.system) | {"cache_control": CACHED}]
    if request.trace_key:
        params["metadata"] = {"user_id": request.trace_key}
    return continued_params(params, request.written) if request.written else params


def resumed_params(params: Params, paused: Message) -> Params:
    """Let Claude go on with an answer that it has paused itself: what came goes back as it is."""
    blocks = [block.model_dump(mode="json", exclude_none=True) for block in paused.content]
    return params | {"messages": [*params["messages"], _turn("assistant", blocks)]}


def continued_params(params: Params, text: str) -> Params:
    """Ask for the rest of an answer that reached max_tokens.

    Without output_config, which would begin a whole new answer.

    Args:
        params: The question.
        text: All of the answer so far.
    """
    turns = [*params["messages"], _turn("assistant", text), _turn("user", GO_ON)]
    rest = {key: value for key, value in params.items() if key != "output_config"}
    return rest | {"messages": turns}


def count_params(params: Params) -> Params:
    """The body of POST /v1/messages/count_tokens."""
    return {key: value for key, value in params.items() if key not in {"max_tokens", "metadata"}}


def message_body(params: Params) -> bytes:
    """The body of POST /v1/messages whose answer streams in, as the SDK would write it.

    It copies the parameters some times, and keeps the copies until the answer comes.
    """
    return json.dumps(params | {"stream": True}, ensure_ascii=False, separators=(",", ":")).encode()


def question_hash(params: Params) -> bytes:
    """SHA-256 of all but the metadata.

    Keys in order: a schema that went through the record may come back with its keys in another.
    """
    asked = {key: value for key, value in params.items() if key != "metadata"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()


def size_bytes(params: Params) -> int:
    """Bytes of all that Claude reads; more than its tokens are, since each has at least one byte.

    The tokenizer that Anthropic once published wrote compatibility characters out first (NFKC), and
    one of those can become eighteen: what is longer counts.
    """
    text = json.dumps(count_params(params), ensure_ascii=False)
    written_out = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return max(len(text.encode(errors="replace")), len(written_out.encode(errors="replace")))


def _user_content(request: ClaudeRequest) -> str | list[Params]:
    if not request.shared:
        return request.prompt
    shared = _text_block(request.shared) | {"cache_control": CACHED}
    return [shared, _text_block(request.prompt)]


def _turn(role: str, content: str | list[Params]) -> Params:
    return {"role": role, "content": content}


def _text_block(text: str) -> Params:
    return {"type": "text", "text": text}


@lru_cache(maxsize=256)
def _output_config(answer_type: type[BaseModel]) -> Params:
    """Ask for an answer of the type.

    Not by the SDK's `output_format`: that validates in mid-stream, before the usage is known.
    """
    return {"format": {"type": "json_schema", "schema": anthropic.transform_schema(answer_type)}}
