"""A crowd of runs with one small budget: never exceeded, by a single cent, whoever dies."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from services.core.errors import BudgetBusyError, BudgetExceededError
from services.core.runs.models import ApiKey, CallOpening, Lease
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import COST, SHAPES, accept, opening, settle

WORST = 2 * COST
BUDGET = 20 * WORST


@dataclass
class Crowd:
    """Runs that all ask Claude, which always charges the worst; some die before they hear it."""

    calls: int = 0
    """Made, answered or not: what Claude would charge for."""
    refused: int = 0
    unheard: list[tuple[RunStore, Lease, CallOpening]] = field(default_factory=list)

    async def live(self, store: RunStore, lease: Lease, number: int) -> None:
        """One claim of a run."""
        call = opening(question=b"the same")
        try:
            opened = await store.open_call(lease, call)
        except (BudgetBusyError, BudgetExceededError):
            self.refused += 1
            return
        if opened.answer is not None:
            return
        self.calls += 1
        if number % 3 == 0:
            self.unheard.append((store, lease, call))
            return
        await settle(store, lease, call, opened.reservation, cost_usd=WORST)


@pytest.mark.timeout(120)
async def test_no_crowd_exceeds_a_small_budget(open_store: StoreFactory, api_key: ApiKey) -> None:
    """100 runs in two processes that die again and again, and a third of whose calls end late."""
    stores = [open_store(), open_store()]
    await stores[0].set_key_limits(api_key.prefix, daily_budget_usd=BUDGET, max_running=None)
    await asyncio.gather(*(accept(stores[0], api_key, budget_usd=None) for _ in range(100)))
    crowd = Crowd()

    async def worker(store: RunStore) -> None:
        leases = await store.claim_due_runs(owner="w", limit=50, shapes=SHAPES)
        await asyncio.gather(*(crowd.live(store, lease, n) for n, lease in enumerate(leases)))

    for _ in range(2):
        await asyncio.gather(*map(worker, stores))
        day = await stores[0].get_key_day(api_key.id)
        assert crowd.calls * WORST <= day.cost_usd + day.reserved_usd + day.doubtful_usd <= BUDGET
        assert await stores[0].bury_process("w", culprit=None) == 100
    for store, lease, call in crowd.unheard:
        await settle(store, lease, call, call.reservation, cost_usd=WORST)

    day = await stores[0].get_key_day(api_key.id)
    assert crowd.calls * WORST == BUDGET
    assert (day.cost_usd, day.reserved_usd, day.doubtful_usd) == (BUDGET, Decimal(0), Decimal(0))
    assert crowd.refused > 100
