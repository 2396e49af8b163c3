"""What the death of a worker costs: the guilty run is counted out, the others go on at once."""

import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from services.core.runs.models import Run
from services.core.runs.states import FailureReason, RunState
from tests.fakes.waiting import until
from tests.integration.worker.lab import LEASE_TTL_S, Lab, LabWorker

INNOCENTS = 20
LONG_LEASE = {"CELERY_LEASE_TTL_S": "60"}
"""Nothing here may wait for a lease to lapse."""


async def _post_waiting(lab: Lab, count: int, seconds: float) -> list[UUID]:
    """Runs that wait in their second step."""
    run_ids = [await lab.post("wait", seconds) for _ in range(count)]
    await until(lambda: sum("second" in note for note in lab.noted()) >= count, within_s=15)
    return run_ids


def _assert_counted_out(lab: Lab, run: Run) -> None:
    """It died three times and was begun three times: no more, and no less."""
    assert run.failure is not None
    assert (RunState.FAILED, FailureReason.CRASHED, 3) == (
        run.state,
        run.failure.reason,
        run.crashes,
    )
    assert 3 == Counter(lab.noted())[f"second {run.id}"]


@pytest.mark.parametrize("poison", ["exit 0", "exit 1", "sigkill", "segfault"])
async def test_a_poison_run_is_counted_out_and_nobody_else(lab: Lab, poison: str) -> None:
    """However it ends its process, it is charged, and the twenty that share the process are not."""
    await lab.start_worker(pool="prefork", **LONG_LEASE)
    await lab.start_worker(is_restarted=True, CELERY_CONCURRENCY="50", **LONG_LEASE)
    innocents = await _post_waiting(lab, INNOCENTS, 2)

    poisoned, *others = await lab.wait(await lab.post(poison), *innocents, within_s=60)

    _assert_counted_out(lab, poisoned)
    assert {(RunState.SUCCEEDED, 0)} == {(run.state, run.crashes) for run in others}


async def test_a_kill_from_outside_costs_seconds(lab: Lab) -> None:
    """Nobody was on the CPU, so nobody is charged; the runs go on at once, not a lease later."""
    worker = await lab.start_worker(CELERY_CONCURRENCY="50", **LONG_LEASE)
    run_ids = await _post_waiting(lab, INNOCENTS, 1)
    given_back = f"died (SIGKILL): no run was on the CPU; {INNOCENTS} runs given back"

    os.kill(worker.pool_pid, signal.SIGKILL)
    killed_s = time.monotonic()
    await until(lambda: given_back in worker.output())
    given_back_s = time.monotonic() - killed_s
    runs = await lab.wait(*run_ids, within_s=20)

    assert given_back_s < 4
    assert {(RunState.SUCCEEDED, 0)} == {(run.state, run.crashes) for run in runs}


async def test_the_watcher_starts_a_worker_again_that_died(lab: Lab) -> None:
    """Nobody waits for the container, which would restart later and later; a stop is a stop."""
    worker = await lab.start_worker(**LONG_LEASE)
    for starts in (1, 2):
        await until(partial(_has_started, worker, times=starts), within_s=20)
        await lab.wait_for_step("second", await lab.post("wait", 0.1))
        os.kill(worker.pool_pid, signal.SIGKILL)
    await until(partial(_has_started, worker, times=3), within_s=20)
    (run,) = await lab.wait(await lab.post("wait", 0.1))

    assert RunState.SUCCEEDED is run.state
    assert worker.process.poll() is None
    worker.stop()
    assert worker.process.returncode == 0


async def test_a_stopped_workers_runs_start_elsewhere_at_once(lab: Lab) -> None:
    """The stopping worker itself hints what it gives back: no sweep, no look of the other is awaited."""
    worker = await lab.start_worker()
    run_id = await lab.post("wait", 30)
    await lab.wait_for_step("second", run_id)
    await lab.start_worker(CELERY_POLL_INTERVAL_S="60")

    worker.stop()
    stopped_s = time.monotonic()
    await until(lambda: lab.noted().count(f"second {run_id}") == 2, within_s=10)

    assert time.monotonic() - stopped_s < 2


