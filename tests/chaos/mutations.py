"""Penstock with one of its safeguards off: what the chaos suite must notice."""

from dataclasses import dataclass

STATEMENTS = "services/core/runs/statements.py"
CLAIMS = "services/core/runs/claims.py"
SWEEPS = "services/core/runs/sweeps.py"
ACCEPTANCE = "services/core/runs/acceptance.py"


@dataclass(frozen=True, slots=True)
class Change:
    """A text of a file to be replaced; it must be there exactly once."""

    path: str
    old: str
    new: str


NO_FENCE = (
    Change(
        STATEMENTS,
        "FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence\n",
        "FROM runs JOIN item ON runs.id = item.run_id\n",
    ),
    Change(
        CLAIMS,
        "    SELECT runs.id\n"
        "      FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence\n",
        "    SELECT runs.id\n      FROM runs JOIN item ON runs.id = item.run_id\n",
    ),
    Change(
        CLAIMS,
        "        SELECT runs.id\n"
        "          FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence\n",
        "        SELECT runs.id\n          FROM runs JOIN item ON runs.id = item.run_id\n",
    ),
)
"""Whoever held a run once goes on writing to it, and renews a lease that is another's."""
NO_SWEEP = (
    Change(
        "services/worker/sweepers.py",
        "requeued = await store.requeue_lapsed_runs(limit=SWEEP_BATCH)",
        "requeued = 0",
    ),
    Change(
        "services/api/sweeper.py",
        "            await self.store.requeue_lapsed_runs()\n",
        "",
    ),
)
"""Neither beat nor the API takes a run back whose lease has lapsed."""
NO_GRACE = (
    Change(
        SWEEPS,
        "         WHERE state IN :lapse_sources AND lease_until < now()\n"
        "           AND greatest(pg_postmaster_start_time(), (SELECT steady_since FROM clock))\n"
        "               < now() - make_interval(secs => CAST(:ttl_s AS double precision))\n",
        "         WHERE state IN :lapse_sources AND lease_until < now()\n"
        "           AND CAST(:ttl_s AS double precision) > 0\n",
    ),
)
"""When PostgreSQL comes back, whoever could not renew a lease meanwhile has lost it."""
NO_COMMIT = (
    Change(
        ACCEPTANCE,
        "        row = await self._batcher.submit(run_id, _encode(run_id, new))\n"
        "        if row is not None:\n",
        "        submitted = asyncio.create_task(self._batcher.submit(run_id, _encode(run_id, new)))\n"
        "        submitted.add_done_callback(lambda task: task.cancelled() or task.exception())\n"
        "        if submitted:\n"
        "            self._depth.count(1)\n"
        "            return Accepted(run_id, datetime.now().astimezone())\n"
        "        row = await submitted\n"
        "        if row is not None:\n",
    ),
)
"""A run is accepted as soon as its commit is on its way."""
MUTATIONS = {"fence": NO_FENCE, "sweep": NO_SWEEP, "grace": NO_GRACE, "commit": NO_COMMIT}
"""The safeguard that is off, and what must change for that."""
