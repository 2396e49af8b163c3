"""services.core.claude.cost: tokens and dollars."""

from decimal import Decimal

import pytest
from anthropic.types import Message
from genai_prices import calc_price
from genai_prices.data import providers
from genai_prices.types import Usage as PricedUsage

from config.anthropic import AnthropicSettings
from services.core.claude.cost import PriceList
from services.core.usage import Usage


def message(model: str, **usage: object) -> Message:
    """A message that has used that much."""
    return Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": model,
            "usage": {"input_tokens": 1_000_000, "output_tokens": 0, **usage},
        }
    )


def test_the_default_models_have_prices():
    """A step that names no model is priced exactly, and so is an unknown one, as the fallback."""
    settings = AnthropicSettings()
    prices = PriceList(fallback_model=settings.fallback_price_model)

    assert prices.spend_of(message(settings.model)).is_estimated is False
    assert prices.spend_of(message(settings.fallback_price_model)).is_estimated is False


def test_an_unknown_model_is_priced_as_the_dear_fallback(caplog):
    """A budget holds also for a model of tomorrow; the log says so once for each model."""
    prices = PriceList(fallback_model="claude-fable-5-2")

    spends = [prices.spend_of(message("claude-next-9")) for _ in range(3)]

    assert {Decimal(8)} == {spend.cost_usd for spend in spends}
    assert {True} == {spend.is_estimated for spend in spends}
    assert 1 == caplog.text.count("claude-next-9")


def test_an_unpriced_fallback_is_refused_at_once():
    """A wrong setting shows when the process starts, not with the first answer."""
    with pytest.raises(LookupError):
        PriceList(fallback_model="claude-nope")


def test_a_model_with_a_date_has_its_models_price():
    """The API answers with dated names."""
    spend = PriceList(fallback_model="claude-fable-5-2").spend_of(
        message("claude-haiku-4-5-20251001")
    )

    assert spend.cost_usd == Decimal(1)
    assert spend.is_estimated is False


def test_long_lived_cache_entries_cost_what_they_cost():
    """Cache writes for an hour are dearer than those for five minutes."""
    prices = PriceList(fallback_model="claude-fable-5-2")
    usage = {"input_tokens": 0, "cache_creation_input_tokens": 1_000_000}
    short = {"ephemeral_5m_input_tokens": 1_000_000, "ephemeral_1h_input_tokens": 0}
    long = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 1_000_000}

    costs = [
        prices.spend_of(message("claude-sonnet-5-5", **usage, cache_creation=lifetimes)).cost_usd
        for lifetimes in (short, long)
    ]

    assert costs == [Decimal("2.5"), Decimal(4)]


def test_absent_cache_counts_are_zero():
    """The API leaves out what does not apply."""
    usage = {"cache_read_input_tokens": None, "output_tokens": 7}

    spend = PriceList(fallback_model="claude-fable-5-2").spend_of(
        message("claude-sonnet-5-5", **usage)
    )

    assert spend.usage == Usage(input_tokens=1_000_000, output_tokens=7)


MODELS = [
    model for provider in providers if provider.id == "anthropic" for model in provider.models
]


def test_the_model_that_was_asked_prices_an_unknown_one_that_answered(caplog) -> None:
    """So that no answer is dearer than the worst case of its question."""
    prices = PriceList(fallback_model="claude-fable-5-2")

    spend = prices.spend_of(message("claude-next-9"), asked_model="claude-haiku-4-5")

    assert spend.cost_usd == Decimal(1)
    assert spend.is_estimated is False
    assert "claude-next-9" not in caplog.text


def test_a_batch_costs_half_of_everything() -> None:
    """As genai-prices has it, for each model of which it knows the price in batches."""
    prices = PriceList(fallback_model="claude-fable-5-2")
    usage = {"cache_creation_input_tokens": 200_000, "cache_read_input_tokens": 300_000}
    priced = PricedUsage(
        input_tokens=1_500_000,
        cache_write_tokens=200_000,
        cache_read_tokens=300_000,
        output_tokens=400_000,
    )
    listed = [model.id for model in MODELS if model.price_variants]

    assert len(listed) > 10
    for model in listed:
        answered = message(model, output_tokens=400_000, **usage)
        expected = calc_price(
            priced, model, provider_id="anthropic", price_context={"processing": "batch"}
        )
        assert prices.spend_of(answered, is_batch=True).cost_usd == expected.total_price


@pytest.mark.parametrize("model", [model.id for model in MODELS])
def test_most_usd_is_the_dearest_there_is(model: str) -> None:
    """For each model that has prices: more tokens never cost less, and no kind of them costs more."""
    prices = PriceList(fallback_model="claude-fable-5-2")
    counts = [0, 1, 99_999, 100_001, 199_999, 200_000, 200_001, 1_000_000]
    most = [prices.most_usd(model, input_tokens=count, output_tokens=count) for count in counts]

    assert most == sorted(most)
    for count, most_usd in zip(counts, most, strict=True):
        kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        for kind in kinds:
            usage = {"input_tokens": 0, "output_tokens": count} | {kind: count}
            assert prices.spend_of(message(model, **usage)).cost_usd <= most_usd


def test_the_worst_case_of_an_unknown_model_is_that_of_the_fallback() -> None:
    """Both sides of a budget go by the same prices."""
    prices = PriceList(fallback_model="claude-fable-5-2")

    assert prices.most_usd("claude-next-9", input_tokens=1_000_000, output_tokens=0) == 10
