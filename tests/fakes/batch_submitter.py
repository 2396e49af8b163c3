"""A process that submits what waits and dies on the way: `python -m tests.fakes.batch_submitter`.

Settings come from the environment, as for a worker; DIE_IN is where it dies, as Class.method.
"""

import asyncio
import os

from config.anthropic import AnthropicSettings
from config.celery import CelerySettings
from config.postgres import PostgresSettings
from services.core.claude.message_batches import MessageBatches
from services.core.runs.message_batches import MessageBatchRecord
from services.worker.batch_courier import BatchCourier, Batching
from services.worker.record import open_store

CLASSES = {kind.__name__: kind for kind in (MessageBatches, MessageBatchRecord)}


async def main() -> None:
    """Submit once."""
    batching = Batching.by_settings(AnthropicSettings())
    store = open_store(PostgresSettings(), CelerySettings())
    await BatchCourier(store, batching, publisher=None).submit()
    await store.close()


def die(*_: object, **__: object) -> None:
    """End the process as SIGKILL would: nothing is cleaned up."""
    os._exit(9)


if __name__ == "__main__":
    where = os.environ.get("DIE_IN")  # noqa: TID251 - no setting of the worker
    if where:
        kind, _, method = where.partition(".")
        setattr(CLASSES[kind], method, die)
    asyncio.run(main())