async def test_nothing_survives_the_watcher(lab: Lab) -> None:
    """SIGKILL of the watcher takes its worker along; what neither can report, the leases do."""
    worker = await lab.start_worker()
    run_id = await lab.post("wait", 1)
    await lab.wait_for_step("second", run_id)
    pool = worker.pool_pid

    worker.stop(signal.SIGKILL)
    await until(lambda: not _runs(pool))
    await lab.start_worker()
    (run,) = await lab.wait(run_id)

    assert (RunState.SUCCEEDED, 0) == (run.state, run.crashes)


async def test_a_blocked_loop_is_no_crash(lab: Lab) -> None:
    """Longer than the lease: others finish the runs, and the zombie writes nothing when it wakes."""
    blocked = await lab.start_worker()
    innocents = await _post_waiting(lab, 2, 1)
    await lab.wait_for_step("second", await lab.post("block", 2 * LEASE_TTL_S))
    await lab.start_worker(CELERY_CONCURRENCY="2")

    runs = await lab.wait(*innocents, within_s=40)
    await until(lambda: "loop was blocked" in blocked.output())

    assert {(RunState.SUCCEEDED, 0)} == {(run.state, run.crashes) for run in runs}
    assert blocked.process.poll() is None


async def test_a_loop_blocked_for_ever_ends_its_process(lab: Lab) -> None:
    """Nothing else can end such code; the run that holds the loop is charged, the others go on."""
    await lab.start_worker(is_restarted=True, LAB_LAG_LIMIT_S="2", **LONG_LEASE)
    innocents = await _post_waiting(lab, 3, 1)
    blocking = await lab.post("block", 600)

    runs = await lab.wait(*innocents, within_s=40)
    guilty = await lab.get(blocking)

    assert {(RunState.SUCCEEDED, 0)} == {(run.state, run.crashes) for run in runs}
    assert (RunState.QUEUED, 1) == (guilty.state, guilty.crashes)


async def test_sys_exit_in_a_step_ends_nothing(lab: Lab) -> None:
    """It is a failed try like any other, on both pools."""
    workers = [await lab.start_worker(), await lab.start_worker(pool="prefork")]
    leaving = [await lab.post("system exit"), await lab.post_suspect("system exit")]
    other = await lab.post("wait", 1)

    *failed, succeeded = await lab.wait(*leaving, other, within_s=30)

    assert [FailureReason.RETRIES_EXHAUSTED] * 2 == [run.failure.reason for run in failed]
    assert (RunState.SUCCEEDED, 0) == (succeeded.state, succeeded.crashes)
    assert [None, None] == [worker.process.poll() for worker in workers]


async def test_a_cancelled_call_is_cut_off_within_two_seconds(lab: Lab) -> None:
    """Also with a long lease; a step that resists is abandoned, and its slot is free."""
    worker = await lab.start_worker(CELERY_CONCURRENCY="2", **LONG_LEASE)
    hanging, resisting = await lab.post("wait", 60), await lab.post("resist")
    for run_id in (hanging, resisting):
        await lab.wait_for_step("second", run_id)

    started_s = time.monotonic()
    await lab.cancel(hanging)
    await until(lambda: "was cut off" in worker.output())
    took_s = time.monotonic() - started_s
    await lab.cancel(resisting)
    abandoned = f"step second of run {resisting} ignored its cancellation"
    await until(lambda: abandoned in worker.output())
    runs = await lab.wait(await lab.post("wait", 1), await lab.post("wait", 1), within_s=15)

    assert took_s < 2
    assert [RunState.SUCCEEDED] * 2 == [run.state for run in runs]


def _has_started(worker: LabWorker, *, times: int) -> bool:
    """Whether it has come to consuming so many times."""
    return worker.output().count(" ready.") == times


def _runs(pid: int) -> bool:
    """Whether a process executes anything; one that nobody has reaped yet does not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status
