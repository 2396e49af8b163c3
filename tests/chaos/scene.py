"""Where a fault takes place: the stack, the simulator, and how patient both are."""

from dataclasses import dataclass
from pathlib import Path

from tests.chaos.evidence import Ledger
from tests.chaos.stack import Addresses, Stack

SLACK_S = 5.0
"""Seconds that recovery may take beyond the lease and a sweep."""
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
