"""What a run of the suite found, for docs/reliability.md."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.verdict import Verdict


@dataclass(slots=True)
class Results:
    """A row for each cell, written as it comes, so that an interrupted run leaves what it has.

    A run of other cells under the same facts goes on with them: the full form takes long.
    """

    file: Path
    facts: dict[str, Any]
    """Mode, settings, versions, machine, command."""
    cells: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Keep what was found of the same code, with the same settings and versions."""
        if not self.file.exists():
            return
        before = json.loads(self.file.read_text())
        if before["facts"] == self.facts:
            self.cells.extend(before["cells"])

    def add(self, fault: Fault, verdict: Verdict) -> None:
        """One more cell."""
        self.add_row(fault.name, fault.what, verdict)

    def add_row(self, name: str, what: str, verdict: Verdict) -> None:
        """One more row, of a cell or of a storm."""
        self.cells[:] = [cell for cell in self.cells if cell["name"] != name]
        self.cells.append(
            {
                "name": name,
                "what": what,
                "runs": verdict.runs,
                "broken": {key: len(cases) for key, cases in verdict.broken.items()},
                "examples": {
                    key: list(cases)[:3] for key, cases in verdict.broken.items() if cases
                },
                "repeated_calls": verdict.repeated_calls,
                "calls_in_flight": verdict.calls_in_flight,
                "recovery": asdict(verdict.recovery),
                "latency": {key: asdict(value) for key, value in verdict.latency.items()},
            }
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {"facts": self.facts, "cells": self.cells}
        self.file.write_text(json.dumps(content, indent=2, ensure_ascii=False))
