"""Taking runs to execute, and holding on to them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from uuid import UUID

from services.core.db import Database, Session
from services.core.errors import PenstockError, StoreUnavailableError
from services.core.pool import Row
from services.core.runs.claim_statements import (
    CLAIM_DUE_RUNS,
    CLAIM_ISOLATED_RUN,
    LOCK_KEY_OF_RUN,
    LOCK_LIMITED_KEYS,
    NO_KEY,
)
from services.core.runs.encoding import encode_json
from services.core.runs.models import Json, Lease, PastCall, steps_of
from services.core.runs.sql import statement
from services.core.runs.states import CallState, RunMode

SPARE = 10
"""So many more runs are chosen than are wanted: others may be taking the same ones."""
KEYS_LOOKED_AT = 100
"""A claim looks at so many keys, or at as many as runs are wanted; the next one goes on behind them."""
TURNS = 4
PAUSE_S = 0.01
"""Others may have taken more than that, or hold a limited key: they are done after milliseconds. Each
turn chooses more."""

# A statement of its own, after the claim: its snapshot is younger than the lease, so that it sees
# every checkpoint that an earlier holder committed.
READ_STEPS = statement(
    """
    SELECT run_id, name, position, failures, state = :step_succeeded AS is_done, output
      FROM steps WHERE run_id = ANY (CAST(:run_ids AS uuid[]))
    """
)

# Only of steps without a checkpoint: a checkpoint deletes the calls of its step.
READ_CALLS = statement(
    """
    SELECT run_id, step, question, number, state, answer, reservation
      FROM claude_calls WHERE run_id = ANY (CAST(:run_ids AS uuid[]))
    """
)

FIND_HELD = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (run_id uuid, fence bigint))
    SELECT runs.id
      FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence
     WHERE runs.state IN :checkpoint_sources
    """
)

