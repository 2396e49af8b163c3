"""What a call to Claude used and cost, and what one can cost at most."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from anthropic.types import Message
from genai_prices import calc_price, extract_usage
from genai_prices import types as prices

from services.core.usage import Usage

PROVIDER = "anthropic"
BATCH_DISCOUNT = Decimal("0.5")
"""Message batches cost half of everything (Anthropic's "Batch processing"; genai-prices lists the same for
the models of which it knows it)."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens of one call and their price."""

    usage: Usage
    cost_usd: Decimal
    is_estimated: bool
    """The model's own prices are unknown: cost_usd is by those of the fallback model."""

    def __add__(self, other: "Spend") -> "Spend":
        """Both together."""
        return Spend(
            self.usage + other.usage,
            self.cost_usd + other.cost_usd,
            is_estimated=self.is_estimated or other.is_estimated,
        )


NOTHING = Spend(Usage(), Decimal(0), is_estimated=False)


class PriceList:
    """Prices of Claude's models, by genai-prices (a list inside the package: no network)."""

    def __init__(self, *, fallback_model: str) -> None:
        """Remember what unknown models are priced as.

        Args:
            fallback_model: A model with known prices.

        Raises:
            LookupError: Its prices are unknown too.
        """
        self._fallback = calc_price(prices.Usage(), fallback_model, provider_id=PROVIDER).model.id
        self._unknown_models: set[str] = set()

    def spend_of(
        self, message: Message, *, asked_model: str | None = None, is_batch: bool = False
    ) -> Spend:
        """Count and price what a message has used, as far as Claude has reported it.

        Args:
            message: An answer, whole or not.
            asked_model: The model that was asked. Its prices count where those of the model that
                answered are unknown, so that no answer is dearer than most_usd() of its question.
            is_batch: It is from a message batch.
        """
        usage = Usage(
            input_tokens=message.usage.input_tokens or 0,
            output_tokens=message.usage.output_tokens or 0,
            cache_read_input_tokens=message.usage.cache_read_input_tokens or 0,
            cache_creation_input_tokens=message.usage.cache_creation_input_tokens or 0,
        )
        model = self._priced_as(message.model, asked_model)
        answer = {
            "model": model or self._fallback,
            "usage": message.usage.model_dump(exclude_none=True),
        }
        # extract_usage adds cached tokens to input_tokens, which is what the prices expect.
        cost_usd = extract_usage(answer, provider_id=PROVIDER).calc_price().total_price
        return Spend(usage, _discounted(cost_usd, is_batch=is_batch), is_estimated=model is None)

    def total_of(
        self, messages: Iterable[Message], *, asked_model: str | None = None, is_batch: bool = False
    ) -> Spend:
        """What the turns of one answer have used together."""
        spends = (
            self.spend_of(message, asked_model=asked_model, is_batch=is_batch)
            for message in messages
        )
        return sum(spends, NOTHING)

    def most_usd(
        self, model: str, *, input_tokens: int, output_tokens: int, is_batch: bool = False
    ) -> Decimal:
        """What so many tokens cost at most: all input is of its dearest kind.

        That is written to the cache, for a model that has one. (An hour's cache entry is dearer; none
        is asked for.) Where a long input has prices of its own, they count.
        """
        known = self._priced_as(model) or self._fallback
        kind = {"cache_write_tokens": input_tokens} if _is_written_dearer(known) else {}
        usage = prices.Usage(input_tokens=input_tokens, output_tokens=output_tokens, **kind)
        most_usd = calc_price(usage, known, provider_id=PROVIDER).total_price
        return _discounted(most_usd, is_batch=is_batch)

    def _priced_as(self, *models: str | None) -> str | None:
        """The first of these models that has prices; none is said in the log, once for each model."""
        for model in models:
            if model is not None and _is_priced(model):
                return model
        unknown = models[0]
        if unknown is not None and unknown not in self._unknown_models:
            self._unknown_models.add(unknown)
            logger.warning(
                "No price is known for model %s: its calls are priced as %s",
                unknown,
                self._fallback,
            )
        return None


# What does not change is asked once for each model: a price takes 0.15 ms.
@lru_cache(maxsize=256)
def _is_priced(model: str) -> bool:
    try:
        calc_price(prices.Usage(), model, provider_id=PROVIDER)
    except LookupError:
        return False
    return True


@lru_cache(maxsize=256)
def _is_written_dearer(model: str) -> bool:
    """Whether input costs most where it is written to the cache: the model has one."""
    plain, written = (
        calc_price(prices.Usage(input_tokens=1000, **kind), model, provider_id=PROVIDER).total_price
        for kind in ({}, {"cache_write_tokens": 1000})
    )
    return written > plain


def _discounted(cost_usd: Decimal, *, is_batch: bool) -> Decimal:
    return cost_usd * BATCH_DISCOUNT if is_batch else cost_usd
