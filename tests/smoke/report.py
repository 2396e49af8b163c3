"""Runs checks one after another and says how each went."""

import sys
import time
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TextIO

from services.core.scrubbing import scrub


class SkippedError(Exception):
    """This cannot be checked here; the message says why."""


class Outcome(Enum):
    """How a check went: mark, word and terminal colour."""

    PASS = ("✓", "PASS", 32)
    FAIL = ("✗", "FAIL", 31)
    SKIP = ("⚠", "SKIP", 33)


Check = Callable[[], str]
"""Gives a detail worth reading, or raises."""


def run_checks(checks: Iterable[tuple[str, Check]], *, out: TextIO = sys.stdout) -> int:
    """Run every check, whatever became of the others.

    Returns:
        The exit status: 0, or 1 if one failed. A skipped check is no failure.
    """
    outcomes = [_run_check(name, check, out=out) for name, check in checks]
    counts = ", ".join(f"{outcomes.count(kind)} {kind.value[1].lower()}" for kind in Outcome)
    print(counts, file=out)
    return 1 if Outcome.FAIL in outcomes else 0


def _run_check(name: str, check: Check, *, out: TextIO) -> Outcome:
    started = time.monotonic()
    try:
        outcome, detail = Outcome.PASS, check()
    except SkippedError as reason:
        outcome, detail = Outcome.SKIP, str(reason)
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is what the check found
        outcome, detail = Outcome.FAIL, f"{type(error).__name__}: {error}"
    took_s = time.monotonic() - started
    print(
        _to_line(outcome, name, detail, took_s=took_s, has_colours=out.isatty()),
        file=out,
        flush=True,
    )
    return outcome


def _to_line(outcome: Outcome, name: str, detail: str, *, took_s: float, has_colours: bool) -> str:
    mark, word, colour = outcome.value
    label = f"\x1b[{colour}m{mark} {word}\x1b[0m" if has_colours else f"{mark} {word}"
    text = " ".join(scrub(detail).split())
    return f"{label}  {name:<24} {text} ({took_s:.1f} s)"
