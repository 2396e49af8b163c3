"""Turns commented SQL into statements; states and events come from services.core.runs.states."""

import re
from enum import StrEnum

from services.core.db import Statement
from services.core.runs.states import (
    CallState,
    EventType,
    FailureReason,
    MessageBatchState,
    RunMode,
    RunState,
    StepState,
    Transition,
    sources,
    target,
)

NAME = re.compile(r"(?<![:\w]):(\w+)")
KINDS: dict[str, type[StrEnum]] = {
    "run": RunState,
    "step": StepState,
    "call": CallState,
    "message_batch": MessageBatchState,
    "mode": RunMode,
    "reason": FailureReason,
    "event": EventType,
}
COST_COLUMNS = {
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cache_read_input_tokens": "bigint",
    "cache_creation_input_tokens": "bigint",
    "cost_usd": "numeric",
}


def statement(sql: str) -> Statement:
    """A statement with its states and events filled in; other `:names` stay parameters.

    `:claim_sources` is the list of states in which the transition `claim` is allowed,
    `:claim_target` the state that it leads to, `:run_queued` a run's state, `:step_pending` a
    step's, `:call_open` a call's, `:mode_batch` a run's mode, `:reason_crashed` a reason,
    `:event_run_queued` an event's type. They become literals, not parameters, because PostgreSQL
    takes a partial index only for a condition that it can see when it plans.

    `:cost_columns` are the columns of an item that say what Claude was paid for, `:sum_cost` adds
    them up, and `:add_cost_to_runs` adds the sums of `paid` to a row of that table.
    `:item_cost` names those columns of an item.
    `:call_unsettled` are the states of calls for which money is reserved, and
    `:free_calls_of_runs` takes what is reserved for the calls in `freed` from a run, and makes it
    doubtful where they may have been made.
    """
    return Statement(NAME.sub(lambda match: FRAGMENTS.get(match[1], match[0]), sql))


def _fragments() -> dict[str, str]:
    """The SQL for each name."""
    found: dict[str, str] = {}
    for transition in Transition:
        found[f"{transition}_sources"] = f"({', '.join(map(_quote, sources(transition)))})"
        found[f"{transition}_target"] = _quote(target(transition))
    for kind, names in KINDS.items():
        found |= {f"{kind}_{name.replace('.', '_')}": _quote(name) for name in names}
    found["cost_columns"] = ", ".join(f"{name} {sql}" for name, sql in COST_COLUMNS.items())
    found["sum_cost"] = ", ".join(f"sum({name}) AS {name}" for name in COST_COLUMNS)
    for table in ("runs", "steps", "key_days"):
        found[f"add_cost_to_{table}"] = ", ".join(
            f"{name} = {table}.{name} + paid.{name}" for name in COST_COLUMNS
        )
    found["item_cost"] = ", ".join(f"item.{name}" for name in COST_COLUMNS)
    freed = "coalesce((SELECT sum({}) FROM freed WHERE freed.run_id = runs.id), 0)"
    found["free_calls_of_runs"] = (
        f"reserved_usd = runs.reserved_usd - {freed.format('worst_usd')}, "
        f"doubtful_usd = runs.doubtful_usd + {freed.format('doubt_usd')}"
    )
    unsettled = (CallState.OPEN, CallState.WAITING, CallState.SUBMITTED)
    found["call_unsettled"] = f"({', '.join(map(_quote, unsettled))})"
    return found


def _quote(name: str) -> str:
    """A SQL string."""
    return f"'{name}'"


FRAGMENTS = _fragments()
