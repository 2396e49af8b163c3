"""Each API process sweeps too, so that nothing stays stuck while beat is away."""

import random
from dataclasses import dataclass

from services.api.full_disk import FullDisk
from services.core.errors import StoreFullError
from services.core.queue.publisher import HintPublisher
from services.core.runs.store import RunStore


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Requeues runs whose worker went silent and hints due ones again."""

    store: RunStore
    publisher: HintPublisher
    full_disk: FullDisk
    interval_s: float

    async def sweep(self) -> float:
        """Sweep once; seconds to the next, spread so that processes do not sweep together."""
        try:
            await self.store.requeue_lapsed_runs()
            for due in await self.store.take_due_hints():
                self.publisher.hint(due.run_id, is_isolated=due.is_isolated)
        except StoreFullError:
            self.full_disk.note()
            raise
        return self.interval_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing
