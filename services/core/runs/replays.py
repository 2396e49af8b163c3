"""Executing ended runs again: the same run, a new attempt, the past one kept."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.core.db import Database, Session, Statement
from services.core.errors import QueueFullError, RunNotFoundError, RunNotReplayableError
from services.core.pool import Row
from services.core.runs.acceptance import RunAcceptance
from services.core.runs.call_statements import forgetting
from services.core.runs.encoding import encode_json
from services.core.runs.models import DueHint, Json, shape_of
from services.core.runs.reading import STEPS_OF_RUN
from services.core.runs.replay_plan import PastStep, kept_steps
from services.core.runs.sql import statement
from services.core.runs.states import FailureReason

LOCK_RUN = statement(
    """
    SELECT id, pipeline, state IN :replay_sources AS is_replayable
      FROM runs
     WHERE id = :run_id AND key_id = :key_id
       FOR UPDATE
    """
)

# Failed only: who cancelled a run did not want it. In the order of ids, as every batch.
LOCK_FAILED_RUNS = statement(
    """
    SELECT id, pipeline
      FROM runs
     WHERE key_id = :key_id AND state = :run_failed AND finished_at < :before
       AND (CAST(:after AS uuid) IS NULL OR id > :after)
       AND pipeline = ANY (CAST(:pipelines AS text[]))
       AND (CAST(:ids AS uuid[]) IS NULL OR id = ANY (CAST(:ids AS uuid[])))
       AND (CAST(:reason AS text) IS NULL OR failure ->> 'reason' = :reason)
       AND (CAST(:batch_id AS uuid) IS NULL OR batch_id = :batch_id)
     ORDER BY id
     LIMIT CAST(:up_to AS bigint)
       FOR UPDATE
    """
)

READ_STEPS = statement(
    """
    SELECT run_id, name, state = :step_succeeded AS is_done
      FROM steps
     WHERE run_id = ANY (CAST(:run_ids AS uuid[]))
     ORDER BY run_id, position
    """
)

# Answers that are in the record are used, unless the replay is to begin earlier or anew.
FORGOTTEN = """
     USING item
     WHERE claude_calls.run_id = item.run_id
       AND (item.forgets_all OR claude_calls.state = :call_failed
            OR claude_calls.step <> ALL (item.step_names))
