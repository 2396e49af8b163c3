"""Where a fault takes place: the stack, the simulator, and how patient both are."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.evidence import Ledger
from tests.chaos.stack import Addresses, Stack, StackError

SLACK_S = 5.0
"""Seconds that recovery may take beyond the lease and a sweep."""
PATIENCE_S = 30.0
RESTART_BOUND_S = 5.0
"""Seconds that recovery may take from SIGTERM and from whatever happens to Redis."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may touch."""

    stack: Stack
    ledger: Ledger
    addresses: Addresses
    lease_s: float
    sweep_s: float
    max_crashes: int
    call_timeout_s: float
    """Seconds after which a call to Claude is given up."""
    tree: Path
    """What runs."""
    next_tree: Path
    """The next release of it."""

    @property
    def bound_s(self) -> float:
        """Seconds within which a run goes on whose process vanished."""
        return self.lease_s + self.sweep_s + SLACK_S

    @property
    def beyond_lease_s(self) -> float:
        """Long enough that every lease lapses, and a sweep notices."""
        return self.lease_s + self.sweep_s + 0.5

    def until(self, query: str, *, at_least: int = 0, at_most: int | None = None) -> None:
        """Wait until the number `n` that a query gives is within bounds.

        Raises:
            StackError: It was not, for 30 s.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            count = self.stack.sql(query)[0]["n"]
            if count >= at_least and (at_most is None or count <= at_most):
                return
            time.sleep(0.1)
        raise StackError(f"still {count} after {PATIENCE_S:g} s: {query}")
