"""A process and all that it started, from /proc: what a container is to Docker, a program is here."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def family_of(pid: int) -> set[int]:
    """The process and its descendants."""
    parents, family = _all_parents(), {pid}
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def signal_family(pid: int, number: signal.Signals) -> None:
    """Send a signal to each process of the family, until no new one is found: they may be starting others."""
    reached: set[int] = set()
    while new := family_of(pid) - reached:
        for member in new:
            with suppress(ProcessLookupError):
                os.kill(member, number)
        reached |= new


def _all_parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # The name, in brackets, may hold anything.
            fields = stat.read_text().rpartition(")")[2].split()
            found[int(stat.parent.name)] = int(fields[1])
    return found
