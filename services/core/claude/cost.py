"""What a call to Claude used and cost."""

import logging
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from anthropic.types import Message
from genai_prices import calc_price, extract_usage
from genai_prices import types as prices

from services.core.usage import Usage

PROVIDER = "anthropic"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens of one call and their price."""

    usage: Usage
    cost_usd: Decimal
    is_estimated: bool
    """The model's own prices are unknown: cost_usd is by those of the fallback model."""


class PriceList:
    """Prices of Claude's models, by genai-prices (a list inside the package: no network)."""

    def __init__(self, *, fallback_model: str) -> None:
        """Remember what unknown models are priced as.

        Args:
            fallback_model: A model with known prices.

        Raises:
            LookupError: Its prices are unknown too.
        """
        self._fallback = calc_price(prices.Usage(), fallback_model, provider_id=PROVIDER).model
        self._unknown_models: set[str] = set()

    def spend_of(self, message: Message) -> Spend:
        """Count and price what a message has used, as far as Claude has reported it."""
        usage = Usage(
            input_tokens=message.usage.input_tokens or 0,
            output_tokens=message.usage.output_tokens or 0,
            cache_read_input_tokens=message.usage.cache_read_input_tokens or 0,
            cache_creation_input_tokens=message.usage.cache_creation_input_tokens or 0,
        )
        answer = {"model": message.model, "usage": message.usage.model_dump(exclude_none=True)}
        try:
            # extract_usage adds cached tokens to input_tokens, which is what the prices expect.
            extracted = extract_usage(answer, provider_id=PROVIDER)
        except LookupError:
            return self._estimate(usage, answer)
        return Spend(usage, extracted.calc_price().total_price, is_estimated=False)

    def _estimate(self, usage: Usage, answer: dict[str, Any]) -> Spend:
        """Price an unknown model as the fallback, and say so once per model."""
        if answer["model"] not in self._unknown_models:
            self._unknown_models.add(answer["model"])
            logger.warning(
                "No price is known for model %s: its calls are priced as %s",
                answer["model"],
                self._fallback.id,
            )
        extracted = extract_usage(answer | {"model": self._fallback.id}, provider_id=PROVIDER)
        return Spend(usage, extracted.calc_price().total_price, is_estimated=True)
