"""Batches over HTTP as deployed: ten thousand rows, two processes, a worker beside them."""

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from services.core.runs.models import Failure
from services.core.runs.states import FailureReason
from services.core.runs.store import RunStore
from tests.integration.api.conftest import RUN, Gunicorn
from tests.integration.api.test_gunicorn import SHAPE

ROWS = 10_000
FAILURE = Failure(FailureReason.PERMANENT, "parse_template", "=It cannot be done.", 1)
NDJSON = {"Content-Type": "application/x-ndjson"}


def inputs(count: int) -> list[dict[str, Any]]:
    """Good inputs that differ."""
    return [
        RUN["input"] | {"recipient": {"name": f"Dr. Marsh {number}"}} for number in range(count)
    ]


def post(client: httpx.Client, rows: list[Any], **headers: str) -> dict[str, Any]:
    """Post a batch that must be accepted."""
    body = {"pipeline": "outreach_email", "inputs": rows}
    answer = client.post("/v1/batches", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def read(client: httpx.Client, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch."""
    answer = client.get(f"/v1/batches/{batch['id']}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def end(store: RunStore, *ends: str) -> None:
    """Do what a worker does with as many due runs, so that each ends as told."""
    leases = await store.claim_due_runs(owner="test", limit=len(ends), shapes=(SHAPE,))
    for lease, how in zip(leases, ends, strict=True):
        await store.start_step(lease, "parse_template")
        if how == "failed":
            await store.fail_run(lease, FAILURE)
        else:
            await store.finish_run(lease, {"subject": lease.input["recipient"]["name"]})


@asynccontextmanager
async def watching(client: httpx.Client, batch: dict[str, Any]) -> AsyncIterator[httpx.Response]:
    """An open stream, on a connection of its own, so that any process may have it."""
    # There is no TLS here, so no certificates need be loaded.
    opened = httpx.AsyncClient(
        base_url=client.base_url,
        headers=client.headers,
        timeout=15,
        verify=False,  # noqa: S501 - see above
    )
    async with opened as http, http.stream("GET", f"/v1/batches/{batch['id']}/events") as answer:
        assert answer.status_code == 200
        yield answer


async def events_of(client: httpx.Client, batch: dict[str, Any]) -> list[tuple[int, str, Any]]:
    """Every event to the end: (id, type, data)."""
    events, fields = [], {}
    async with watching(client, batch) as answer:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif "id" in fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
    return events


@pytest.fixture(autouse=True)
def _empty_queue(client: httpx.Client) -> None:
    """Nothing is left of the test before."""
    for batch in client.get("/v1/batches").json()["items"]:
        client.post(f"/v1/batches/{batch['id']}/cancel").raise_for_status()


def test_ten_thousand_rows_are_accepted_at_once(client: httpx.Client) -> None:
    """All or none; listed, shown, written out whole, and cancelled."""
    began_s = time.monotonic()
    batch = post(client, inputs(ROWS))
    seconds = time.monotonic() - began_s

    assert (batch["total"], batch["rejected"], batch["counts"]["queued"]) == (ROWS, 0, ROWS)
    assert seconds < 30, "it would have been cut off"
    lines = client.get(f"/v1/batches/{batch['id']}/results").text.splitlines()
    assert list(range(1, ROWS + 1)) == [json.loads(line)["row"] for line in lines]
    cancelled = client.post(f"/v1/batches/{batch['id']}/cancel").json()
    assert (cancelled["counts"]["cancelled"], cancelled["progress"]) == (ROWS, 1)
    assert client.get("/v1/batches").json()["items"][0]["id"] == batch["id"]


def test_good_rows_run_and_bad_ones_are_reported(client: httpx.Client) -> None:
    """By row and field, also beyond those that the answer shows."""
    rows: list[Any] = inputs(3000)
    for number in range(10, 3000, 10):
        rows[number - 1] = {"template": "Dear {{name}}"}
    rows[0] = "nonsense"
    batch = post(client, rows)

    assert (batch["accepted"], batch["rejected"]) == (2700, 300)
    assert len(batch["errors"]) == 100
    url, cursor, errors = f"/v1/batches/{batch['id']}/errors", None, []
    while page := client.get(
        url, params={"limit": 200} | ({"cursor": cursor} if cursor else {})
    ).json():
        errors += page["items"]
        if not (cursor := page["next_cursor"]):
            break
    assert [1, *range(10, 3000, 10)] == sorted({error["row"] for error in errors})
    assert {"", "/template_type", "/recipient"} == {error["field"] for error in errors}


def test_a_batch_without_a_good_row_is_refused(client: httpx.Client) -> None:
    """There is nothing of it then."""
    before = client.get("/v1/batches").json()["items"]
    body = {"pipeline": "outreach_email", "inputs": [{}]}
    refused = client.post("/v1/batches", json=body)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["row"] == 1
    assert client.get("/v1/batches").json()["items"] == before


def test_a_batch_that_is_posted_again_is_the_same(client: httpx.Client, server: Gunicorn) -> None:
    """Also at the same time, through either process."""
    headers = dict(client.headers) | {"Idempotency-Key": f"batch-{time.time_ns()}"}
    body = {"pipeline": "outreach_email", "inputs": inputs(500)}

    def send(_: int) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/batches", json=body, headers=headers, timeout=30)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(send, range(4)))

    assert [202] * 4 == [answer.status_code for answer in answers]
    [batch_id] = {answer.json()["id"] for answer in answers}
    assert read(client, {"id": batch_id})["counts"]["queued"] == 500
    other = client.post("/v1/batches", json=body | {"priority": 1}, headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_and_ndjson_give_the_same_runs(client: httpx.Client, ending: str) -> None:
    """With a mapping of columns, and a byte order mark as spreadsheets write it."""
    rows = inputs(20)
    lines = ending.join(json.dumps(row) for row in rows)
    params: dict[str, Any] = {"pipeline": "outreach_email"}
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow(["Text", "Who", "From", "Kind", "Unused"])
    writer.writerows(
        [r["template"], r["recipient"]["name"], r["sender"], r["template_type"], "x"] for r in rows
    )
    columns = ["template=Text", "/recipient/name=Who", "sender=From", "template_type=Kind"]
    answers = [
        client.post("/v1/batches", content=lines.encode(), params=params, headers=NDJSON),
        client.post(
            "/v1/batches",
            content=table.getvalue().encode("utf-8-sig"),
            params=params | {"columns": columns},
            headers={"Content-Type": "text/csv"},
        ),
    ]
    found = []
    for answer in answers:
        assert answer.status_code == 202, answer.text
        page = client.get("/v1/runs", params={"batch_id": answer.json()["id"], "limit": 200}).json()
        found.append([run["input"] for run in reversed(page["items"])])

    assert [rows, rows] == found


async def test_watchers_see_a_batch_to_its_end(
    client: httpx.Client, worker_store: RunStore
) -> None:
    """Whichever process they are connected to."""
    batch = await asyncio.to_thread(post, client, inputs(6))
    watchers = [asyncio.create_task(events_of(client, batch)) for _ in range(6)]
    await asyncio.sleep(1.5)
    await end(worker_store, "succeeded", "failed")
    await asyncio.sleep(1.5)
    await end(worker_store, "failed", *["succeeded"] * 3)

    async with asyncio.timeout(10):
        streams = await asyncio.gather(*watchers)
    for events in streams:
        progress = [data["progress"] for _, _, data in events]
        ids = [number for number, _, _ in events]
        assert progress == sorted(progress)
        assert ids == sorted(set(ids))
        assert (progress[0], progress[-1]) == (0, 1)
        assert any(0 < part < 1 for part in progress)
        assert [kind for _, kind, _ in events].index("batch.finished") == len(events) - 1
        counts = events[-1][2]["counts"]
        assert (counts["succeeded"], counts["failed"], counts["queued"]) == (4, 2, 0)


async def test_results_are_the_same_in_both_formats(
    client: httpx.Client, worker_store: RunStore
) -> None:
    """In the order of the rows; then what failed is tried again."""
    batch = await asyncio.to_thread(post, client, inputs(6))
    await end(worker_store, "succeeded", "failed", "failed", *["succeeded"] * 3)
    url = f"/v1/batches/{batch['id']}"
    lines = (await asyncio.to_thread(client.get, f"{url}/results")).text.splitlines()
    results = [json.loads(line) for line in lines]
    table = (await asyncio.to_thread(client.get, f"{url}/results?format=csv")).text
    cells = list(csv.DictReader(io.StringIO(table, newline="")))

    assert [1, 2, 3, 4, 5, 6] == [result["row"] for result in results]
    for result, row in zip(results, cells, strict=True):
        assert (result["state"], result["run_id"]) == (row["state"], row["run_id"])
        if result["state"] == "succeeded":
            subject = f"Dr. Marsh {result['row'] - 1}"
            assert result["output"]["subject"] == row["output.subject"] == subject
        else:
            assert row["failure.message"] == "'=It cannot be done."
    retried = await asyncio.to_thread(client.post, f"{url}/retry")
    assert (retried.status_code, retried.json()) == (202, {"replayed": 2})
    await end(worker_store, "succeeded", "succeeded")
    batch = await asyncio.to_thread(read, client, batch)
    assert (batch["counts"]["succeeded"], batch["eta_s"]) == (6, 0)
