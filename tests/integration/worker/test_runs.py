"""Runs on real workers: from a hint to the end, whatever dies on the way."""

import time
from collections import Counter

from services.core.runs.states import RunState
from tests.integration.worker.lab import Lab

DONE = {"text": "done in try 1"}


async def test_a_hint_leads_to_a_finished_run(lab: Lab) -> None:
    """Accept, hint, claim, execute, finish: within a second on an idle system."""
    await lab.start_worker()

    started_s = time.monotonic()
    run_id = await lab.post()
    (run,) = await lab.wait(run_id)

    assert (RunState.SUCCEEDED, DONE) == (run.state, run.output)
    assert [1, 1] == [step.attempts for step in run.steps]
    assert time.monotonic() - started_s < 2


async def test_a_burst_is_shared_by_few_messages_and_ends(lab: Lab) -> None:
    """More runs than slots: all end, each step once."""
    await lab.start_worker(CELERY_CONCURRENCY="20")

    runs = await lab.wait(*[await lab.post() for _ in range(100)])

    assert {RunState.SUCCEEDED} == {run.state for run in runs}
    assert {1} == set(Counter(lab.noted()).values())


async def test_a_failed_step_is_tried_again_by_the_record(lab: Lab) -> None:
    """A retry waits in PostgreSQL, and only the failed step is repeated."""
    await lab.start_worker()

    (run,) = await lab.wait(await lab.post("flaky"))

    assert (RunState.SUCCEEDED, [1, 2]) == (run.state, [step.attempts for step in run.steps])
    assert {"first": 1, "second": 2} == Counter(note.split()[0] for note in lab.noted())


async def test_sigterm_gives_runs_back_at_once(lab: Lab) -> None:
    """What does not end within the grace period goes to another worker at once, uncounted."""
    worker = await lab.start_worker()
    quick, slow = await lab.post("wait", 0.5), await lab.post("wait", 60)
    await lab.wait_for_step("second", quick)
    await lab.wait_for_step("second", slow)

    took_s = worker.stop()
    quick_run, slow_run = await lab.get(quick), await lab.get(slow)

    assert [RunState.SUCCEEDED, RunState.QUEUED] == [quick_run.state, slow_run.state]
    assert (0, 0) == (slow_run.crashes, slow_run.lapses)
    assert "died" not in worker.output()  # it said goodbye, so its watcher buried nobody
    assert took_s < 6
    assert 0 == worker.process.returncode


async def test_given_back_runs_go_on_after_their_checkpoint(lab: Lab) -> None:
    """A deployment in mid-run costs the step that was under way, no more."""
    worker = await lab.start_worker()
    run_id = await lab.post("wait", 2)
    await lab.wait_for_step("second", run_id)

    worker.stop()
    await lab.start_worker()
    (run,) = await lab.wait(run_id)

    assert (RunState.SUCCEEDED, {"text": "done in try 2"}) == (run.state, run.output)
    assert {"first": 1, "second": 2} == Counter(note.split()[0] for note in lab.noted())


async def test_the_isolated_worker_gives_runs_back_too(lab: Lab) -> None:
    """SIGTERM to the prefork worker: its child hands the run back and is not counted as a crash."""
    isolated = await lab.start_worker(pool="prefork")
    run_id = await lab.post_suspect("wait", 60)
    await lab.wait_for_step("second", run_id)

    took_s = isolated.stop()
    run = await lab.get(run_id)

    assert (RunState.QUEUED, 0) == (run.state, run.crashes)
    assert took_s < 10


async def test_a_time_limit_keeps_what_was_done(lab: Lab) -> None:
    """Celery's soft limit gives a suspect run back; it goes on after its checkpoint, uncounted."""
    limits = {"STEP_TIMEOUT_S": "3.9", "TASK_SOFT_TIME_LIMIT_S": "4", "TASK_TIME_LIMIT_S": "20"}
    await lab.start_worker(pool="prefork", **{f"CELERY_{name}": s for name, s in limits.items()})

    (run,) = await lab.wait(await lab.post_suspect("wait twice", 3), within_s=40)

    assert (RunState.SUCCEEDED, 0) == (run.state, run.crashes)
    assert {"first": 1, "second": 2} == Counter(note.split()[0] for note in lab.noted())
