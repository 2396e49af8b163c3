"""Finds keys with one statement for all who ask at once: under load, requests would queue for that alone."""

import asyncio
from contextvars import Context

from services.api.deadline import Pulse
from services.core.runs.models import ApiKey
from services.core.runs.store import RunStore

GATHER_S = 0.003
"""Seconds for which more callers may join a look-up, where others asked just before."""
Lookup = asyncio.Task[ApiKey | None]


class KeyLookups:
    """One per process. No cache: each caller's statement begins after it asked, so a revoked key is refused at once."""

    def __init__(self, store: RunStore, pulse: Pulse) -> None:
        """Take where keys are, and what is to know that the record answers."""
        self._store = store
        self._pulse = pulse
        self._next: dict[str, Lookup] = {}
        self._running: dict[str, Lookup] = {}

    async def find_key(self, prefix: str) -> ApiKey | None:
        """The key with that prefix, revoked or not; raises as RunStore.find_key.

        A caller that is cancelled leaves the look-up to the others.
        """
        lookup = self._next.get(prefix)
        if lookup is None:
            # In an empty context: it belongs to no caller's span.
            lookup = asyncio.create_task(self._find(prefix), context=Context())
            lookup.add_done_callback(_note_answered)
            self._next[prefix] = lookup
        return await asyncio.shield(lookup)

    async def _find(self, prefix: str) -> ApiKey | None:
        """Ask the record once the statement before has been answered; until then others join."""
        this = self._next[prefix]
        if before := self._running.get(prefix):
            await asyncio.wait({before})
            await asyncio.sleep(GATHER_S)
        self._running[prefix] = this
        del self._next[prefix]
        try:
            key = await self._store.find_key(prefix)
            self._pulse.note()
            return key
        finally:
            if self._running[prefix] is this:
                del self._running[prefix]


def _note_answered(lookup: Lookup) -> None:
    """Whoever still waits has the error; there may be nobody any more."""
    if not lookup.cancelled():
        lookup.exception()
