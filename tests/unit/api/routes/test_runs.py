"""Posting, reading, listing and cancelling runs."""

import hashlib
import json

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.api.routes.runs import _CreateRunRoute
from services.core import telemetry
from services.core.runs.states import EventType
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import RecordingPublisher, client_of, post_run

RUN_MEMBERS = {
    "id", "pipeline", "state", "input", "output", "failure", "metadata", "steps", "usage", "cost_usd",
    "budget_usd", "reserved_usd", "mode", "batch_id",
    "batch_row", "replays",
    "created_at", "started_at", "finished_at", "next_at", "trace_id",
}  # fmt: skip
STEP_MEMBERS = {
    "name", "state", "attempts", "started_at", "finished_at", "usage", "cost_usd", "error",
}  # fmt: skip


OWN = {"id", "created_at", "next_at", "trace_id", "request_id"}
"""What tells one request or run from the next."""


def without_own(answer: httpx.Response) -> tuple[object, object]:
    """Body and headers that two such requests have in common."""
    body = {name: value for name, value in answer.json().items() if name not in OWN}
    own = {"location", "x-request-id", "content-length"}
    return body, [(name, value) for name, value in answer.headers.items() if name not in own]


async def test_a_posted_run_is_accepted_and_hinted(
    client: httpx.AsyncClient, publisher: RecordingPublisher, letter: dict[str, object]
) -> None:
    """202, where the run is, the run as documented, and one hint."""
    answer = await client.post("/v1/runs", json=letter)

    run = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/runs/{run['id']}"
    assert set(run) == RUN_MEMBERS
    assert [set(step) for step in run["steps"]] == [STEP_MEMBERS]
    assert run["state"] == "queued"
    assert run["cost_usd"] == 0
    assert run["created_at"].endswith("Z")
    assert [(run["id"], False)] == [(str(id_), isolated) for id_, isolated in publisher.hints]


