"""Judging a whole answer: is it one, and does it fit?"""

from collections.abc import Sequence

from anthropic.types import Message
from pydantic import ValidationError

from services.core.claude.outcomes import outcome_of_stop
from services.core.claude.protocol import Answer
from services.core.claude.turns import text_of
from services.core.errors import ClaudeError, ClaudeMalformedAnswerError


def read_answer(messages: Sequence[Message], answer_type: type[Answer]) -> Answer:
    """Get the answer out of whole messages: one, or several where it was continued.

    Raises:
        ClaudeTruncatedError: It reached max_tokens, or was paused, and was not gone on with.
        ClaudeRefusedError: Claude declined.
        ClaudeRejectedError: It ran out of the model's context window.
        ClaudeMalformedAnswerError: Its text does not fit the type.
    """
    stop_error = _stop_error(messages[-1])
    if stop_error is not None:
        raise stop_error
    try:
        return answer_type.model_validate_json(text_of(messages))
    except ValidationError as error:
        # `from None`: pydantic's own text quotes the answer, which may hold personal data.
        raise _malformed(error, answer_type.__name__) from None


def _stop_error(last: Message) -> ClaudeError | None:
    """The error that a stop reason stands for; None where Claude was done."""
    kind = outcome_of_stop(last.stop_reason).error
    if kind is None:
        return None
    category = last.stop_details.category if last.stop_details else None
    texts = {
        "max_tokens": f"The answer reached max_tokens after {last.usage.output_tokens} tokens",
        "pause_turn": "Claude paused its answer and did not come to an end",
        "refusal": f"Claude declined to answer (category: {category or 'not given'})",
        "model_context_window_exceeded": "Prompt and answer exceed the model's context window",
    }
    return kind(texts.get(last.stop_reason or ""), error_type=last.stop_reason)


def _malformed(error: ValidationError, type_name: str) -> ClaudeMalformedAnswerError:
    """Name the places that do not fit, without what stands there."""
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['type']}"
        for fault in error.errors(include_input=False, include_url=False, include_context=False)
    )
    text = f"The answer does not fit {type_name}: {faults}"
    return ClaudeMalformedAnswerError(text, error_type="malformed")
