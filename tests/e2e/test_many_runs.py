"""Many runs at once, and a worker that dies in the middle of them."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import Api, Stack

# A killed worker's runs are suspects: they go on alone, as many at a time as worker-isolated has processes.
pytestmark = pytest.mark.timeout(300)

RUNS = 200
TIMEOUT_S = 240


def _post_many(api: Api, body: dict[str, Any], count: int = RUNS) -> list[str]:
    with ThreadPoolExecutor(20) as threads:
        return [run["id"] for run in threads.map(api.post_run, [body] * count)]


def _wait_for_all(api: Api, run_ids: list[str]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + TIMEOUT_S
    return [api.wait(run_id, timeout_s=deadline - time.monotonic()) for run_id in run_ids]


def test_200_runs_at_once_all_succeed(api: Api, outreach, simulator) -> None:
    """200 runs at 1 s per call: all succeed, no step runs twice, record, events and emails agree."""
    simulator.put("/admin/faults", json={"latency_ms": 1000}).raise_for_status()

    runs = _wait_for_all(api, _post_many(api, outreach()))

    assert {"succeeded"} == {run["state"] for run in runs}
    assert {1} == {step["attempts"] for run in runs for step in run["steps"]}
    for run in runs:
        last = api.read_events(run["id"])[-1]
        email = api.get(f"/v1/emails/{run['output']['email_id']}")
        assert last[1] == "run.succeeded"
        assert run["output"]["body"] == email["body"]


def test_a_killed_worker_loses_no_run(api: Api, outreach, simulator, stack: Stack) -> None:
    """SIGKILL of the worker in the middle of 200 runs, then its return: all still succeed."""
    simulator.put("/admin/faults", json={"latency_ms": 1000}).raise_for_status()
    run_ids = _post_many(api, outreach())
    while not api.get("/v1/runs", state="running", limit=1)["items"]:
        time.sleep(0.05)

    stack.run(stack.kill_worker)
    states = {api.get(f"/v1/runs/{run_id}")["state"] for run_id in run_ids}
    stack.run(stack.start_worker)
    runs = _wait_for_all(api, run_ids)

    assert states - {"succeeded"}, "the worker had finished before it was killed"
    assert {"succeeded"} == {run["state"] for run in runs}
    for run in runs:
        events = api.read_events(run["id"])
        assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
        succeeded = [data["step"] for _, kind, data in events if kind == "step.succeeded"]
        assert [step["name"] for step in run["steps"]] == succeeded
        assert run["output"]["body"] == api.get(f"/v1/emails/{run['output']['email_id']}")["body"]
