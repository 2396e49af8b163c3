"""The record's only writer. Every method is one transaction; a state change writes row and event together.

INTERFACE (to be implemented): see services/core/runs/models.py for the shapes.
"""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from services.core.usage import Usage
from services.core.runs.models import (
    ApiKey, Checkpoint, DueHint, Email, Event, Failure, Lease, NewEmail, NewRun, Page, Run,
)
from services.core.runs.states import EventType, RunState


class RunStore:
    """Accepts, claims, checkpoints and ends runs."""

    # --- accept -------------------------------------------------------------------------------
    async def accept_run(self, new: NewRun) -> tuple[Run, bool]:
        """Commit a run with its steps (pending) and first event; (run, is_new).

        Raises IdempotencyConflictError, QueueFullError, StoreUnavailableError.
        """
        raise NotImplementedError

    # --- execute (worker) ---------------------------------------------------------------------
    async def claim_due_runs(self, *, owner: str, limit: int) -> list[Lease]:
        """Take up to `limit` due, not isolated runs; priority first, then next_at. [] if none."""
        raise NotImplementedError

    async def claim_isolated_run(self, run_id: UUID, *, owner: str) -> Lease | None:
        """Take one suspect run (is_isolated) that is due."""
        raise NotImplementedError

    async def renew_leases(self, leases: Sequence[Lease]) -> set[UUID]:
        """One statement; the ids that are still held. The rest were lost or cancelled."""
        raise NotImplementedError

    async def start_step(self, lease: Lease, step: str) -> int:
        """Count a try of the step and say so (step.started); its number. LeaseLostError if fenced out."""
        raise NotImplementedError

    async def record_text(self, lease: Lease, step: str, text: str) -> None:
        """Append a claude.delta event {"step", "text"}. LeaseLostError if fenced out."""
        raise NotImplementedError

    async def record_checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Keep a step's output, usage and cost (added to the run's). LeaseLostError if fenced out."""
        raise NotImplementedError

    async def finish_run(self, lease: Lease, output: dict, email: NewEmail | None = None) -> None:
        """running -> succeeded. LeaseLostError if fenced out."""
        raise NotImplementedError

    async def retry_run(self, lease: Lease, *, step: str, error: str, delay_s: float,
                        usage: Usage, cost_usd: Decimal) -> None:
        """running -> queued with next_at = now + delay_s, step.retrying event {"step","attempt","error","next_at"}."""
        raise NotImplementedError

    async def release_run(self, lease: Lease) -> None:
        """running -> queued at once: a graceful give-back, not a crash, no attempt counted."""
        raise NotImplementedError

    async def fail_run(self, lease: Lease, failure: Failure, *, usage: Usage, cost_usd: Decimal) -> None:
        """running -> failed."""
        raise NotImplementedError

    # --- sweep --------------------------------------------------------------------------------
    async def requeue_lapsed_runs(self, *, limit: int = 500) -> int:
        """Lapsed leases: crashes + 1, is_isolated, queued (or failed: crashed); not within one lease of a PostgreSQL restart."""
        raise NotImplementedError

    async def take_due_hints(self, *, limit: int = 500) -> list[DueHint]:
        """Due runs without a fresh hint; marks them hinted (hinted_at = now)."""
        raise NotImplementedError

    # --- clients ------------------------------------------------------------------------------
    async def cancel_run(self, key_id: UUID, run_id: UUID) -> Run:
        """queued or running -> cancelled. RunNotFoundError, RunNotCancellableError."""
        raise NotImplementedError

    async def get_run(self, key_id: UUID, run_id: UUID) -> Run:
        raise NotImplementedError  # RunNotFoundError

    async def list_runs(self, key_id: UUID, *, state: RunState | None = None, pipeline: str | None = None,
                        cursor: str | None = None, limit: int = 50) -> Page[Run]:
        raise NotImplementedError  # newest first; ValueError on a malformed cursor

    async def list_events(self, after: dict[UUID, int], *, limit: int = 1000) -> list[Event]:
        """Events of several runs at once, each after its own seq, ordered by (run_id, seq)."""
        raise NotImplementedError

    async def get_email(self, key_id: UUID, email_id: UUID) -> Email:
        raise NotImplementedError  # RunNotFoundError

    async def list_emails(self, key_id: UUID, *, template_type: str | None = None, run_id: UUID | None = None,
                          metadata: dict | None = None, cursor: str | None = None, limit: int = 50) -> Page[Email]:
        raise NotImplementedError

    # --- keys, health -------------------------------------------------------------------------
    async def find_key(self, prefix: str) -> ApiKey | None:
        raise NotImplementedError

    async def add_key(self, *, name: str, prefix: str, key_hash: bytes) -> ApiKey:
        """Store a key's hash; the same prefix and hash again is no change."""
        raise NotImplementedError

    async def revoke_key(self, prefix: str) -> bool:
        raise NotImplementedError

    async def ping(self) -> float:
        """Round trip in seconds. StoreUnavailableError."""
        raise NotImplementedError

    async def record_heartbeat(self, *, process: str, kind: str) -> None:
        """Note that a process (worker, beat, ...) is at work now."""
        raise NotImplementedError

    async def list_heartbeats(self) -> list["Heartbeat"]:
        """The latest heartbeat of each process (process, kind, age_s)."""
        raise NotImplementedError

    async def get_totals(self) -> "RunTotals":
        """What /metrics and /health show: counts by state, oldest queued age, step durations, tokens, cost, failures."""
        raise NotImplementedError
