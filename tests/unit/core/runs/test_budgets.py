"""Whether a call fits into what is left."""

from decimal import Decimal

import pytest

from services.core.errors import BudgetBusyError, BudgetExceededError
from services.core.runs.budgets import Purse, refusal_of

CENT = Decimal("0.01")


def purse(budget: Decimal | None = CENT, *, scope: str = "run", **sums: Decimal) -> Purse:
    """A budget of a cent, of which nothing is spent unless the test says so."""
    nothing = dict.fromkeys(("cost_usd", "reserved_usd", "doubtful_usd"), Decimal(0))
    return Purse(scope, budget, **(nothing | sums))


@pytest.mark.parametrize(
    ("sums", "refusal"),
    [
        ({}, None),
        ({"cost_usd": CENT / 2, "reserved_usd": CENT / 4}, None),
        ({"cost_usd": CENT / 2, "reserved_usd": CENT / 3}, BudgetBusyError),
        ({"reserved_usd": CENT}, BudgetBusyError),
        ({"cost_usd": CENT}, BudgetExceededError),
        ({"cost_usd": CENT / 2, "doubtful_usd": CENT / 3}, BudgetExceededError),
    ],
)
def test_a_call_must_fit_at_its_worst(
    sums: dict[str, Decimal], refusal: type[Exception] | None
) -> None:
    """To the last fraction; what is reserved may become free, what is spent or in doubt may not."""
    verdict = purse(**sums).refusal(CENT / 4)

    assert type(verdict) is (refusal or type(None))


def test_without_a_budget_all_fits() -> None:
    """Sums are kept all the same, but nobody asks them."""
    assert purse(None, cost_usd=Decimal(10**6)).refusal(Decimal(10**6)) is None


def test_what_can_never_fit_is_said_first() -> None:
    """A run over its budget does not wait for others of its key."""
    busy = purse(scope="key", reserved_usd=CENT)
    spent = purse(cost_usd=CENT)

    assert isinstance(refusal_of((busy, spent), CENT), BudgetExceededError)
    assert isinstance(refusal_of((busy, purse()), CENT), BudgetBusyError)
    assert refusal_of((purse(), purse(None)), CENT) is None


def test_a_refusal_says_what_is_left() -> None:
    """The message is for whoever raises the budget."""
    refusal = purse(cost_usd=CENT / 2).refusal(CENT)

    expected = (
        "A call could cost up to 0.01 USD, and of the run's budget of 0.01 USD only 0.005 USD "
        "is left."
    )
    assert expected == str(refusal)


def test_doubt_leaves_the_sum_as_it_is() -> None:
    """What was reserved counts on, only for ever."""
    kept = purse(reserved_usd=CENT)

    kept.doubt(CENT)

    assert (kept.reserved_usd, kept.doubtful_usd) == (0, CENT)
