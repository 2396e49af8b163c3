"""What a key spends, and how its runs are held to it."""

import dataclasses
from decimal import Decimal

import httpx

from services.core.runs.models import KeyDay
from services.core.usage import Usage
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import post_run


async def test_a_key_sees_what_it_spends_today(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Cost, what is under way, what is in doubt, tokens, and the budget; of no other key."""
    run_id = await post_run(client)
    key_id = store.runs[run_id].key_id
    store.key_days[key_id] = KeyDay(
        Decimal("1.5"), Decimal("0.25"), Decimal("0.125"), Usage(1, 2, 3, 4)
    )

    mine, theirs = [(await c.get("/v1/usage")).json() for c in (client, other_client)]

    assert mine == {
        "cost_usd": 1.5,
        "reserved_usd": 0.25,
        "doubtful_usd": 0.125,
        "usage": {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 4,
        },
        "daily_budget_usd": None,
    }
    assert (theirs["cost_usd"], theirs["usage"]["input_tokens"]) == (0, 0)


async def test_a_key_sees_its_daily_budget(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """As it was set on the command line."""
    for prefix, key in store.keys.items():
        store.keys[prefix] = dataclasses.replace(key, daily_budget_usd=Decimal("2.5"))

    answer = await client.get("/v1/usage")

    assert (answer.status_code, answer.json()["daily_budget_usd"]) == (200, 2.5)
