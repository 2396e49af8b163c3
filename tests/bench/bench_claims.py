"""What a claim costs, by the depth of the queue: `python -m tests.bench.bench_claims [ROWS]`, under a minute.

Beside the statement that claims now, the one of before, which knew no keys: first by priority, then
by age. Exit status 1 if a claim takes more than twice as long with a hundred times the backlog.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from config.postgres import PostgresSettings
from services.core.db import create_engine
from services.core.runs.sql import statement
from services.core.runs.store import RunStore
from services.migrate.__main__ import prepare
from tests.integration import servers

SHALLOW, DEEP = 1_000, 100_000
KEYS = (1, 500)
LIMITS = (1, 10, 100)
CLAIMS = 9
MAX_RATIO = 2.0
SHAPE = "p:a"

ADD_KEYS = text(
    """
    INSERT INTO api_keys (id, prefix, name, key_hash)
    SELECT gen_random_uuid(), 'bench' || n, 'k', '' FROM generate_series(1, :keys) AS n
    """
)
FILL = text(
    """
    INSERT INTO runs (id, key_id, pipeline, state, input, metadata, priority, shape, next_at)
    SELECT gen_random_uuid(), ids[1 + n % :keys], 'p', 'queued', '{}', '{}', n % 3, :shape,
           now() - make_interval(secs => n / 100.0)
      FROM (SELECT array_agg(id) AS ids FROM api_keys) AS k, generate_series(1, :rows) AS n
    """
)
SET_LIMITS = text("UPDATE api_keys SET max_running = :max_running")
CLAIM_BY_PRIORITY = statement(
    """
    WITH due AS (
        SELECT id, started_at IS NULL AS is_first FROM runs
         WHERE state IN :claim_sources AND next_at <= now()
           AND (shape IS NULL OR shape = ANY (CAST(:shapes AS text[])))
           AND (deadline_at IS NULL OR deadline_at > now())
           AND NOT is_isolated
         ORDER BY priority DESC, next_at
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE runs
           SET state = :claim_target, fence = fence + 1, attempts = attempts + 1, lease_owner = 'w',
               lease_until = now() + interval '30 s', started_at = coalesce(started_at, now()),
               deadline_at = coalesce(deadline_at, now() + interval '1 day'),
               event_seq = event_seq + CASE WHEN is_first THEN 1 ELSE 0 END
          FROM due
         WHERE runs.id = due.id
     RETURNING runs.*, is_first),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT id, event_seq, :event_run_started, '{}' FROM claimed WHERE is_first)
    SELECT id FROM claimed ORDER BY priority DESC, next_at
    """
)
READ_STEPS = text("SELECT * FROM steps WHERE run_id = ANY (CAST(:ids AS uuid[]))")

Claim = Callable[[int], Awaitable[int]]
"""Takes up to so many runs; how many."""


def main() -> int:
    """Measure, and print a line each."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else DEEP
    start = servers.postgres_container if servers.uses_containers() else servers.embedded_postgres
    with start() as settings:
        return asyncio.run(measure(settings.model_copy(update={"statement_timeout_s": 120}), rows))


async def measure(settings: PostgresSettings, deep: int) -> int:
    """All that is to be measured; 1 if a claim grows with the backlog."""
    await prepare(settings, None)
    engine = create_engine(settings)
    store = RunStore(
        create_engine(settings),
        lease_ttl_s=30,
        max_crashes=3,
        rehint_after_s=10,
        max_queued_runs=1,
        timeout_s=120,
    )

    async def fairly(limit: int) -> int:
        return len(await store.claim_due_runs(owner="w", limit=limit, shapes=[SHAPE]))

    async def by_priority(limit: int) -> int:
        async with engine.begin() as connection:
            parameters = {"up_to": limit, "shapes": [SHAPE]}
            ids = (await connection.execute(CLAIM_BY_PRIORITY, parameters)).scalars().all()
            if ids:
                await connection.execute(READ_STEPS, {"ids": ids})
            return len(ids)

    claims: dict[str, Claim] = {"before": by_priority, "now": fairly}
    worst = 0.0
    for keys in KEYS:
        times_ms: dict[tuple[str, int, int], float] = {}
        for rows in (SHALLOW, deep):
            await refill(engine, keys=keys, rows=rows)
            for limit in LIMITS:
                for name, claim in claims.items():
                    times_ms[name, limit, rows] = await time_claims(claim, limit)
        worst = max(worst, *show(keys, times_ms, deep))
    await measure_limits(engine, fairly)
    await measure_empty(engine, claims)
    await measure_head(engine, fairly)
    await store.close()
    await engine.dispose()
    return int(worst > MAX_RATIO)


def show(keys: int, times_ms: dict[tuple[str, int, int], float], deep: int) -> list[float]:
    """A line for each size of claim; how often longer the deep queue takes now."""
    ratios = []
    for limit in LIMITS:
        line = f"{keys:>3} keys, claims of {limit:>3}:"
        for name in ("before", "now"):
            shallow_ms, deep_ms = times_ms[name, limit, SHALLOW], times_ms[name, limit, deep]
            line += (
                f"  {name} {shallow_ms:5.1f} ms -> {deep_ms:5.1f} ms (x{deep_ms / shallow_ms:.2f})"
            )
        ratios.append(times_ms["now", limit, deep] / times_ms["now", limit, SHALLOW])
        report(f"{line}, {limit / times_ms['now', limit, deep] * 1000:5.0f} runs/s")
    return ratios


async def measure_limits(engine: AsyncEngine, claim: Claim) -> None:
    """The same with a limit on each key."""
    await refill(engine, keys=500, rows=10_000)
    async with engine.begin() as connection:
        await connection.execute(SET_LIMITS, {"max_running": 5})
    for limit in LIMITS:
        report(
            f"500 keys, all limited, claims of {limit:>3}: {await time_claims(claim, limit):.1f} ms"
        )


async def measure_empty(engine: AsyncEngine, claims: dict[str, Claim]) -> None:
    """What it costs to find nothing."""
    await refill(engine, keys=500, rows=0)
    for name, claim in claims.items():
        report(f"nothing to claim, {name}: {await time_claims(claim, 10, count=50):.2f} ms")


async def measure_head(engine: AsyncEngine, claim: Claim) -> None:
    """A queue of which nothing is vacuumed: what is claimed stays at its head in the index."""
    await refill(engine, keys=1, rows=40_000)
    begun_ms = await time_claims(claim, 100)
    while_claimed = 2 * CLAIMS * 100
    while while_claimed < 30_000:
        while_claimed += await claim(1000)
    ended_ms = await time_claims(claim, 100)
    report(
        f"claims of 100, {while_claimed} dead entries before them: {begun_ms:.1f} -> {ended_ms:.1f} ms"
    )


async def refill(engine: AsyncEngine, *, keys: int, rows: int) -> None:
    """So many runs of so many keys, and statistics as autovacuum would keep them."""
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE api_keys CASCADE"))
        await connection.execute(text("ALTER TABLE runs SET (autovacuum_enabled = off)"))
        await connection.execute(ADD_KEYS, {"keys": keys})
        await connection.execute(FILL, {"keys": keys, "rows": rows, "shape": SHAPE})
        await connection.execute(text("ANALYZE runs, api_keys"))


async def time_claims(claim: Claim, limit: int, *, count: int = CLAIMS) -> float:
    """Milliseconds of a claim: the median of some."""
    await claim(limit)
    times_ms = []
    for _ in range(count):
        begun_s = time.perf_counter()
        await claim(limit)
        times_ms.append((time.perf_counter() - begun_s) * 1000)
    return median(times_ms)


def report(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
