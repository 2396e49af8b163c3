"""Keys take turns on a real worker, and their limits cost nobody time."""

import time
from uuid import UUID

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey, NewRun
from services.core.runs.states import RunState
from tests.integration.core.runs.queues import add_key
from tests.integration.worker.lab import Lab

SLOTS = "10"
SECONDS = 0.3


async def post(lab: Lab, key: ApiKey, seconds: float = SECONDS) -> UUID:
    """Accept and hint a run of a key."""
    new = NewRun(
        key_id=key.id,
        pipeline="lab",
        input={"behaviour": "wait", "seconds": seconds},
        step_names=("first", "second"),
    )
    run, _ = await lab.store.accept_run(new)
    lab.publisher.hint(run.id)
    return run.id


async def test_five_hundred_runs_of_another_key_are_no_wait(
    lab: Lab, fresh_database: PostgresSettings
) -> None:
    """One worker, full of one key's runs, with a queue of 15 s: another key's run has the next slot."""
    greedy, modest = [await add_key(lab.store, fresh_database) for _ in range(2)]
    many = [await post(lab, greedy) for _ in range(500)]
    await lab.start_worker(CELERY_CONCURRENCY=SLOTS)
    await lab.wait_for_step("second", many[0])

    run_id = await post(lab, modest)
    await lab.wait_for_step("second", run_id)
    run = await lab.store.get_run(modest.id, run_id)

    waiting = await lab.store.list_runs(greedy.id, state=RunState.QUEUED, limit=100)
    assert run.started_at is not None
    assert (run.started_at - run.created_at).total_seconds() < 2
    assert 100 == len(waiting.items)


async def test_a_limited_key_never_waits_for_the_poll(
    lab: Lab, fresh_database: PostgresSettings
) -> None:
    """One at a time, but one right after the other: with the end of a run the next is claimed."""
    key = await add_key(lab.store, fresh_database, max_running=1)
    await lab.start_worker(CELERY_CONCURRENCY=SLOTS, CELERY_POLL_INTERVAL_S="60")
    run_ids = [await post(lab, key, seconds=0) for _ in range(20)]
    begun_s = time.monotonic()

    while await _count(lab, key, RunState.QUEUED, up_to=1) + (
        running := await _count(lab, key, RunState.RUNNING, up_to=2)
    ):
        assert running <= 1
        assert time.monotonic() - begun_s < 10

    states = {(await lab.store.get_run(key.id, run_id)).state for run_id in run_ids}
    assert {RunState.SUCCEEDED} == states


async def _count(lab: Lab, key: ApiKey, state: RunState, *, up_to: int) -> int:
    return len((await lab.store.list_runs(key.id, state=state, limit=up_to)).items)
