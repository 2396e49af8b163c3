"""Calls to Claude in the record: opened before money is spent, settled after, many at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from services.core.db import Database
from services.core.errors import BudgetBusyError, BudgetExceededError, LeaseLostError
from services.core.pool import Row
from services.core.runs.batcher import Batcher
from services.core.runs.budgets import Purse, refusal_of
from services.core.runs.call_statements import (
    DOUBT_CALLS,
    LOCK_RUNS,
    OPEN_CALLS,
    READ_SUMS,
    SETTLE_CALLS,
)
from services.core.runs.encoding import encode_json
from services.core.runs.models import CallOpening, Json, KeyDay, Lease, OpenCall
from services.core.runs.sql import statement
from services.core.runs.states import CallState
from services.core.usage import Usage

CallKey: TypeAlias = tuple[UUID, str, bytes, int]
Verdict: TypeAlias = OpenCall | BudgetExceededError | BudgetBusyError

KEY_DAY = statement(
    """
    SELECT * FROM key_days
     WHERE key_id = :key_id AND day = (now() AT TIME ZONE 'UTC')::date
    """
)

PRESENT = (CallState.ANSWERED, CallState.WAITING, CallState.SUBMITTED)
"""States of calls that are not to be made again."""
MAX_PARALLEL = 1
"""Batches on their way at once: two would only wait for each other's locks on the key's day."""


class RunCalls:
    """Opens and settles calls. RunStore says what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._openings: Batcher[CallKey, Verdict] = Batcher(self._open, max_parallel=MAX_PARALLEL)
        self._settlings: Batcher[UUID, bool] = Batcher(self._settle, max_parallel=MAX_PARALLEL)

    async def open_call(self, lease: Lease, opening: CallOpening) -> OpenCall:
        """Reserve what a call can cost."""
        key = (lease.run_id, opening.step, opening.question, opening.number)
        item = {"run_id": lease.run_id, "fence": lease.fence, **asdict(opening)}
        verdict = await self._openings.submit(key, encode_json(item))
        if verdict is None:
            raise LeaseLostError
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def settle_call(  # noqa: PLR0913 - a call's name and its end
        self,
        run_id: UUID,
        step: str,
        question: bytes,
        number: int,
        reservation: UUID,
        *,
        usage: Usage,
        cost_usd: Decimal,
        answer: Json | None,
        is_failed: bool,
        is_doubtful: bool,
    ) -> None:
        """Turn what is reserved into what it cost."""
        item = {
            "run_id": run_id,
            "step": step,
            "question": question,
            "number": number,
            "reservation": reservation,
            "answer": answer,
            "is_failed": is_failed,
            "is_doubtful": is_doubtful,
            "cost_usd": cost_usd,
            **asdict(usage),
        }
        encoded = encode_json(item)
        if not await self._settlings.submit(reservation, encoded):
            # It may just have become doubtful; and if not, it is settled.
            await self._settlings.submit(reservation, encoded)

    async def get_key_day(self, key_id: UUID) -> KeyDay:
        """What a key's calls of this UTC day cost."""
        rows = await self._database.fetch(KEY_DAY, {"key_id": key_id})
        if not rows:
            return KeyDay(Decimal(0), Decimal(0), Decimal(0), Usage())
        [row] = rows
        usage = Usage(
            row.input_tokens,
            row.output_tokens,
            row.cache_read_input_tokens,
            row.cache_creation_input_tokens,
        )
        return KeyDay(row.cost_usd, row.reserved_usd, row.doubtful_usd, usage)

    async def drain(self) -> None:
        """Wait until everything submitted so far is written."""
        await self._openings.drain()
        await self._settlings.drain()

    async def _open(self, items: Sequence[str]) -> Mapping[CallKey, Verdict]:
        """Judge the calls of a batch, and open those that may be made."""
        batch = {"items": f"[{','.join(items)}]"}
        async with self._database.transaction() as session:
            await session.fetch(LOCK_RUNS, batch)
            rows = await session.fetch(READ_SUMS, batch)
            judge = _Judge()
            verdicts = {_key(row): judge.judge(row) for row in rows}
            if judge.accepted:
                await session.fetch(OPEN_CALLS, {**batch, "accepted": judge.accepted})
            if judge.doubted:
                await session.fetch(DOUBT_CALLS, {**batch, "doubted": judge.doubted})
        return verdicts

    async def _settle(self, items: Sequence[str]) -> Mapping[UUID, bool]:
        """Settle a batch; those that were open until then."""
        rows = await self._database.fetch(SETTLE_CALLS, {"items": f"[{','.join(items)}]"})
        return dict.fromkeys((row.reservation for row in rows), True)


class _Judge:
    """Decides on calls one after the other: each counts what those before it have reserved."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        """Places in the batch of those that are to be opened."""
        self.doubted: list[int] = []
        """Of those that are refused, and were open since an earlier try."""
        self._purses: dict[UUID, Purse] = {}
        """By the id of a run, or of a key for its day of today."""

    def judge(self, row: Row) -> Verdict:
        """Decide on one call; a row of READ_SUMS."""
        is_again = row.state == CallState.OPEN
        if row.state in PRESENT or (is_again and row.reservation == row.new_reservation):
            return OpenCall(row.reservation, row.answer)
        run, key = self._purse(row, "run"), self._purse(row, "key")
        if is_again:
            run.doubt(row.past_worst_usd)
            if row.past_day == row.today:
                key.doubt(row.past_worst_usd)
        if refusal := refusal_of((run, key), row.worst_usd):
            if is_again:
                self.doubted.append(row.ordinality)
            return refusal
        run.reserve(row.worst_usd)
        key.reserve(row.worst_usd)
        self.accepted.append(row.ordinality)
        return OpenCall(row.new_reservation)

    def _purse(self, row: Row, scope: str) -> Purse:
        """The budget of a row's run, or of its key."""
        columns = ("budget_usd", "cost_usd", "reserved_usd", "doubtful_usd")
        return self._purses.setdefault(
            row[f"{scope}_id"], Purse(scope, *(row[f"{scope}_{name}"] for name in columns))
        )


def _key(row: Row) -> CallKey:
    """A call's name."""
    return row.run_id, row.step, row.question, row.number
