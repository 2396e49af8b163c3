"""Batches over HTTP: each format of rows, bad rows, repeating safely, results, events, and what is refused."""

import asyncio
import csv
import dataclasses
import io
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from uuid_utils.compat import uuid7

from config.anthropic import AnthropicSettings
from services.api.app import create_app
from services.api.batch_hub import BatchHub
from services.api.batch_rows import MAX_ROWS
from services.api.dependencies import Dependencies
from services.core.runs.states import EventType, RunMode, RunState
from tests.fakes.run_store import InMemoryRunStore
from tests.fakes.waiting import until
from tests.unit.api.conftest import MAX_BODY_BYTES, RecordingPublisher, add_key, client_of
from tests.unit.api.routes.test_events import parse
from tests.unit.api.test_errors import assert_problem, fields_of

NDJSON = {"Content-Type": "application/x-ndjson"}
CSV = {"Content-Type": "text/csv; charset=utf-8"}
ROWS: list[dict[str, Any]] = [{"name": "Elena"}, {"name": ""}, {"name": "Sam", "lines": ["x"]}]


async def post(
    client: httpx.AsyncClient, *inputs: dict[str, Any], **members: Any
) -> dict[str, Any]:
    """Post a batch that must be accepted."""
    body = {"pipeline": "letter", "inputs": inputs or ROWS} | members
    answer = await client.post("/v1/batches", json=body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def runs_of(store: InMemoryRunStore, batch: dict[str, Any]) -> list[UUID]:
    """The ids of a batch's runs, in the order of their rows."""
    return [run.id for run in store.batches.runs_of(UUID(batch["id"]))]


@pytest.fixture
async def ended(client: httpx.AsyncClient, store: InMemoryRunStore) -> dict[str, Any]:
    """A batch whose three runs have ended, each in another way."""
    batch = await post(client, *({"name": name} for name in "abc"))
    first, second, third = runs_of(store, batch)
    store.append_event(first, EventType.RUN_SUCCEEDED)
    output = {"text": "=1+1", "parts": [1, "é"], "more": True}
    store.runs[first] = dataclasses.replace(
        store.runs[first], output=output, cost_usd=Decimal("0.0125")
    )
    store.append_event(second, EventType.RUN_FAILED, reason="crashed", message="-It died")
    store.append_event(third, EventType.RUN_CANCELLED)
    return batch


async def test_a_json_batch_is_accepted(
    client: httpx.AsyncClient, store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """Good rows are runs with what all have in common; bad ones are reported; one hint wakes a worker."""
    members = {"priority": 5, "budget_usd": 0.5, "metadata": {"a": 1}, "mode": "batch"}
    answer = await client.post("/v1/batches", json={"inputs": ROWS, "pipeline": "letter"} | members)

    batch = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/batches/{batch['id']}"
    assert (batch["total"], batch["accepted"], batch["rejected"]) == (3, 2, 1)
    assert batch["counts"] == {
        "queued": 2,
        "running": 0,
        "succeeded": 0,
        "failed": 0,
        "cancelled": 0,
    }
    assert (batch["progress"], batch["cost_usd"], batch["eta_s"], batch["finished_at"]) == (
        0,
        0,
        None,
        None,
    )
    [error] = batch["errors"]
    assert (error["row"], error["field"]) == (2, "/name")
    runs = [store.runs[run_id] for run_id in runs_of(store, batch)]
    assert [(1, ROWS[0]), (3, ROWS[2])] == [(run.batch_row, run.input) for run in runs]
    for run in runs:
        assert (run.priority, run.budget_usd, run.metadata) == (5, Decimal("0.5"), {"a": 1})
        assert run.mode is RunMode.BATCH
    assert [(run.id, False) for run in runs] == publisher.hints


async def test_an_ndjson_batch_is_accepted(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """The other members are query parameters."""
    params = {
        "pipeline": "letter",
        "priority": "-3",
        "budget_usd": "0.25",
        "metadata": '{"a": 1}',
        "mode": "batch",
    }
    body = "\n".join([json.dumps(ROWS[0]), "", "{", json.dumps(ROWS[2])])
    answer = await client.post("/v1/batches", content=body, params=params, headers=NDJSON)

    batch = answer.json()
    assert answer.status_code == 202, answer.text
    assert (batch["total"], batch["rejected"]) == (3, 1)
    assert [error["row"] for error in batch["errors"]] == [3]
    runs = [store.runs[run_id] for run_id in runs_of(store, batch)]
    assert [(1, ROWS[0]), (4, ROWS[2])] == [(run.batch_row, run.input) for run in runs]
    assert (runs[0].priority, runs[0].budget_usd, runs[0].metadata) == (
        -3,
        Decimal("0.25"),
        {"a": 1},
    )


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        ('name,lines\r\nElena,\r\n,\r\nSam,"[""x""]"\r\n', []),
        ('L,N\r\n,Elena\r\n,\r\n"[""x""]",Sam\r\n', ["name=N", "lines=L"]),
    ],
)
async def test_a_csv_batch_is_accepted(
    client: httpx.AsyncClient, store: InMemoryRunStore, body: str, columns: list[str]
) -> None:
    """With names of fields in its header, or with a mapping."""
    params = {"pipeline": "letter", "columns": columns}
    answer = await client.post("/v1/batches", content=body, params=params, headers=CSV)

    batch = answer.json()
    assert answer.status_code == 202, answer.text
    assert [(error["row"], error["field"]) for error in batch["errors"]] == [(2, "/name")]
    runs = [store.runs[run_id] for run_id in runs_of(store, batch)]
    assert [(1, ROWS[0]), (3, ROWS[2])] == [(run.batch_row, run.input) for run in runs]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"pipeline": "letter"}, "/inputs"),
        ({"pipeline": "letter", "inputs": {}}, "/inputs"),
        ({"pipeline": "letter", "inputs": []}, ""),
        ({"inputs": ROWS}, "/pipeline"),
        ({"pipeline": 3, "inputs": ROWS}, "/pipeline"),
        ({"pipeline": "letter", "inputs": ROWS, "surprise": 1}, "/surprise"),
        ({"pipeline": "letter", "inputs": ROWS, "priority": 101}, "/priority"),
        ({"pipeline": "letter", "inputs": ROWS, "budget_usd": 0}, "/budget_usd"),
        ({"pipeline": "letter", "inputs": ROWS, "mode": "fast"}, "/mode"),
        ({"pipeline": "letter", "inputs": ROWS, "metadata": {"a": [1]}}, "/metadata/a"),
        ({"pipeline": "letter", "inputs": [{}] * (MAX_ROWS + 1)}, ""),
        ([], ""),
    ],
)
async def test_each_wrong_member_is_pointed_at(
    client: httpx.AsyncClient, store: InMemoryRunStore, body: Any, field: str
) -> None:
    """As for a run; nothing is accepted."""
    problem = assert_problem(await client.post("/v1/batches", json=body), 422, "invalid-request")

    assert ("body", field) in fields_of(problem)
    assert store.runs == {}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "/pipeline"),
        ("pipeline=letter&priority=x", "/priority"),
        ("pipeline=letter&budget_usd=-1", "/budget_usd"),
        ("pipeline=letter&metadata=x", "/metadata"),
        ("pipeline=letter&metadata=[1]", "/metadata"),
        ("pipeline=letter&surprise=1", "/surprise"),
        ("pipeline=letter&columns=name=N", "/columns"),
    ],
)
async def test_each_wrong_parameter_is_pointed_at(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    """Where the body holds rows only."""
    answer = await client.post(f"/v1/batches?{query}", content=b'{"name": "a"}', headers=NDJSON)

    problem = assert_problem(answer, 422, "invalid-request")
    assert ("query", field) in fields_of(problem)


async def test_parameters_of_a_json_body_are_refused(client: httpx.AsyncClient) -> None:
    """Two places for one thing would be one too many."""
    body = {"pipeline": "letter", "inputs": ROWS}
    problem = assert_problem(
        await client.post("/v1/batches?priority=1", json=body), 422, "invalid-request"
    )

    assert fields_of(problem) == [("query", "/priority")]


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/json-lines"])
async def test_another_media_type_is_refused(
    client: httpx.AsyncClient, media_type: str | None
) -> None:
    """The remedy is in the problem; and a run is still JSON only."""
    headers = {"Content-Type": media_type} if media_type else {}
    answer = await client.post("/v1/batches?pipeline=letter", content=b"name\r\na", headers=headers)

    problem = assert_problem(answer, 415, "unsupported-media-type")
    assert "text/csv" in problem["detail"]
    assert_problem(
        await client.post("/v1/runs", content=b"name\r\na", headers=CSV),
        415,
        "unsupported-media-type",
    )


async def test_a_batch_has_a_body_limit_of_its_own(
    dependencies: Dependencies, store: InMemoryRunStore
) -> None:
    """Larger than that of a run, and there is an end to it."""
    settings = dependencies.settings.model_copy(update={"max_batch_bytes": 3 * MAX_BODY_BYTES})
    app = create_app(dataclasses.replace(dependencies, settings=settings))
    async with client_of(app, await add_key(store)) as client:
        taken = await client.post(
            "/v1/batches",
            json={"pipeline": "letter", "inputs": [{"name": "x" * 2 * MAX_BODY_BYTES}]},
        )
        refused = await client.post(
            "/v1/batches",
            json={"pipeline": "letter", "inputs": [{"name": "x" * 3 * MAX_BODY_BYTES}]},
        )

    assert taken.status_code == 202
    assert_problem(refused, 413, "body-too-large")


async def test_a_batch_without_a_good_row_is_refused(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """With the rows in the problem, and there is no batch."""
    body = {"pipeline": "letter", "inputs": [{}, {"name": "", "x": 1}]}
    problem = assert_problem(await client.post("/v1/batches", json=body), 422, "invalid-request")

    assert [(1, "/name"), (2, "/name"), (2, "/x")] == [
        (error["row"], error["field"]) for error in problem["errors"]
    ]
    assert store.batches.batches == {}


async def test_what_stops_a_run_stops_a_batch(
    client: httpx.AsyncClient, dependencies: Dependencies, store: InMemoryRunStore
) -> None:
    """An unknown pipeline, a queue without room for all of it, no Claude, no record."""
    body = {"pipeline": "letter", "inputs": ROWS}
    unknown = await client.post("/v1/batches", json=body | {"pipeline": "lettre"})
    assert_problem(unknown, 422, "unknown-pipeline")

    store._max_queued_runs = 1
    assert_problem(await client.post("/v1/batches", json=body), 429, "queue-full")
    store._max_queued_runs = 2
    assert (await client.post("/v1/batches", json=body)).status_code == 202

    app = create_app(dataclasses.replace(dependencies, anthropic=AnthropicSettings()))
    async with client_of(app, await add_key(store)) as other:
        assert_problem(await other.post("/v1/batches", json=body), 503, "claude-not-configured")
    store.is_away = True
    assert_problem(await client.post("/v1/batches", json=body), 503, "record-unavailable")


async def test_a_post_can_be_repeated_safely(
    client: httpx.AsyncClient, store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """The same key and request give the same batch again; another request under the key is refused."""
    headers = {"Idempotency-Key": "1"}
    body = {"pipeline": "letter", "inputs": ROWS}
    first = (await client.post("/v1/batches", json=body, headers=headers)).json()
    again = (await client.post("/v1/batches", json=body, headers=headers)).json()
    hints = len(publisher.hints)
    other = await client.post("/v1/batches", json=body | {"priority": 1}, headers=headers)
    ndjson = NDJSON | headers
    line = await client.post("/v1/batches?pipeline=letter", content=b'{"name":"a"}', headers=ndjson)

    assert again == first | {"eta_s": None}
    assert len(store.runs) == hints == 2
    for answer in (other, line):
        assert_problem(answer, 422, "idempotency-conflict")


async def test_batches_are_listed_and_shown(client: httpx.AsyncClient) -> None:
    """Newest first; one alone says how far it is."""
    posted = [(await post(client))["id"] for _ in range(3)]
    page = (await client.get("/v1/batches", params={"limit": 2})).json()
    rest = (await client.get("/v1/batches", params={"cursor": page["next_cursor"]})).json()
    one = (await client.get(f"/v1/batches/{posted[0]}")).json()

    assert posted[::-1] == [batch["id"] for batch in page["items"] + rest["items"]]
    assert rest["next_cursor"] is None
    assert one["id"] == posted[0]
    assert one["counts"]["queued"] == 2


async def test_runs_can_be_listed_by_batch(client: httpx.AsyncClient) -> None:
    """A run says which batch and row it is of."""
    batch = await post(client)
    await client.post("/v1/runs", json={"pipeline": "letter", "input": ROWS[0]})

    found = (await client.get("/v1/runs", params={"batch_id": batch["id"]})).json()["items"]
    everything = (await client.get("/v1/runs")).json()["items"]

    assert {(batch["id"], 1), (batch["id"], 3)} == {
        (run["batch_id"], run["batch_row"]) for run in found
    }
    assert (everything[0]["batch_id"], everything[0]["batch_row"]) == (None, None)


async def test_the_answer_shows_the_first_errors_and_a_list_has_all(
    client: httpx.AsyncClient,
) -> None:
    """Page by page."""
    batch = await post(client, {"name": "a"}, *[{} for _ in range(150)])
    url = f"/v1/batches/{batch['id']}/errors"
    first = (await client.get(url, params={"limit": 120})).json()
    second = (await client.get(url, params={"limit": 120, "cursor": first["next_cursor"]})).json()

    assert [error["row"] for error in batch["errors"]] == list(range(2, 102))
    assert [error["row"] for error in first["items"] + second["items"]] == list(range(2, 152))
    assert second["next_cursor"] is None


async def test_a_key_sees_only_its_own_batches(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    """To others there is nothing, and nothing happens to it."""
    batch = await post(client)
    url = f"/v1/batches/{batch['id']}"
    for method, path in (
        ("GET", url),
        ("GET", f"{url}/errors"),
        ("GET", f"{url}/events"),
        ("GET", f"{url}/results"),
        ("POST", f"{url}/cancel"),
        ("POST", f"{url}/retry"),
        ("GET", f"/v1/batches/{uuid7()}"),
    ):
        assert_problem(await other_client.request(method, path), 404, "not-found")

    assert (await other_client.get("/v1/batches")).json()["items"] == []
    assert (await other_client.get(f"/v1/runs?batch_id={batch['id']}")).json()["items"] == []
    assert (await client.get(url)).json()["counts"]["queued"] == 2


async def test_a_batch_is_cancelled(client: httpx.AsyncClient, store: InMemoryRunStore) -> None:
    """What has ended stays as it is; to cancel it again changes nothing."""
    batch = await post(client)
    store.append_event(runs_of(store, batch)[0], EventType.RUN_SUCCEEDED)
    for _ in range(2):
        answer = await client.post(f"/v1/batches/{batch['id']}/cancel")

        assert answer.status_code == 202
        assert (answer.json()["counts"]["succeeded"], answer.json()["counts"]["cancelled"]) == (
            1,
            1,
        )
        assert answer.json()["finished_at"] is not None


async def test_the_failed_runs_of_a_batch_are_retried(
    client: httpx.AsyncClient,
    store: InMemoryRunStore,
    publisher: RecordingPublisher,
    ended: dict[str, Any],
) -> None:
    """Those of other batches are left alone."""
    other = await post(client)
    store.append_event(runs_of(store, other)[0], EventType.RUN_FAILED)
    publisher.hints.clear()
    answer = await client.post(f"/v1/batches/{ended['id']}/retry")

    failed = runs_of(store, ended)[1]
    assert (answer.status_code, answer.json()) == (202, {"replayed": 1})
    assert publisher.hints == [(failed, False)]
    assert store.runs[failed].state is RunState.QUEUED


async def test_results_are_lines_in_the_order_of_the_rows(
    client: httpx.AsyncClient, store: InMemoryRunStore, ended: dict[str, Any]
) -> None:
    """NDJSON: each line with what became of its row."""
    answer = await client.get(f"/v1/batches/{ended['id']}/results")

    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert f"batch-{ended['id']}.ndjson" in answer.headers["content-disposition"]
    assert [str(run_id) for run_id in runs_of(store, ended)] == [line["run_id"] for line in lines]
    assert [(1, "succeeded"), (2, "failed"), (3, "cancelled")] == [
        (line["row"], line["state"]) for line in lines
    ]
    assert lines[0]["output"] == {"text": "=1+1", "parts": [1, "é"], "more": True}
    assert lines[0]["cost_usd"] == 0.0125
    assert lines[1]["failure"]["reason"] == "crashed"
    assert lines[2]["output"] is lines[2]["failure"] is None


async def test_results_as_csv_are_safe_to_open(
    client: httpx.AsyncClient, ended: dict[str, Any]
) -> None:
    """A column for each member of the output, JSON where it is nested, and no cell is a formula."""
    answer = await client.get(f"/v1/batches/{ended['id']}/results?format=csv")

    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert answer.headers["content-type"].startswith("text/csv")
    assert [row["state"] for row in rows] == ["succeeded", "failed", "cancelled"]
    assert rows[0]["output.text"] == "'=1+1"
    assert json.loads(rows[0]["output.parts"]) == [1, "é"]
    assert rows[0]["output.more"] == "true"
    assert rows[0]["cost_usd"] == "0.0125"
    assert (rows[1]["failure.reason"], rows[1]["failure.message"]) == ("crashed", "'-It died")


async def test_results_of_many_rows_are_whole(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Page after page."""
    store._max_queued_runs = 10_000
    batch = await post(client, *[{"name": str(number)} for number in range(250)])

    for format_, skip in (("ndjson", 0), ("csv", 1)):
        answer = await client.get(f"/v1/batches/{batch['id']}/results?format={format_}")
        assert len(answer.text.splitlines()) - skip == 250


async def test_events_tell_how_far_a_batch_is(
    app: FastAPI, client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """At once, at each change, and at the end; ids grow; who has the end is told to stop."""
    hub: BatchHub = app.state.batch_hub
    hub._poll_s = 0.05
    batch = await post(client)
    first, second = runs_of(store, batch)
    url = f"/v1/batches/{batch['id']}/events"
    watching = [asyncio.create_task(client.get(url)) for _ in range(3)]
    await until(lambda: hub.watched_batches == 1)
    store.append_event(first, EventType.RUN_SUCCEEDED)
    await asyncio.sleep(0.2)
    store.append_event(second, EventType.RUN_FAILED)

    async with asyncio.timeout(5):
        streams = [parse((await answer).text) for answer in watching]

    for events in streams:
        assert [kind for _, kind, _ in events] == [
            "batch.progress",
            "batch.progress",
            "batch.finished",
        ]
        assert [data["progress"] for _, _, data in events] == [0, 0.5, 1]
        assert events[1][2]["counts"]["succeeded"] == 1
        assert events[1][2]["eta_s"] is not None
        ids = [number for number, _, _ in events]
        assert ids == sorted(set(ids))
        assert events[0][2].keys() == {"counts", "progress", "cost_usd", "eta_s", "finished_at"}
    assert hub.watched_batches == 0
    assert store.statements.count("list_progress") < 20

    half, end = streams[0][1][0], streams[0][2][0]
    resumed = await client.get(url, headers={"Last-Event-ID": str(half)})
    stopped = await client.get(url, headers={"Last-Event-ID": str(end)})
    assert [kind for _, kind, _ in parse(resumed.text)] == ["batch.finished"]
    assert (stopped.status_code, stopped.text) == (204, "")


async def test_who_has_seen_an_end_before_a_retry_sees_the_next(
    client: httpx.AsyncClient, store: InMemoryRunStore, ended: dict[str, Any]
) -> None:
    """The end of an earlier attempt is no reason to stop."""
    url = f"/v1/batches/{ended['id']}/events"
    [(old_end, _, _)] = parse((await client.get(url)).text)
    await asyncio.sleep(0.01)
    await client.post(f"/v1/batches/{ended['id']}/retry")
    store.append_event(runs_of(store, ended)[1], EventType.RUN_SUCCEEDED)

    resumed = parse((await client.get(url, headers={"Last-Event-ID": str(old_end)})).text)

    assert [(kind, data["counts"]["succeeded"]) for _, kind, data in resumed] == [
        ("batch.finished", 2)
    ]
    assert resumed[0][0] > old_end


async def test_a_stop_ends_the_streams(app: FastAPI, client: httpx.AsyncClient) -> None:
    """A stopping process keeps nobody."""
    batch = await post(client)
    hub: BatchHub = app.state.batch_hub
    watching = asyncio.create_task(client.get(f"/v1/batches/{batch['id']}/events"))
    await until(lambda: hub.watched_batches == 1)
    hub.close()

    async with asyncio.timeout(2):
        assert [kind for _, kind, _ in parse((await watching).text)] == ["batch.progress"]
