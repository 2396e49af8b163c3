"""Claiming while many runs are in the record, queued or ended."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from config.postgres import PostgresSettings
from services.core.pool import Pool
from services.core.runs.store import RunStore
from services.migrate.__main__ import prepare
from services.migrate.engine import create_engine
from tests.bench.benchmark import Benchmark, Goal, Rounds
from tests.integration import servers

ROWS = (1_000, 100_000, 1_000_000)
CLAIM_SIZE = 100
KEYS = 500
UNTIMED_CLAIMS = KEYS // CLAIM_SIZE
"""So that each key has had a turn. The first run that is claimed of a key finds pages of the tables and indexes
that nobody has read since the fill, nor changed since its checkpoint, so that they go to the log as a
whole. There are a few of them in a small record, and the first claim has seen them all; in a deep one
there are some for each key."""
CLAIMS = 5
"""Timed for each record: with those before no more than the smallest queue holds."""
FILL_TIMEOUT_S = 600
SHAPE = "p:a"

ADD_KEYS = text(
    """
    INSERT INTO api_keys (id, prefix, name, key_hash)
    SELECT gen_random_uuid(), 'bench' || n, 'k', '' FROM generate_series(1, :keys) AS n
    """
)
# Ids that grow with time, as those of UUID version 7 do.
ADD_RUNS = text(
    """
    WITH added AS (
        INSERT INTO runs (id, key_id, pipeline, state, input, metadata, priority, shape, next_at,
                          started_at, finished_at)
        SELECT CAST(CASE WHEN :is_ended THEN '0' ELSE 'f' END || lpad(to_hex(n), 11, '0')
                    || substr(md5(CAST(n AS text)), 1, 20) AS uuid),
               ids[1 + n % :keys], 'p', :state, '{}', '{}', n % 3, :shape,
               now() - make_interval(secs => (:rows - n) / 100.0),
               CASE WHEN :is_ended THEN now() END, CASE WHEN :is_ended THEN now() END
          FROM (SELECT array_agg(id) AS ids FROM api_keys) AS k, generate_series(1, :rows) AS n
     RETURNING id, state)
    INSERT INTO steps (run_id, name, position, state)
    SELECT id, 'a', 0, CASE state WHEN 'queued' THEN 'pending' ELSE 'succeeded' END FROM added
    """
)


@dataclass(frozen=True, slots=True)
class Filling:
    """What is in a record."""

    name: str
    keys: int
    rows: int
    is_ended: bool = False
    """All but as many as the smallest record holds have ended."""

    @property
    def database(self) -> str:
        """Its database."""
        return f"{self.name}_{self.rows}"

    @property
    def value(self) -> str:
        """The name of what is measured."""
        return f"{self.name.replace('_', ' ')}, {self.rows:,} rows"


FILLINGS = tuple(
    filling
    for rows in ROWS
    for filling in (
        Filling("queued_of_1_key", 1, rows),
        Filling("queued_of_500_keys", KEYS, rows),
        Filling("ended_of_500_keys", KEYS, rows, is_ended=True),
    )
)


def claim_from_all() -> Mapping[str, float]:
    """Runs claimed per second from each record, in turns, so that all meet the same machine."""
    start = servers.postgres_container if servers.uses_containers() else servers.embedded_postgres
    with start(is_durable=True) as settings:
        return asyncio.run(_measure(settings))


async def _measure(settings: PostgresSettings) -> Mapping[str, float]:
    patient = settings.model_copy(update={"statement_timeout_s": FILL_TIMEOUT_S})
    server = create_engine(patient)
    stores = {}
    for filling in FILLINGS:
        async with server.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {filling.database}"))
        own = patient.model_copy(update={"db": filling.database})
        await prepare(own, None)
        engine = create_engine(own)
        await _fill(engine, filling)
        await engine.dispose()
        stores[filling] = _store(own)
    times_s: dict[Filling, list[float]] = {filling: [] for filling in FILLINGS}
    for _ in range(UNTIMED_CLAIMS + CLAIMS):
        for filling, store in stores.items():
            times_s[filling].append(await _time_claim(store))
    for store in stores.values():
        await store.close()
    await server.dispose()
    return {
        filling.value: CLAIM_SIZE / median(times[UNTIMED_CLAIMS:])
        for filling, times in times_s.items()
    }


async def _fill(engine: AsyncEngine, filling: Filling) -> None:
    """Fill a record, as autovacuum leaves one that is not changed any more."""
    queued = ROWS[0] if filling.is_ended else filling.rows
    async with engine.begin() as connection:
        await connection.execute(ADD_KEYS, {"keys": filling.keys})
        for rows, is_ended in ((filling.rows - queued, True), (queued, False)):
            parameters = {"keys": filling.keys, "rows": rows, "shape": SHAPE, "is_ended": is_ended}
            state = "succeeded" if is_ended else "queued"
            await connection.execute(ADD_RUNS, {**parameters, "state": state})
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM (ANALYZE) runs, steps, api_keys"))
        await connection.execute(text("CHECKPOINT"))


def _store(settings: PostgresSettings) -> RunStore:
    return RunStore(
        Pool(settings),
        lease_ttl_s=30,
        max_crashes=3,
        rehint_after_s=10,
        max_queued_runs=1,
        timeout_s=120,
    )


async def _time_claim(store: RunStore) -> float:
    """Seconds of one claim, with the start of each run's first step and the commit."""
    begun_s = time.perf_counter()
    leases = await store.claim_due_runs(owner="w", limit=CLAIM_SIZE, shapes=[SHAPE])
    assert len(leases) == CLAIM_SIZE
    assert all(lease.started_attempt == 1 for lease in leases)
    return time.perf_counter() - begun_s


def _spread(rounds: Rounds) -> float:
    """Percent by which the slowest record of a kind is slower than its fastest, at worst."""
    spreads = []
    for name in dict.fromkeys(filling.name for filling in FILLINGS):
        rates = [
            median(values[filling.value] for values in rounds["Penstock"])
            for filling in FILLINGS
            if filling.name == name
        ]
        spreads.append((max(rates) / min(rates) - 1) * 100)
    return max(spreads)


BENCHMARK = Benchmark(
    name="backlog",
    title="Claiming from a deep record",
    what="One worker process claims 100 runs at a time, each with the start of its first step, from records "
    "of a thousand to a million runs: all queued, of one key and of 500, and all but a thousand ended. Each "
    "key has had a turn before.",
    units={filling.value: "runs/s" for filling in FILLINGS},
    subjects={"Penstock": claim_from_all},
    goals=(
        Goal(
            name="Claim rate with 1,000, 100,000 and 1,000,000 runs in the record: difference",
            bound=20,
            unit="%",
            is_at_most=True,
            of=_spread,
        ),
    ),
)