RENEW_LEASES = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (run_id uuid, fence bigint)),
    held AS (
        SELECT runs.id
          FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence
         WHERE runs.state IN :checkpoint_sources
         ORDER BY runs.id
           FOR UPDATE OF runs)
    UPDATE runs
       SET lease_until = now() + make_interval(secs => CAST(:ttl_s AS double precision))
      FROM held
     WHERE runs.id = held.id
 RETURNING runs.id
    """
)


class RunClaims:
    """Takes runs and renews leases. RunStore says what each method promises."""

    def __init__(
        self,
        database: Database,
        *,
        claiming: Database,
        lease_ttl_s: float,
        run_timeout_s: float,
        release: Callable[[Lease], Awaitable[None]],
    ) -> None:
        """Take what claiming needs.

        Args:
            database: Where the runs are.
            claiming: The same, by connections with CLAIM_OPTIONS.
            lease_ttl_s: Seconds until a silent worker loses its runs.
            run_timeout_s: Seconds from the first claim of an attempt to its deadline.
            release: Gives back what was claimed for a caller that has gone meanwhile.
        """
        self._database = database
        self._claiming = claiming
        self._has_limits = False
        """Whether any key has a limit, as the last claim has seen it."""
        self._last_key = NO_KEY
        """The last key that the last claim looked at. Any other would do: claims go in a circle."""
        self._lease_ttl_s = lease_ttl_s
        self._run_timeout_s = run_timeout_s
        self._release = release

    async def claim_due_runs(
        self, *, owner: str, limit: int, shapes: Collection[str]
    ) -> list[Lease]:
        """Take up to `limit` due runs."""
        return await self._unless_cancelled(
            self._claim_in_turns(owner=owner, limit=limit, shapes=list(shapes))
        )

    async def claim_isolated_run(
        self, run_id: UUID, *, owner: str, shapes: Collection[str]
    ) -> Lease | None:
        """Take one suspect run."""
        leases = await self._unless_cancelled(
            self._claim_isolated(run_id, owner=owner, shapes=list(shapes))
        )
        return leases[0] if leases else None

    async def find_held(self, leases: Collection[Lease]) -> set[UUID]:
        """The ids of leases that hold."""
        if not leases:
            return set()
        rows = await self._database.fetch(FIND_HELD, {"items": _items(leases)})
        return {row.id for row in rows}

    async def renew_leases(self, leases: Collection[Lease]) -> set[UUID]:
        """Renew leases; the ids that still hold."""
        if not leases:
            return set()
        rows = await self._database.fetch(
            RENEW_LEASES, {"items": _items(leases), "ttl_s": self._lease_ttl_s}
        )
        return {row.id for row in rows}

    async def _unless_cancelled(self, claim: Coroutine[Any, Any, list[Lease]]) -> list[Lease]:
        """Claim; a caller that is cancelled meanwhile leaves no run behind that nobody executes."""
        claiming = asyncio.create_task(claim)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(PenstockError):  # else the lease lapses, as that of a dead worker does
                for lease in await claiming:
                    await self._release(lease)
            raise

    async def _claim_in_turns(
        self, *, owner: str, limit: int, shapes: Collection[str]
    ) -> list[Lease]:
        """Claim; once more, after a moment, if others were just taking what there was."""
        leases: list[Lease] = []
        for turn in range(TURNS):
            try:
                more, is_contended = await self._claim_due(
                    owner=owner,
                    limit=limit - len(leases),
                    spare=SPARE + turn * limit,
                    shapes=shapes,
                )
            except StoreUnavailableError:
                if not leases:
                    raise
                break  # what is claimed is executed
            leases += more
            if not is_contended:
                break
            await asyncio.sleep(PAUSE_S * (turn + random.random()))  # noqa: S311 - no secret
        return leases

    async def _claim_due(
        self, *, owner: str, limit: int, spare: int, shapes: Collection[str]
    ) -> tuple[list[Lease], bool]:
        """Claim due runs; whether there were more that others were just taking.

        Without limits it is one statement, and one round trip: while others wait for the event loop
        in between, the next runs come no sooner than those before have left it.
        """
        claim = {
            "up_to": limit,
            "choose": limit + spare,
            "after": self._last_key,
            "look_at": max(limit, KEYS_LOOKED_AT),
            **self._claimed(owner, shapes),
        }
        if not self._has_limits:
            uncounted = {**claim, "is_counted": False, "max_running": "{}"}
            rows = await self._claiming.fetch(CLAIM_DUE_RUNS, uncounted)
            self._remember(rows[0])
            if not self._has_limits:
                # Without an answer here they lapse, as those of a dead worker do.
                leases = await _read(self._claiming, rows)
                return leases, len(leases) < limit and rows[0].candidates > len(leases)
        async with self._claiming.transaction() as session:
            limits = await session.fetch(LOCK_LIMITED_KEYS, {"up_to": limit, "shapes": shapes})
            max_running = encode_json({str(row.id): row.max_running for row in limits})
            counted = {**claim, "is_counted": True, "max_running": max_running}
            rows = await session.fetch(CLAIM_DUE_RUNS, counted)
            leases = await _read(session, rows)
        self._remember(rows[0])
        was_passed_over = rows[0].candidates > len(leases) or any(row.is_left_out for row in limits)
        return leases, len(leases) < limit and was_passed_over

    def _remember(self, row: Row) -> None:
        """Take what a claim says for the next one."""
        self._has_limits = row.has_limits
        self._last_key = row.last_key

    async def _claim_isolated(
        self, run_id: UUID, *, owner: str, shapes: Collection[str]
    ) -> list[Lease]:
        """Claim one run by its id, if it is a suspect."""
        async with self._claiming.transaction() as session:
            await session.fetch(LOCK_KEY_OF_RUN, {"run_id": run_id})
            parameters = {"run_id": run_id, "up_to": 1, **self._claimed(owner, shapes)}
            rows = await session.fetch(CLAIM_ISOLATED_RUN, parameters)
            return await _read(session, rows)

    def _claimed(self, owner: str, shapes: Collection[str]) -> dict[str, Any]:
        """What every claim says."""
        return {
            "owner": owner,
            "shapes": shapes,
            "ttl_s": self._lease_ttl_s,
            "run_timeout_s": self._run_timeout_s,
        }


@dataclass(slots=True)
class _Past:
    """What earlier holders of a run left behind."""

    checkpoints: dict[str, Json] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """By step, of all steps."""
    first_open: str | None = None
    """The first step without a checkpoint."""
    calls: list[PastCall] = field(default_factory=list)

    def add_step(self, row: Row) -> None:
        """Take a row of READ_STEPS; rows come in the order of the steps."""
        self.failures[row.name] = row.failures
        if row.is_done:
            self.checkpoints[row.name] = row.output
        elif self.first_open is None:
            self.first_open = row.name

    def add_call(self, row: Row) -> None:
        """Take a row of READ_CALLS."""
        self.calls.append(
            PastCall(
                step=row.step,
                question=row.question,
                number=row.number,
                state=CallState(row.state),
                answer=row.answer,
                reservation=row.reservation,
            )
        )


async def _read(session: Session | Database, rows: Sequence[Row]) -> list[Lease]:
    """The leases of a claim, with what the runs' steps left behind."""
    runs = [row for row in rows if row["id"] is not None]
    past = {run["id"]: _nothing_past(run["shape"]) for run in runs if _is_first_claim(run)}
    if again := [run["id"] for run in runs if run["id"] not in past]:
        past |= {run_id: _Past() for run_id in again}
        steps = await session.fetch(READ_STEPS, {"run_ids": again})
        for step in sorted(steps, key=attrgetter("position")):
            past[step.run_id].add_step(step)
        for call in await session.fetch(READ_CALLS, {"run_ids": again}):
            past[call.run_id].add_call(call)
    return [_lease(run, past[run["id"]]) for run in runs]


def _is_first_claim(run: Row) -> bool:
    """Whether nobody held the run before; a run of unknown shape has to be looked at all the same."""
    return run["attempts"] == 1 and run["shape"] is not None


def _nothing_past(shape: str) -> _Past:
    """Neither checkpoints nor failures nor calls: nothing of that is made without a claim."""
    names = steps_of(shape)
    return _Past(failures=dict.fromkeys(names, 0), first_open=names[0])


def _items(leases: Collection[Lease]) -> str:
    """Leases as the items of a statement."""
    return encode_json([{"run_id": lease.run_id, "fence": lease.fence} for lease in leases])


def _lease(run: Row, past: _Past) -> Lease:
    """The lease on a claimed run.

    Columns in brackets: as attributes they would take Python code, sixteen times for each run.
    """
    return Lease(
        run_id=run["id"],
        key_id=run["key_id"],
        fence=run["fence"],
        pipeline=run["pipeline"],
        input=run["input"],
        checkpoints=past.checkpoints,
        step_attempts=past.failures,
        traceparent=run["traceparent"],
        created_at=run["created_at"],
        remaining_s=run["remaining_s"],
        shape=run["shape"],
        budget_usd=run["budget_usd"],
        is_on_probation=run["is_on_probation"],
        mode=RunMode(run["mode"]),
        calls=tuple(past.calls),
        # A replay that came in between may have opened an earlier step than the one started.
        started_attempt=run["step_attempt"] if run["step"] == past.first_open else None,
    )
