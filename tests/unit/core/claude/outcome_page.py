"""The table of outcomes as docs/claude.md shows it; run this module to write it there."""

import re
from collections.abc import Iterator
from pathlib import Path

from services.core.claude.outcomes import (
    ERROR_CODES,
    ERROR_TYPES,
    OURS,
    STATUSES,
    STOP_REASONS,
    Follow,
    Outcome,
)

PAGE = Path(__file__).parents[4] / "docs" / "claude.md"
BEGIN, END = "<!-- outcomes -->\n", "<!-- /outcomes -->\n"
GROUPS = (
    ("stop reason", STOP_REASONS),
    ("error type", ERROR_TYPES),
    ("error code", ERROR_CODES),
    ("status, without a known type", {str(status): row for status, row in STATUSES.items()}),
    ("found by us", OURS),
)
CONSEQUENCES = {
    Follow.READ: "the answer is read",
    Follow.CONTINUE: "Claude is asked for the rest where the step allows it; else gives up",
    Follow.RESUME: "Claude goes on, three times at most; then gives up",
    Follow.WAIT: "waits (retry-after, or the limit's next window, or backoff); not counted as a try",
    Follow.RETRY: "next try after the backoff",
    Follow.GIVE_UP: "gives up: `permanent`",
    Follow.ASK_FOR_BUDGET: "gives up: `budget_exceeded`; replay it when there is budget",
}


def outcome_table() -> str:
    """The table, of those words together that come to the same."""
    lines = ["| Claude says | | here | what follows |", "|---|---|---|---|"]
    return "\n".join([*lines, *(line for group in GROUPS for line in _lines(*group))]) + "\n"


def shown_table(page: str) -> str:
    """The table that the page shows."""
    return page.split(BEGIN)[1].split(END, maxsplit=1)[0]


def _lines(source: str, rows: dict[str, Outcome]) -> Iterator[str]:
    alike: dict[Outcome, list[str]] = {}
    for name, row in rows.items():
        alike.setdefault(row, []).append(f"`{name}`")
    for row, names in alike.items():
        error = f"`{row.error.__name__}`" if row.error else ""
        wait = f"; at least {row.least_wait_s:g} s" if row.least_wait_s else ""
        yield f"| {source} | {' '.join(names)} | {error} | {CONSEQUENCES[row.follow]}{wait} |"


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"(?s)(?<={BEGIN}).*(?={END})", outcome_table(), page))
