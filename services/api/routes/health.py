"""Whether the process lives, can serve, and how every part is. Open to all, since machines ask."""

import asyncio
from typing import Final

from fastapi import APIRouter, Request

from services import __version__
from services.api.checks import (
    answer_in_time,
    check_claude,
    check_record,
    check_redis,
    read_limits,
    read_totals,
)
from services.api.dependencies import Dependencies, Deps
from services.api.errors import NOT_READY, NotReadyError
from services.api.health_schemas import (
    ClaudeLimitsHealth,
    ClaudeStatus,
    Health,
    HealthStatus,
    HeartbeatHealth,
    Liveness,
    PartHealth,
    PartStatus,
    QueueHealth,
    Readiness,
)
from services.api.openapi import problems
from services.core.runs.states import RunState

FRESH_S: Final = 45.0
"""Age up to which a heartbeat counts as a sign of life; liveness checks of workers use the same."""
NEEDED_KINDS: Final = frozenset({"worker", "worker-isolated", "beat"})

DISK_IS_FULL: Final = "its disk is full: it refused a write within the last minute"

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="getLiveness")
async def get_liveness() -> Liveness:
    """Tell that this process runs."""
    return Liveness()


@router.get("/readyz", operation_id="getReadiness", responses=problems(NOT_READY))
async def get_readiness(deps: Deps) -> Readiness:
    """Tell whether this process can serve: the record answers and, outside development, Claude is configured."""
    reasons = []
    record = await check_record(deps)
    if record.status is PartStatus.DOWN:
        reasons.append(f"PostgreSQL is away ({record.error})")
    if not deps.is_development and check_claude(deps).status is ClaudeStatus.MISSING:
        reasons.append("Claude is not configured: set ANTHROPIC_API_KEY")
    if reasons:
        raise NotReadyError("; ".join(reasons))
    return Readiness()


@router.get("/health", operation_id="getHealth")
async def get_health(request: Request, deps: Deps) -> Health:
    """Show every part, with ages. Always 200: read `status`."""
    postgres, redis, queue, heartbeats, limits = await asyncio.gather(
        check_record(deps),
        check_redis(deps.redis),
        _read_queue(deps),
        _read_heartbeats(deps),
        _read_limits(deps),
    )
    if postgres.status is PartStatus.UP and request.app.state.full_disk.is_recent:
        postgres = PartHealth(status=PartStatus.FULL, error=DISK_IS_FULL)
    claude = check_claude(deps)
    is_ok = (
        _are_up(postgres, redis)
        and claude.status is not ClaudeStatus.MISSING
        and not (queue and queue.unclaimable_runs)
        and {beat.kind for beat in heartbeats if beat.age_s <= FRESH_S} >= NEEDED_KINDS
    )
    return Health(
        status=HealthStatus.OK if is_ok else HealthStatus.DEGRADED,
        version=__version__,
        environment=deps.environment,
        postgres=postgres,
        redis=redis,
        claude=claude,
        claude_limits=limits,
        queue=queue,
        heartbeats=heartbeats,
    )


def _are_up(*parts: PartHealth) -> bool:
    return all(part.status is PartStatus.UP for part in parts)


async def _read_queue(deps: Dependencies) -> QueueHealth | None:
    totals = await read_totals(deps.store)
    if totals is None:
        return None
    return QueueHealth(
        depth=totals.runs_by_state[RunState.QUEUED],
        due_runs=totals.due_runs,
        unclaimable_runs=totals.unclaimable_runs,
        oldest_due_age_s=totals.oldest_due_age_s,
    )


async def _read_heartbeats(deps: Dependencies) -> list[HeartbeatHealth]:
    beats = await answer_in_time(deps.store.list_heartbeats())
    return [HeartbeatHealth.model_validate(beat) for beat in beats or ()]


async def _read_limits(deps: Dependencies) -> list[ClaudeLimitsHealth]:
    limits = await read_limits(deps.store)
    return [ClaudeLimitsHealth.model_validate(each) for each in limits or ()]
