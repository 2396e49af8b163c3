"""Turns commented SQL into statements; states and events come from services.core.runs.states."""

import re
from enum import StrEnum

from sqlalchemy import TextClause, text

from services.core.runs.states import (
    EventType,
    FailureReason,
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


def statement(sql: str) -> TextClause:
    """A statement with its states and events filled in; other `:names` stay parameters.

    `:claim_sources` is the list of states in which the transition `claim` is allowed,
    `:claim_target` the state that it leads to, `:run_queued` a run's state, `:step_pending` a
    step's, `:reason_crashed` a reason, `:event_run_queued` an event's type. They become literals,
    not parameters, because PostgreSQL takes a partial index only for a condition that it can see
    when it plans.

    `:cost_columns` are the columns of an item that say what Claude was paid for, and
    `:add_cost_to_runs` and `:add_cost_to_steps` add them to a row.
    """
    return text(NAME.sub(lambda match: FRAGMENTS.get(match[1], match[0]), sql))


def _fragments() -> dict[str, str]:
    """The SQL for each name."""
    found: dict[str, str] = {}
    for transition in Transition:
        found[f"{transition}_sources"] = f"({', '.join(map(_quote, sources(transition)))})"
        found[f"{transition}_target"] = _quote(target(transition))
    for kind, names in KINDS.items():
        found |= {f"{kind}_{name.replace('.', '_')}": _quote(name) for name in names}
    found["cost_columns"] = ", ".join(f"{name} {sql}" for name, sql in COST_COLUMNS.items())
    for table in ("runs", "steps"):
        found[f"add_cost_to_{table}"] = ", ".join(
            f"{name} = {table}.{name} + item.{name}" for name in COST_COLUMNS
        )
    return found


def _quote(name: str) -> str:
    """A SQL string."""
    return f"'{name}'"


FRAGMENTS = _fragments()
