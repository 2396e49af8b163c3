"""Gives back the runs of a worker process that died: `python -m services.worker.postmortem OWNER RUN HOW`.

The watcher of an asyncio worker starts it (watcher.py), and the parent of prefork children
(child_deaths.py). OWNER is the name under which the dead process held leases, RUN the run that was
on the CPU, or "-". Without it the same runs go on when their leases lapse, only later. It imports
little, since runs wait for it.
"""

import asyncio
import contextlib
import logging
import sys
from functools import partial
from uuid import UUID

from config.celery import CelerySettings
from config.loading import load
from config.logfire import LogfireSettings
from config.postgres import PostgresSettings
from services.core import logs
from services.worker.patience import until_store_answers
from services.worker.record import open_store

logger = logging.getLogger("services.worker.postmortem")

PATIENCE_S = 8.0
"""Seconds that PostgreSQL may be away; the watcher allows little more."""


def main(owner: str, run_on_cpu: str, how: str) -> None:
    """Give back what the process held, and say so."""
    logs.configure(load(LogfireSettings))
    culprit = None if run_on_cpu == "-" else UUID(run_on_cpu)
    asyncio.run(give_back(owner, culprit=culprit, how=how))


async def give_back(owner: str, *, culprit: UUID | None, how: str) -> None:
    """Give back the runs of a dead process, and charge the culprit."""
    store = open_store(load(PostgresSettings), load(CelerySettings))
    blamed = f"on the CPU was run {culprit}" if culprit else "no run was on the CPU"
    outcome = "PostgreSQL is away, so its leases have to lapse"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            bury = partial(store.bury_process, owner, culprit=culprit)
            outcome = f"{await until_store_answers(bury)} runs given back"
    logger.error("worker %s died (%s): %s; %s", owner, how, blamed, outcome)
    await store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
