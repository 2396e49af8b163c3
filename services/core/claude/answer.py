"""Judging a whole answer: is it one, and does it fit?"""

from anthropic.types import Message
from pydantic import ValidationError

from services.core.claude.protocol import Answer
from services.core.errors import (
    ClaudeError,
    ClaudeMalformedAnswerError,
    ClaudeRefusedError,
    ClaudeRejectedError,
    ClaudeTruncatedError,
)


def read_answer(message: Message, answer_type: type[Answer]) -> Answer:
    """Get the answer out of a whole message.

    Raises:
        ClaudeTruncatedError: It reached max_tokens.
        ClaudeRefusedError: Claude declined.
        ClaudeRejectedError: It ran out of the model's context window.
        ClaudeMalformedAnswerError: Its text does not fit the type.
    """
    stop_error = _stop_error(message)
    if stop_error is not None:
        raise stop_error
    text = "".join(block.text for block in message.content if block.type == "text")
    try:
        return answer_type.model_validate_json(text)
    except ValidationError as error:
        # `from None`: pydantic's own text quotes the answer, which may hold personal data.
        raise _malformed(error, answer_type.__name__) from None


def _stop_error(message: Message) -> ClaudeError | None:
    """The error that a stop reason stands for; None where Claude was done."""
    if message.stop_reason == "max_tokens":
        text = f"The answer reached max_tokens after {message.usage.output_tokens} tokens"
        return ClaudeTruncatedError(text, error_type="max_tokens")
    if message.stop_reason == "refusal":
        category = message.stop_details.category if message.stop_details else None
        text = f"Claude declined to answer (category: {category or 'not given'})"
        return ClaudeRefusedError(text, error_type="refusal")
    if message.stop_reason == "model_context_window_exceeded":
        text = "Prompt and answer exceed the model's context window"
        return ClaudeRejectedError(text, error_type="model_context_window_exceeded")
    return None


def _malformed(error: ValidationError, type_name: str) -> ClaudeMalformedAnswerError:
    """Name the places that do not fit, without what stands there."""
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['type']}"
        for fault in error.errors(include_input=False, include_url=False, include_context=False)
    )
    text = f"The answer does not fit {type_name}: {faults}"
    return ClaudeMalformedAnswerError(text, error_type="malformed")