@pytest.mark.parametrize(
    "body",
    [
        {"pipeline": "letter", "input": {"name": "Zoë 🌊"}, "budget_usd": 0.1, "mode": "batch"},
        {"pipeline": "letter", "input": {"name": ""}},
        {"pipeline": "letter", "input": {"name": "a"}, "unknown": 1},
        {"pipeline": "letter", "input": {"name": "\0"}},
        {"pipeline": "none", "input": {}},
        [],
    ],
)
@pytest.mark.parametrize("keys", [[], ["k-1"], ["not visible"], ["k-1", "k-2"]])
async def test_what_is_accepted_at_once_is_accepted_as_fastapi_would(
    client: httpx.AsyncClient,
    body: object,
    keys: list[str],
    dependencies: Dependencies,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same status, headers and body, whatever is posted, before FastAPI's routes and in them."""
    content = json.dumps(body)
    headers = [("Content-Type", "application/json"), *(("Idempotency-Key", key) for key in keys)]
    at_once = await client.post("/v1/runs", content=content, headers=headers)
    with monkeypatch.context() as patch:
        patch.setattr(telemetry, "is_recording", lambda: False)
        async with client_of(
            create_app(dependencies), client.headers["Authorization"][7:]
        ) as other:
            await other.get("/v1/runs")
            before = await other.post("/v1/runs", content=content, headers=headers)
    monkeypatch.delattr(_CreateRunRoute, "answer_at_once")
    usual = await client.post("/v1/runs", content=content, headers=headers)

    assert before.status_code == at_once.status_code == usual.status_code
    assert without_own(before) == without_own(at_once) == without_own(usual)


async def test_every_field_of_a_post_reaches_the_record(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Priority, budget, metadata and idempotency key are kept as they were sent."""
    body = {
        "pipeline": "letter",
        "input": {"name": "Zoë 🌊 \u2028"},
        "priority": -7,
        "budget_usd": 0.25,
        "metadata": {"campaign": "frühling", "round": 2, "is_test": True, "score": 0.5, "x": None},
    }
    answer = await client.post("/v1/runs", json=body, headers={"Idempotency-Key": "k-1"})

    new = store.accepted[0]
    assert answer.status_code == 202, answer.text
    assert (new.pipeline, new.step_names) == ("letter", ("write_letter",))
    assert new.input == body["input"]
    assert new.metadata == body["metadata"]
    assert (new.priority, str(new.budget_usd), new.idempotency_key) == (-7, "0.25", "k-1")
    assert answer.json()["budget_usd"] == 0.25


async def test_a_repeated_post_gives_the_same_run_without_a_second_hint(
    client: httpx.AsyncClient, publisher: RecordingPublisher
) -> None:
    """The order of members and white space do not make another request."""
    key = {"Idempotency-Key": "order-1742", "Content-Type": "application/json"}
    first = await client.post(
        "/v1/runs", content='{"pipeline":"letter","input":{"name":"a","lines":[]}}', headers=key
    )
    again = await client.post(
        "/v1/runs",
        content='{"input": {"lines": [], "name": "a"}, "pipeline": "letter"}',
        headers=key,
    )

    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    assert len(publisher.hints) == 1


async def test_a_run_may_ask_in_batches(
    client: httpx.AsyncClient, store: InMemoryRunStore, letter: dict[str, object]
) -> None:
    """The mode is kept, and it makes another request; without one a run asks live."""
    key = {"Idempotency-Key": "1"}
    batch = await client.post("/v1/runs", json=letter | {"mode": "batch"}, headers=key)
    live = await client.post("/v1/runs", json=letter, headers=key)
    plain = await client.post("/v1/runs", json=letter)

    assert [new.mode for new in store.accepted] == ["batch", "live"]
    assert (batch.json()["mode"], live.status_code, plain.json()["mode"]) == ("batch", 422, "live")


async def test_a_request_from_before_there_were_modes_is_known_again(
    client: httpx.AsyncClient, store: InMemoryRunStore, letter: dict[str, object]
) -> None:
    """A client that repeats a POST during a deployment gets its run, not a conflict."""
    await client.post("/v1/runs", json=letter, headers={"Idempotency-Key": "1"})

    members = {"budget_usd": None, "metadata": {}, "priority": 0, **letter}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    assert store.accepted[0].request_hash == hashlib.sha256(canonical.encode()).digest()


async def test_keys_do_not_share_idempotency_keys(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, letter: dict[str, object]
) -> None:
    """Two clients that number their orders alike do not get each other's runs."""
    headers = {"Idempotency-Key": "1"}
    mine = await client.post("/v1/runs", json=letter, headers=headers)
    theirs = await other_client.post("/v1/runs", json=letter, headers=headers)

    assert mine.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize("path", ["/v1/runs/{}", "/v1/runs/{}/events"])
async def test_another_keys_run_is_not_there(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, path: str
) -> None:
    """A key cannot tell a foreign run from one that never was."""
    run_id = await post_run(client)

    foreign = await other_client.get(path.format(run_id))
    absent = await other_client.get(path.format(uuid7()))

    assert (foreign.status_code, absent.status_code) == (404, 404)
    assert foreign.json()["detail"] == absent.json()["detail"]


async def test_another_keys_run_is_neither_listed_nor_cancelled(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    """Owner checks are everywhere."""
    run_id = await post_run(client)

    listed = await other_client.get("/v1/runs")
    cancelled = await other_client.post(f"/v1/runs/{run_id}/cancel")

    assert listed.json() == {"items": [], "next_cursor": None}
    assert cancelled.status_code == 404
    assert (await client.get(f"/v1/runs/{run_id}")).json()["state"] == "queued"


async def test_runs_are_listed_newest_first_and_page_by_page(client: httpx.AsyncClient) -> None:
    """The cursor leads through all of them, each once."""
    posted = [str(await post_run(client)) for _ in range(5)]

    listed: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/runs", params=params)).json()
        listed += [run["id"] for run in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert posted[::-1] == listed


async def test_runs_are_filtered_by_state_and_pipeline(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Only what was asked for."""
    done, waiting = await post_run(client), await post_run(client)
    store.append_event(done, EventType.RUN_SUCCEEDED)

    queued = (await client.get("/v1/runs", params={"state": "queued"})).json()["items"]
    others = (await client.get("/v1/runs", params={"pipeline": "other"})).json()["items"]

    assert [str(waiting)] == [run["id"] for run in queued]
    assert others == []


async def test_a_queued_run_can_be_cancelled_once(client: httpx.AsyncClient) -> None:
    """Then it has ended, and a second try says so."""
    run_id = await post_run(client)

    first = await client.post(f"/v1/runs/{run_id}/cancel")
    second = await client.post(f"/v1/runs/{run_id}/cancel")

    assert (first.status_code, first.json()["state"]) == (202, "cancelled")
    assert second.status_code == 409
    assert second.json()["type"].endswith(":not-cancellable")
