"""Whether a call may be made: what it can cost at most must fit into what is left. Pure."""

from dataclasses import dataclass
from decimal import Decimal

from services.core.errors import BudgetBusyError, BudgetExceededError


@dataclass(slots=True)
class Purse:
    """A budget, and what stands against it."""

    scope: str
    """"run", or "key" for a key's day."""
    budget_usd: Decimal | None
    """None: there is no limit."""
    cost_usd: Decimal
    reserved_usd: Decimal
    doubtful_usd: Decimal

    def doubt(self, usd: Decimal) -> None:
        """Nobody will see the end of a call for which so much is reserved."""
        self.reserved_usd -= usd
        self.doubtful_usd += usd

    def reserve(self, usd: Decimal) -> None:
        """Set aside what a call can cost."""
        self.reserved_usd += usd

    def refusal(self, worst_usd: Decimal) -> BudgetExceededError | BudgetBusyError | None:
        """Why a call may not be made, or None."""
        if self.budget_usd is None:
            return None
        left_usd = self.budget_usd - self.cost_usd - self.doubtful_usd
        if worst_usd > left_usd:
            whose = "run's budget" if self.scope == "run" else "key's budget of the day"
            return BudgetExceededError(
                f"A call could cost up to {worst_usd:f} USD, and of the {whose} of "
                f"{self.budget_usd:f} USD only {max(left_usd, Decimal(0)):f} USD is left."
            )
        if worst_usd > left_usd - self.reserved_usd:
            return BudgetBusyError(scope=self.scope)
        return None


def refusal_of(
    purses: tuple[Purse, ...], worst_usd: Decimal
) -> BudgetExceededError | BudgetBusyError | None:
    """Why a call may not be made, or None: what no waiting helps against comes first."""
    refusals = [refusal for purse in purses if (refusal := purse.refusal(worst_usd))]
    for refusal in refusals:
        if isinstance(refusal, BudgetExceededError):
            return refusal
    return refusals[0] if refusals else None