"""

# The runs are locked. A step that both attempts have goes on counting its tries and its cost.
REPLAY_RUNS = statement(
    f"""
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (
            run_id uuid, shape text, step_names text[], kept integer, input jsonb,
            budget_usd numeric, forgets_all boolean)),
    {forgetting(FORGOTTEN)},
    archived AS (
        INSERT INTO run_history (run_id, number, state, input, output, failure, steps,
                                 started_at, finished_at)
        SELECT runs.id, replays + 1, state, runs.input, output, failure,
               coalesce({STEPS_OF_RUN}, '[]'), started_at, finished_at
          FROM runs JOIN item ON runs.id = item.run_id),
    changed AS (
        UPDATE runs
           SET state = :replay_target, input = coalesce(item.input, runs.input),
               output = NULL, failure = NULL, started_at = NULL, finished_at = NULL,
               deadline_at = NULL, crashes = 0, lapses = 0,
               budget_usd = coalesce(item.budget_usd, runs.budget_usd), :free_calls_of_runs,
               -- Whatever else it failed of, it did not kill the process.
               is_isolated = is_isolated AND failure ->> 'reason' IS NOT DISTINCT FROM
                             :reason_crashed,
               replays = replays + 1, shape = item.shape, next_at = now(),
               -- A hint is sent right after this commit, as for a new run.
               hint_at = now() + make_interval(secs => CAST(:rehint_after_s AS double precision)),
               event_seq = event_seq + 1
          FROM item
         WHERE runs.id = item.run_id AND runs.state IN :replay_sources
     RETURNING runs.id, runs.event_seq, runs.replays, runs.is_isolated, step_names, kept),
    dropped AS (
        DELETE FROM steps USING changed
         WHERE steps.run_id = changed.id AND steps.name <> ALL (step_names)),
    planned AS (
        INSERT INTO steps (run_id, name, position, state)
        SELECT id, step.name, step.position, :step_pending
          FROM changed, unnest(step_names) WITH ORDINALITY AS step (name, position)
         WHERE step.position > kept
            ON CONFLICT (run_id, name) DO UPDATE
           SET position = excluded.position, state = excluded.state, failures = 0,
               started_at = NULL, finished_at = NULL, error = NULL, output = NULL),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT id, event_seq, :event_run_queued,
               jsonb_build_object('replay', replays, 'from_step', step_names[kept + 1])
          FROM changed)
    SELECT id, is_isolated FROM changed ORDER BY id
    """  # noqa: S608 - constants of this module and of services.core.runs.reading
)

NOW = statement("SELECT now() AS at")
BATCH = 100
"""Runs replayed in one transaction: each copies its outputs, which may be long, into the history."""


@dataclass(frozen=True, slots=True)
class FailedRuns:
    """Which failed runs are meant: those that fit everything that is given."""

    ids: Sequence[UUID] | None = None
    pipeline: str | None = None
    reason: FailureReason | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    """How a run is to be replayed."""

    step_names: tuple[str, ...]
    from_step: str | None = None
    input: Json | None = None
    budget_usd: Decimal | None = None


class RunReplays:
    """Replays runs. RunStore says what each method promises."""

    def __init__(
        self, database: Database, acceptance: RunAcceptance, *, rehint_after_s: float
    ) -> None:
        """Take what replaying needs.

        Args:
            database: Where the runs are.
            acceptance: Knows how deep the queue is.
            rehint_after_s: Seconds after which a due run without a taker is hinted again.
        """
        self._database = database
        self._acceptance = acceptance
        self._rehint_after_s = rehint_after_s

    async def replay_run(
        self,
        key_id: UUID,
        run_id: UUID,
        *,
        step_names: tuple[str, ...],
        from_step: str | None,
        input: Json | None,  # noqa: A002 - the record's word
        budget_usd: Decimal | None,
    ) -> None:
        """Replay one run."""
        await self._acceptance.refuse_if_full()
        wish = _Wish(step_names, from_step, input, budget_usd)
        async with self._database.transaction() as session:
            found = await session.fetch(LOCK_RUN, {"key_id": key_id, "run_id": run_id})
            if not found:
                raise RunNotFoundError
            [run] = found
            if not run.is_replayable:
                raise RunNotReplayableError
            await self._replay(session, {run.id: (run.pipeline, wish)})
        self._acceptance.count_queued(1)

    async def replay_failed_runs(
        self,
        key_id: UUID,
        which: FailedRuns,
        *,
        shapes: Mapping[str, tuple[str, ...]],
    ) -> list[DueHint]:
        """Replay failed runs, batch after batch; what to hint."""
        began = (await self._database.fetch(NOW))[0].at
        wanted: dict[str, Any] = {
            "key_id": key_id,
            "before": began,
            "after": None,
            "ids": None if which.ids is None else list(which.ids),
            "pipelines": [name for name in shapes if which.pipeline in {None, name}],
            "reason": which.reason,
            "batch_id": which.batch_id,
            "up_to": BATCH,
        }
        wishes = {name: _Wish(step_names) for name, step_names in shapes.items()}
        hints: list[DueHint] = []
        while True:
            try:
                await self._acceptance.refuse_if_full()
            except QueueFullError:
                if not hints:
                    raise
                return hints
            replayed = await self._replay_batch(LOCK_FAILED_RUNS, wanted, wishes)
            hints += [DueHint(row.id, is_isolated=row.is_isolated) for row in replayed]
            self._acceptance.count_queued(len(replayed))
            if len(replayed) < BATCH:
                return hints
            wanted["after"] = replayed[-1].id

    async def _replay_batch(
        self, lock: Statement, wanted: Mapping[str, Any], wishes: Mapping[str, _Wish]
    ) -> Sequence[Row]:
        """Replay the next of the wanted runs."""
        async with self._database.transaction() as session:
            runs = await session.fetch(lock, wanted)
            if not runs:
                return ()
            return await self._replay(
                session, {run.id: (run.pipeline, wishes[run.pipeline]) for run in runs}
            )

    async def _replay(
        self, session: Session, wishes: Mapping[UUID, tuple[str, _Wish]]
    ) -> Sequence[Row]:
        """Replay runs that are locked."""
        read = await session.fetch(READ_STEPS, {"run_ids": list(wishes)})
        past: dict[UUID, list[PastStep]] = defaultdict(list)
        for step in read:
            past[step.run_id].append(PastStep(step.name, step.is_done))
        items = [
            _item(run_id, pipeline, wish, past[run_id])
            for run_id, (pipeline, wish) in wishes.items()
        ]
        return await session.fetch(
            REPLAY_RUNS, {"items": encode_json(items), "rehint_after_s": self._rehint_after_s}
        )


def _item(run_id: UUID, pipeline: str, wish: _Wish, past: Sequence[PastStep]) -> Json:
    """A run as an item of REPLAY_RUNS."""
    kept = kept_steps(
        past, wish.step_names, from_step=wish.from_step, has_input=wish.input is not None
    )
    return {
        "run_id": run_id,
        "shape": shape_of(pipeline, wish.step_names),
        "step_names": wish.step_names,
        "kept": kept,
        "input": wish.input,
        "budget_usd": wish.budget_usd,
        "forgets_all": wish.from_step is not None or wish.input is not None,
    }
