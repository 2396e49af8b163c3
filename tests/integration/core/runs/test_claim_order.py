"""Whatever waits: claims come in the order of a model that is easy to read."""

from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.runs import claims
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.core.runs.pieces import SHAPES

INSERT_KEY = text(
    """
    INSERT INTO api_keys (id, prefix, name, key_hash, max_running)
    VALUES (:id, :prefix, 'k', '', :max_running)
    """
)
INSERT_RUN = text(
    """
    INSERT INTO runs (id, key_id, pipeline, state, input, metadata, priority, shape, next_at,
                      is_isolated, deadline_at, lease_until)
    VALUES (:id, :key_id, 'a', :state, '{}', '{}', :priority, :shape,
            now() - make_interval(secs => CAST(:due_s AS double precision)), :is_isolated,
            CASE WHEN :is_overdue THEN now() - interval '1 s' END, now() + interval '1 h')
    """
)


@dataclass(frozen=True)
class Waiting:
    """A queued run."""

    id: UUID
    priority: int
    due_s: int
    """Seconds since it is due; no two are alike."""
    shape: str | None
    is_isolated: bool
    is_overdue: bool

    @property
    def is_fit(self) -> bool:
        """Whether the claimer may have it now."""
        is_known = self.shape is None or self.shape in SHAPES
        return self.due_s >= 0 and is_known and not self.is_isolated and not self.is_overdue


@dataclass
class Key:
    """A key, and what it has queued."""

    id: UUID
    running: int
    max_running: int | None
    queue: list[Waiting]

    def turns(self) -> list[tuple[int, int, UUID]]:
        """Its runs as they compete with those of other keys: place, age, run."""
        fit = sorted((w for w in self.queue if w.is_fit), key=lambda w: (-w.priority, -w.due_s))
        if self.max_running is not None:
            fit = fit[: max(0, self.max_running - self.running)]
        return [(self.running + n, -w.due_s, w.id) for n, w in enumerate(fit, start=1)]

    def take(self, run_ids: set[UUID]) -> None:
        """Let runs run."""
        left = [waiting for waiting in self.queue if waiting.id not in run_ids]
        self.running += len(self.queue) - len(left)
        self.queue = left


@st.composite
def records(draw: st.DrawFn) -> list[Key]:
    """A few keys that have runs of all kinds."""
    ages = iter(draw(st.permutations(range(-10, 50))))
    waiting = st.builds(
        Waiting,
        id=st.builds(uuid4),
        priority=st.integers(-2, 2),
        due_s=st.builds(lambda: next(ages)),
        shape=st.sampled_from([None, SHAPES[0], SHAPES[0], SHAPES[1], "other:step"]),
        is_isolated=st.sampled_from([False] * 5 + [True]),
        is_overdue=st.sampled_from([False] * 5 + [True]),
    )
    keys = st.builds(
        Key,
        id=st.builds(uuid4),
        running=st.integers(0, 4),
        max_running=st.sampled_from([None, None, 0, 1, 3, 6]),
        queue=st.lists(waiting, max_size=12),
    )
    return draw(st.lists(keys, min_size=1, max_size=5))


async def put(database: PostgresSettings, keys: list[Key]) -> None:
    """Make the record what the model says."""
    engine = create_engine(database)
    running = {"due_s": 0, "priority": 0, "shape": None, "is_isolated": False, "is_overdue": False}
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE runs, api_keys, steps, events CASCADE"))
        for key in keys:
            await connection.execute(
                INSERT_KEY, {"id": key.id, "prefix": str(key.id), "max_running": key.max_running}
            )
            rows = [vars(waiting) | {"state": "queued"} for waiting in key.queue]
            rows += [running | {"id": uuid4(), "state": "running"} for _ in range(key.running)]
            for row in rows:
                await connection.execute(INSERT_RUN, row | {"key_id": key.id})
    await engine.dispose()


many_records = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@many_records
@given(keys=records(), limit=st.integers(1, 12))
async def test_claims_come_as_the_model_says(
    store: RunStore, fresh_database: PostgresSettings, keys: list[Key], limit: int
) -> None:
    """Priorities, limits, shapes, deadlines, suspects and keys in any mixture, until none is left."""
    await put(fresh_database, keys)

    while True:
        expected = [run for *_, run in sorted(turn for key in keys for turn in key.turns())][:limit]
        leases = await store.claim_due_runs(owner="w", limit=limit, shapes=SHAPES)

        assert expected == [lease.run_id for lease in leases]
        if not expected:
            break
        for key in keys:
            key.take(set(expected))


@many_records
@given(keys=records(), limit=st.integers(1, 4))
async def test_claims_that_look_at_few_keys_lack_nothing(
    store: RunStore, fresh_database: PostgresSettings, keys: list[Key], limit: int
) -> None:
    """Each is as full as can be, and takes what is first within each key."""
    await put(fresh_database, keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "KEYS_LOOKED_AT", 1)
        while turns := {key.id: [run for *_, run in key.turns()] for key in keys if key.turns()}:
            leases = await store.claim_due_runs(owner="w", limit=limit, shapes=SHAPES)
            taken = {lease.run_id for lease in leases}

            assert min(limit, sum(map(len, turns.values()))) == len(leases)
            for key in keys:
                runs = [lease.run_id for lease in leases if lease.key_id == key.id]
                assert turns.get(key.id, [])[: len(runs)] == runs
                key.take(taken)
        assert [] == await store.claim_due_runs(owner="w", limit=limit, shapes=SHAPES)
