"""An in-memory RunStore for tests of its readers; no leases, no transactions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.core.clock import utc_now
from services.core.errors import (
    IdempotencyConflictError,
    KeyRevokedError,
    QueueFullError,
    RunNotCancellableError,
    RunNotFoundError,
    RunNotReplayableError,
    StoreUnavailableError,
)
from services.core.runs.acceptance import Accepted
from services.core.runs.call_limits import CallLimits
from services.core.runs.models import (
    ApiKey,
    DueHint,
    Email,
    Event,
    Failure,
    Heartbeat,
    Json,
    KeyDay,
    NewRun,
    Page,
    PastAttempt,
    Run,
    RunTotals,
    StepRecord,
    StepTotals,
)
from services.core.runs.replay_plan import PastStep, kept_steps
from services.core.runs.states import FINAL_STATES, EventType, FailureReason, RunState, StepState
from services.core.usage import Usage
from tests.fakes.batch_record import InMemoryBatchRecord

NO_COST = Decimal(0)


class InMemoryRunStore:
    """Keeps runs, events, emails and keys in dictionaries; `is_away` makes every call fail."""

    def __init__(self, *, max_queued_runs: int = 1000) -> None:
        self.runs: dict[UUID, Run] = {}
        self.events: dict[UUID, list[Event]] = defaultdict(list)
        self.emails: dict[UUID, Email] = {}
        self.keys: dict[str, ApiKey] = {}
        self.key_days: dict[UUID, KeyDay] = {}
        self.heartbeats: list[Heartbeat] = []
        self.history: dict[UUID, list[PastAttempt]] = defaultdict(list)
        self.unclaimable_runs = 0
        self.step_totals: tuple[StepTotals, ...] = ()
        self.call_limits: list[CallLimits] = []
        self.due_hints: list[DueHint] = []
        self.accepted: list[NewRun] = []
        self.statements: list[str] = []
        self.is_away = False
        self._max_queued_runs = max_queued_runs
        self._requests: dict[tuple[UUID, str], tuple[bytes | None, UUID]] = {}
        self.batches = InMemoryBatchRecord(self)

    # --- what tests do to it ------------------------------------------------------------------
    def append_event(
        self, run_id: UUID, kind: EventType = EventType.CLAUDE_DELTA, **data: Any
    ) -> Event:
        """Let something happen to a run; a final event also ends it, run.failed with its data."""
        event = Event(run_id, len(self.events[run_id]) + 1, kind, data, utc_now())
        self.events[run_id].append(event)
        state = kind.value.removeprefix("run.")
        if state in FINAL_STATES:
            self.runs[run_id] = replace(
                self.runs[run_id],
                state=RunState(state),
                finished_at=event.at,
                next_at=None,
                failure=_failure(data) if kind is EventType.RUN_FAILED else None,
            )
        return event

    def add_checkpoint(self, run_id: UUID, step: str, **output: Any) -> None:
        """Let a run have done a step."""
        run = self.runs[run_id]
        steps = tuple(
            replace(record, state=StepState.SUCCEEDED, output=output)
            if record.name == step
            else record
            for record in run.steps
        )
        self.runs[run_id] = replace(run, steps=steps)
        self.append_event(run_id, EventType.STEP_SUCCEEDED, step=step)

    def add_email(self, run_id: UUID, **metadata: Any) -> Email:
        """Let a run leave an email."""
        email = Email(uuid7(), run_id, "general", "Hello", "Dear Elena, …", metadata, utc_now())
        self.emails[email.id] = email
        return email

    def add_run(self, new: NewRun) -> Run:
        """Queue a run, whatever the queue."""
        run = _queued(new)
        self.runs[run.id] = run
        self.accepted.append(new)
        self.append_event(run.id, EventType.RUN_QUEUED)
        return run

    # --- accept -------------------------------------------------------------------------------
    async def accept(self, new: NewRun) -> Accepted:
        """As RunStore."""
        run, is_new = await self.accept_run(new)
        return Accepted(run.id, run.created_at if is_new else None)

    async def accept_run(self, new: NewRun) -> tuple[Run, bool]:
        """As RunStore."""
        self._note("accept_run")
        if any(key.id == new.key_id and key.is_revoked for key in self.keys.values()):
            raise KeyRevokedError
        if new.idempotency_key:
            known = self._requests.get((new.key_id, new.idempotency_key))
            if known and known[0] != new.request_hash:
                raise IdempotencyConflictError
            if known:
                return self.runs[known[1]], False
        self._refuse_if_full()
        run = self.add_run(new)
        if new.idempotency_key:
            self._requests[new.key_id, new.idempotency_key] = (new.request_hash, run.id)
        return run, True

    # --- sweep --------------------------------------------------------------------------------
    async def requeue_lapsed_runs(self, *, limit: int = 500) -> int:
        """As RunStore; nothing lapses here."""
        self._note("requeue_lapsed_runs")
        return 0

    async def take_due_hints(self, *, limit: int = 500) -> list[DueHint]:
        """As RunStore."""
        self._note("take_due_hints")
        hints, self.due_hints = self.due_hints, []
        return hints

    # --- clients ------------------------------------------------------------------------------
    async def cancel_run(self, key_id: UUID, run_id: UUID) -> Run:
        """As RunStore."""
        run = await self.get_run(key_id, run_id)
        if run.state in FINAL_STATES:
            raise RunNotCancellableError
        self.append_event(run_id, EventType.RUN_CANCELLED)
        return self.runs[run_id]

    async def get_run(self, key_id: UUID, run_id: UUID) -> Run:
        """As RunStore."""
        self._note("get_run")
        run = self.runs.get(run_id)
        if run is None or run.key_id != key_id:
            raise RunNotFoundError
        return run

    async def list_runs(
        self,
        key_id: UUID,
        *,
        state: RunState | None = None,
        pipeline: str | None = None,
        batch_id: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """As RunStore."""
        self._note("list_runs")
        wanted = {"key_id": key_id, "state": state, "pipeline": pipeline, "batch_id": batch_id}
        return _page(self.runs, wanted, cursor, limit)

    async def list_dead_letters(
        self,
        key_id: UUID,
        *,
        pipeline: str | None = None,
        reason: FailureReason | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """As RunStore."""
        self._note("list_dead_letters")
        failed = {run.id: run for run in self.runs.values() if _failed_for(run, reason)}
        return _page(failed, {"key_id": key_id, "pipeline": pipeline}, cursor, limit)

    async def list_history(self, key_id: UUID, run_id: UUID) -> list[PastAttempt]:
        """As RunStore."""
        await self.get_run(key_id, run_id)
        return self.history[run_id]

    async def replay_run(
        self,
        key_id: UUID,
        run_id: UUID,
        *,
        step_names: tuple[str, ...],
        from_step: str | None,
        input: Json | None,  # noqa: A002 - the record's word
        budget_usd: Decimal | None = None,
    ) -> Run:
        """As RunStore."""
        self._refuse_if_full()
        run = await self.get_run(key_id, run_id)
        if run.state not in {RunState.FAILED, RunState.CANCELLED}:
            raise RunNotReplayableError
        past = [PastStep(step.name, step.state is StepState.SUCCEEDED) for step in run.steps]
        kept = kept_steps(past, step_names, from_step=from_step, has_input=input is not None)
        self.history[run_id].append(_past_attempt(run))
        self.runs[run_id] = replace(
            run,
            state=RunState.QUEUED,
            input=run.input if input is None else input,
            budget_usd=run.budget_usd if budget_usd is None else budget_usd,
            output=None,
            failure=None,
            steps=run.steps[:kept] + tuple(_pending(name) for name in step_names[kept:]),
            crashes=0,
            lapses=0,
            replays=run.replays + 1,
            started_at=None,
            finished_at=None,
            next_at=utc_now(),
        )
        going_on = (*step_names, None)[kept]
        self.append_event(run_id, EventType.RUN_QUEUED, replay=run.replays + 1, from_step=going_on)
        return self.runs[run_id]

    async def replay_failed_runs(
        self,
        key_id: UUID,
        *,
        ids: Sequence[UUID] | None = None,
        pipeline: str | None = None,
        reason: FailureReason | None = None,
        batch_id: UUID | None = None,
        shapes: Mapping[str, tuple[str, ...]],
    ) -> list[DueHint]:
        """As RunStore."""
        self._refuse_if_full()
        wanted = [
            run
            for run in self.runs.values()
            if (run.key_id == key_id and run.pipeline in shapes and _failed_for(run, reason))
            and (ids is None or run.id in ids)
            and pipeline in {None, run.pipeline}
            and batch_id in {None, run.batch_id}
        ]
        for run in wanted:
            names = shapes[run.pipeline]
            await self.replay_run(key_id, run.id, step_names=names, from_step=None, input=None)
        return [DueHint(run.id, is_isolated=False) for run in wanted]

    async def list_events(self, after: Mapping[UUID, int], *, limit: int = 1000) -> list[Event]:
        """As RunStore."""
        self._note("list_events")
        found = [
            event for run_id, seq in after.items() for event in self.events.get(run_id, [])[seq:]
        ]
        return sorted(found, key=lambda event: (event.run_id, event.seq))[:limit]

    async def get_email(self, key_id: UUID, email_id: UUID) -> Email:
        """As RunStore."""
        self._note("get_email")
        email = self.emails.get(email_id)
        if email is None or self.runs[email.run_id].key_id != key_id:
            raise RunNotFoundError
        return email

    async def list_emails(
        self,
        key_id: UUID,
        *,
        template_type: str | None = None,
        run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Email]:
        """As RunStore."""
        self._note("list_emails")
        mine = {
            id_: email
            for id_, email in self.emails.items()
            if self.runs[email.run_id].key_id == key_id
            and (metadata or {}).items() <= email.metadata.items()
        }
        wanted = {"template_type": template_type, "run_id": run_id}
        return _page(mine, wanted, cursor, limit)

    # --- keys, health -------------------------------------------------------------------------
    async def find_key(self, prefix: str) -> ApiKey | None:
        """As RunStore."""
        self._note("find_key")
        return self.keys.get(prefix)

    async def add_key(self, *, name: str, prefix: str, key_hash: bytes) -> ApiKey:
        """As RunStore."""
        self._note("add_key")
        return self.keys.setdefault(
            prefix, ApiKey(uuid7(), prefix, name, key_hash, is_revoked=False)
        )

    async def revoke_key(self, prefix: str) -> bool:
        """As RunStore."""
        self._note("revoke_key")
        key = self.keys.get(prefix)
        if key is None or key.is_revoked:
            return False
        self.keys[prefix] = replace(key, is_revoked=True)
        return True

    async def set_key_limits(
        self, prefix: str, *, daily_budget_usd: Decimal | None, max_running: int | None
    ) -> ApiKey | None:
        """As RunStore."""
        self._note("set_key_limits")
        key = self.keys.get(prefix)
        if key is not None:
            limits = {"daily_budget_usd": daily_budget_usd, "max_running": max_running}
            key = self.keys[prefix] = replace(key, **limits)
        return key

    async def get_key_day(self, key_id: UUID) -> KeyDay:
        """As RunStore."""
        self._note("get_key_day")
        return self.key_days.get(key_id, KeyDay(NO_COST, NO_COST, NO_COST, Usage()))

    async def list_keys(self) -> list[ApiKey]:
        """As RunStore."""
        self._note("list_keys")
        return list(self.keys.values())

    async def ping(self) -> float:
        """As RunStore."""
        self._note("ping")
        return 0.001

    async def list_heartbeats(self) -> list[Heartbeat]:
        """As RunStore."""
        self._note("list_heartbeats")
        return self.heartbeats

    async def get_totals(self) -> RunTotals:
        """As RunStore."""
        self._note("get_totals")
        counts = Counter(run.state for run in self.runs.values())
        return RunTotals(
            runs_by_state={state: counts[state] for state in RunState},
            failures_by_reason=dict.fromkeys(FailureReason, 0),
            due_runs=counts[RunState.QUEUED],
            oldest_due_age_s=1.5 if counts[RunState.QUEUED] else 0,
            unclaimable_runs=self.unclaimable_runs,
            waiting_calls=3,
            submitted_calls=4,
            open_message_batches=2,
            steps=self.step_totals,
        )

    async def list_call_limits(self) -> list[CallLimits]:
        """As RunStore."""
        self._note("list_call_limits")
        return self.call_limits

    def _refuse_if_full(self, *, adding: int = 1) -> None:
        queued = [run for run in self.runs.values() if run.state is RunState.QUEUED]
        if len(queued) + adding > self._max_queued_runs:
            raise QueueFullError(retry_after_s=7)

    def _note(self, statement: str) -> None:
        self.statements.append(statement)
        if self.is_away:
            raise StoreUnavailableError


def _queued(new: NewRun) -> Run:
    now = utc_now()
    return Run(
        id=uuid7(),
        key_id=new.key_id,
        pipeline=new.pipeline,
        state=RunState.QUEUED,
        input=new.input,
        output=None,
        failure=None,
        metadata=new.metadata,
        priority=new.priority,
        steps=tuple(_pending(name) for name in new.step_names),
        usage=Usage(),
        cost_usd=NO_COST,
        budget_usd=new.budget_usd,
        attempts=0,
        crashes=0,
        lapses=0,
        replays=0,
        created_at=now,
        started_at=None,
        finished_at=None,
        next_at=now + timedelta(0),
        trace_id=new.traceparent.split("-")[1] if new.traceparent else None,
        mode=new.mode,
        batch_id=new.batch_id,
        batch_row=new.batch_row,
    )


def _failure(data: dict[str, Any]) -> Failure:
    return Failure(
        reason=FailureReason(data.get("reason", "permanent")),
        step=data.get("step"),
        message=data.get("message", "It cannot be done."),
        attempts=data.get("attempts", 1),
    )


def _failed_for(run: Run, reason: FailureReason | None) -> bool:
    return run.failure is not None and reason in {None, run.failure.reason}


def _past_attempt(run: Run) -> PastAttempt:
    return PastAttempt(
        number=run.replays + 1,
        state=run.state,
        input=run.input,
        output=run.output,
        failure=run.failure,
        steps=run.steps,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def _pending(name: str) -> StepRecord:
    return StepRecord(name, StepState.PENDING, 0, None, None, Usage(), NO_COST, None, None)


def _page(items: Mapping[UUID, Any], wanted: dict[str, Any], cursor: str | None, limit: int) -> Any:
    start = int(cursor or 0)
    found = [
        item
        for item in reversed(items.values())
        if all(value is None or getattr(item, name) == value for name, value in wanted.items())
    ]
    end = start + limit
    return Page(tuple(found[start:end]), str(end) if end < len(found) else None)
