"""Questions to the parts that the API depends on, each with an answer within two seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.exceptions import OutOfMemoryError, RedisError

from services.api.dependencies import Dependencies, Redis
from services.api.health_schemas import ClaudeHealth, ClaudeStatus, PartHealth, PartStatus
from services.core.clock import monotonic_s
from services.core.errors import StoreUnavailableError
from services.core.runs.call_limits import CallLimits
from services.core.runs.models import RunTotals
from services.core.runs.store import RunStore

CHECK_TIMEOUT_S: Final = 2.0
CANNOT_SAVE: Final = "MISCONF "
"""How Redis begins its answer to a write when it cannot write to its own disk."""
_MS = 1000
T = TypeVar("T")


async def _check(ask: Callable[[], Awaitable[Any]]) -> PartHealth:
    started_s = monotonic_s()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await ask()
    except TimeoutError:
        return PartHealth(status=PartStatus.DOWN, error=f"no answer within {CHECK_TIMEOUT_S:g} s")
    except OutOfMemoryError:
        return PartHealth(status=PartStatus.FULL, error="its memory limit (maxmemory) is reached")
    except (StoreUnavailableError, RedisError, OSError) as error:
        if str(error).startswith(CANNOT_SAVE):
            return PartHealth(status=PartStatus.FULL, error=_first_sentence(error))
        return PartHealth(status=PartStatus.DOWN, error=type(error).__name__)
    return PartHealth(status=PartStatus.UP, latency_ms=round((monotonic_s() - started_s) * _MS, 2))


def _first_sentence(error: Exception) -> str:
    """Redis's own words, which name the disk's error and no data."""
    return str(error).removeprefix(CANNOT_SAVE).partition(". ")[0]


async def check_record(deps: Dependencies) -> PartHealth:
    """Whether PostgreSQL answers."""
    return await _check(deps.store.ping)


async def check_redis(redis: Redis) -> PartHealth:
    """Whether Redis answers and takes writes."""
    return await _check(redis.write)


def check_claude(deps: Dependencies) -> ClaudeHealth:
    """Whether runs can reach Claude; asks nobody."""
    if deps.anthropic.is_simulated:
        return ClaudeHealth(status=ClaudeStatus.SIMULATED)
    if deps.anthropic.is_configured:
        return ClaudeHealth(status=ClaudeStatus.CONFIGURED)
    return ClaudeHealth(status=ClaudeStatus.MISSING)


async def answer_in_time(answer: Awaitable[T]) -> T | None:
    """The record's answer, or None if it is away or takes too long."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await answer
    except (StoreUnavailableError, TimeoutError):
        return None


async def read_totals(store: RunStore) -> RunTotals | None:
    """The record in numbers, a few seconds old at most; None while it is away."""
    return await answer_in_time(store.get_totals())


async def read_limits(store: RunStore) -> list[CallLimits] | None:
    """Claude's limits as all workers share them; None while the record is away."""
    return await answer_in_time(store.list_call_limits())
