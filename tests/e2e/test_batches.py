"""A batch through the running stack: rows of each kind, progress, results, and what failed tried again."""

import csv
import io
import json
import time

import httpx

from tests.e2e.conftest import Api, JsonObject

TIMEOUT_S = 60


def _wait(api: Api, batch: JsonObject) -> JsonObject:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        batch = api.get(f"/v1/batches/{batch['id']}")
        if batch["finished_at"]:
            break
        time.sleep(0.2)
    return batch


def _accepted(answer: httpx.Response) -> JsonObject:
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_a_batch_is_executed(api: Api, outreach, simulator) -> None:
    """Good rows succeed, the bad one is reported, and the results are those of the runs."""
    inputs = [outreach(sender=f"Sam {number}")["input"] for number in range(8)]
    inputs[3] = {"template": "Dear {{name}}"}
    body = {"pipeline": "outreach_email", "inputs": inputs, "metadata": {"campaign": "spring"}}
    batch = _accepted(api.http.post("/v1/batches", json=body))
    path = f"/v1/batches/{batch['id']}"
    events = api.read_events_of(path)
    batch = _wait(api, batch)

    assert (batch["total"], batch["rejected"], batch["counts"]["succeeded"]) == (8, 1, 7)
    assert {4} == {error["row"] for error in api.get(f"{path}/errors")["items"]}
    assert events[-1][1] == "batch.finished"
    assert {"batch.progress"} == {kind for _, kind, _ in events[:-1]}
    assert events[-1][2]["counts"] == batch["counts"]
    results = [json.loads(line) for line in api.http.get(f"{path}/results").text.splitlines()]
    assert [1, 2, 3, 5, 6, 7, 8] == [result["row"] for result in results]
    runs = {run["id"]: run for run in api.get("/v1/runs", batch_id=batch["id"])["items"]}
    for result in results:
        run = runs[result["run_id"]]
        assert (run["batch_row"], run["output"], run["metadata"]) == (
            result["row"],
            result["output"],
            {"campaign": "spring"},
        )
        assert f"Sam {result['row'] - 1}" in result["output"]["body"]
    assert abs(sum(run["cost_usd"] for run in runs.values()) - batch["cost_usd"]) < 1e-9
    table = api.http.get(f"{path}/results", params={"format": "csv"}).text
    cells = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [result["output"]["subject"] for result in results] == [
        row["output.subject"] for row in cells
    ]


def test_a_batch_of_csv_is_executed(api: Api, simulator) -> None:
    """Columns of a table become fields of the input."""
    table = (
        'Text,Who\r\n"Dear {{name}}, could we talk?",Elena\r\n"Dear {{name}}, thank you.",Sam\r\n'
    )
    params = {
        "pipeline": "outreach_email",
        "columns": ["template=Text", "recipient.name=Who", "template_type=Kind"],
    }
    headers = {"Content-Type": "text/csv"}
    refused = api.http.post("/v1/batches", content=table, params=params, headers=headers)
    table = (
        table.replace("Who\r\n", "Who,Kind\r\n")
        .replace("Elena", "Elena,general")
        .replace("Sam", "Sam,general")
    )
    batch = _wait(
        api, _accepted(api.http.post("/v1/batches", content=table, params=params, headers=headers))
    )

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "/columns/2"
    assert batch["counts"]["succeeded"] == 2


def test_a_cancelled_batch_ends(api: Api, outreach, simulator) -> None:
    """While its calls to Claude take long."""
    simulator.put("/admin/faults", json={"latency_ms": 20_000}).raise_for_status()
    inputs = [outreach()["input"]] * 5
    body = {"pipeline": "outreach_email", "inputs": inputs}
    batch = _accepted(api.http.post("/v1/batches", json=body))
    batch = _accepted(api.http.post(f"/v1/batches/{batch['id']}/cancel"))

    assert batch["counts"]["cancelled"] == 5
    assert batch["finished_at"]
