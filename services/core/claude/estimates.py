"""What a call is likely to use, by what such calls used before."""

from dataclasses import dataclass

from pydantic import BaseModel

from services.core.claude.protocol import CallEstimate
from services.core.usage import Usage

FIRST_TOKENS_PER_BYTE = 0.3
"""English and JSON have between 3 and 4 bytes a token."""
FIRST_OUTPUT_SHARE = 0.25
"""Of max_tokens, which is set so that answers hardly ever reach it."""
WEIGHT = 0.125
"""Of the newest call in the mean: about the last dozen count."""


@dataclass(slots=True)
class _Mean:
    tokens_per_byte: float
    output_tokens: float


class Experience:
    """Moving means for each type of answer; one for all calls of a process."""

    def __init__(self) -> None:
        self._means: dict[str, _Mean] = {}

    def estimate(
        self, answer_type: type[BaseModel], *, model: str, size_bytes: int, max_tokens: int
    ) -> CallEstimate:
        """The next call's likely use."""
        first = _Mean(FIRST_TOKENS_PER_BYTE, FIRST_OUTPUT_SHARE * max_tokens)
        mean = self._means.get(answer_type.__name__, first)
        return CallEstimate(
            model,
            input_tokens=round(mean.tokens_per_byte * size_bytes),
            output_tokens=min(max_tokens, round(mean.output_tokens)),
        )

    def learn(self, answer_type: type[BaseModel], usage: Usage, *, size_bytes: int) -> None:
        """Take an answered call into the mean; tokens from the cache count against no limit."""
        tokens = usage.input_tokens + usage.cache_creation_input_tokens
        seen = _Mean(tokens / max(1, size_bytes), usage.output_tokens)
        mean = self._means.setdefault(answer_type.__name__, seen)
        mean.tokens_per_byte += WEIGHT * (seen.tokens_per_byte - mean.tokens_per_byte)
        mean.output_tokens += WEIGHT * (seen.output_tokens - mean.output_tokens)
