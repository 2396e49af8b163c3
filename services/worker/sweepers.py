"""Periodic jobs; services.beat.schedule says when."""

from services.worker.runtime import Runtime

SWEEP_BATCH = 500
"""Runs that one sweep takes up."""


async def sweep_runs(runtime: Runtime) -> dict[str, int]:
    """Requeue runs whose worker has died, and hint runs that are due; how many of each.

    Raises:
        StoreUnavailableError: PostgreSQL does not answer; the next sweep does the work.
    """
    store = runtime.store
    requeued = await store.requeue_lapsed_runs(limit=SWEEP_BATCH)
    hints = await store.take_due_hints(limit=SWEEP_BATCH)
    for hint in hints:
        runtime.publisher.hint(hint.run_id, is_isolated=hint.is_isolated)
    # A sweep is beat's and this worker's sign of life at once.
    await store.record_heartbeat(process="beat", kind="beat")
    identity = runtime.identity
    await store.record_heartbeat(
        process=identity.process, kind=identity.kind, shapes=identity.shapes
    )
    return {"requeued": requeued, "hinted": len(hints)}
