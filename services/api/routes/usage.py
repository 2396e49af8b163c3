"""What a key spends."""

from fastapi import APIRouter

from services.api.auth import BEARER, Caller, KeyedRoute
from services.api.dependencies import Store
from services.api.openapi import KEYED_PROBLEMS
from services.api.schemas import Usage, UsageOfToday

router = APIRouter(tags=["usage"], route_class=KeyedRoute, dependencies=[BEARER])


@router.get("/v1/usage", operation_id="getUsage", responses=KEYED_PROBLEMS)
async def get_usage(caller: Caller, store: Store) -> UsageOfToday:
    """Show what this key's calls of today (UTC) cost, and what of its daily budget they may still take."""
    day = await store.get_key_day(caller.id)
    return UsageOfToday(
        cost_usd=day.cost_usd,
        reserved_usd=day.reserved_usd,
        doubtful_usd=day.doubtful_usd,
        usage=Usage.model_validate(day.usage),
        daily_budget_usd=caller.daily_budget_usd,
    )
