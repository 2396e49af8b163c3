"""services.simulator.app: what it answers over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from config.simulator import SimulatorSettings
from services.simulator.app import TITLE, create_app

QUESTION: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "The harbour freezes."}],
}
KEY = {"x-api-key": "any"}


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a quick simulator, without a socket."""
    settings = SimulatorSettings(
        latency_ms=0, chunk_delay_ms=0, max_body_bytes=2048, max_batch_bytes=4096
    )
    transport = httpx2.ASGITransport(app=create_app(settings))
    async with httpx2.AsyncClient(transport=transport, base_url="http://simulator") as client:
        yield client


async def test_an_answer_is_a_message(http):
    """Of the shape that the API documents, and marked as simulated."""
    answer = await http.post("/v1/messages", json=QUESTION, headers=KEY)

    message = answer.json()
    assert answer.status_code == 200
    assert answer.headers["x-penstock-simulated"] == "true"
    assert answer.headers["request-id"].startswith("req_sim_")
    assert message["id"].startswith("msg_sim_")
    assert message["model"] == "claude-sonnet-5-5"
    assert message["content"][0]["text"].startswith("This is a simulated answer, not Claude's.")
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["input_tokens"] > 0


async def test_a_stream_has_the_events_of_the_api_in_order(http):
    """One block of text between the message's start and stop."""
    answer = await http.post("/v1/messages", json=QUESTION | {"stream": True}, headers=KEY)

    lines = answer.text.splitlines()
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[:3] == ["message_start", "content_block_start", "ping"]
    assert set(events[3:-3]) == {"content_block_delta"}
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "schema"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}},
            "'not' is not supported",
        ),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(http, change, message):
    """In the API's error format, with the place."""
    answer = await http.post("/v1/messages", json=QUESTION | change, headers=KEY)

    body = answer.json()
    assert answer.status_code == 400
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert message in body["error"]["message"]
    assert body["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("line", "content", "headers", "status", "error_type"),
    [
        ("POST /v1/messages", b"{", KEY, 400, "invalid_request_error"),
        ("POST /v1/messages", b"x" * 3000, KEY, 413, "request_too_large"),
        ("POST /v1/messages", b"{}", {}, 401, "authentication_error"),
        ("POST /v1/messages/count_tokens", b"{}", {}, 401, "authentication_error"),
        ("GET /v1/messages", b"", KEY, 405, "invalid_request_error"),
        ("GET /v1/models", b"", KEY, 404, "not_found_error"),
        ("GET /samples/secret.html", b"", {}, 404, "not_found_error"),
        ("PUT /admin/faults", b'{"fault": "explode"}', {}, 400, "invalid_request_error"),
        ("PUT /admin/faults", b'{"typo": 1}', {}, 400, "invalid_request_error"),
        ("PUT /admin/limits", b'{"requests_per_min": 0}', {}, 400, "invalid_request_error"),
        ("PUT /admin/limits", b'{"rpm": 9}', {}, 400, "invalid_request_error"),
        ("PUT /admin/batches", b'{"seconds": -1}', {}, 400, "invalid_request_error"),
        ("POST /v1/messages/batches", b"{}", {}, 401, "authentication_error"),
        ("POST /v1/messages/batches", b"{}", KEY, 400, "invalid_request_error"),
        ("POST /v1/messages/batches", b"x" * 5000, KEY, 413, "request_too_large"),
        ("GET /v1/messages/batches?limit=0", b"", KEY, 400, "invalid_request_error"),
        ("GET /v1/messages/batches/unknown", b"", KEY, 404, "not_found_error"),
        ("GET /v1/messages/batches/unknown/results", b"", KEY, 404, "not_found_error"),
        ("POST /v1/messages/batches/unknown/cancel", b"", KEY, 404, "not_found_error"),
        ("GET /arxiv/api/query?start=-1", b"", {}, 400, "invalid_request_error"),
    ],
)
async def test_every_error_has_the_apis_format(http, line, content, headers, status, error_type):
    """Whatever goes wrong, a client of the API can read it."""
    answer = await http.request(*line.split(), content=content, headers=headers)

    assert status == answer.status_code
    assert error_type == answer.json()["error"]["type"]
    assert answer.headers["x-penstock-simulated"] == "true"


@pytest.mark.parametrize("headers", [KEY, {"authorization": "Bearer any"}])
async def test_tokens_are_counted_as_in_usage(http, headers):
    """count_tokens tells what a message would use; either kind of key will do."""
    body = {name: QUESTION[name] for name in ("model", "messages")}

    counted = await http.post("/v1/messages/count_tokens", json=body, headers=headers)
    answer = await http.post("/v1/messages", json=QUESTION, headers=headers)

    assert counted.json() == {"input_tokens": answer.json()["usage"]["input_tokens"]}


async def test_calls_are_logged_with_what_they_used(http):
    """The log tells calls apart without holding whole prompts."""
    question = QUESTION | {"metadata": {"user_id": "run-7"}}
    await http.post("/v1/messages", json=question, headers=KEY)
    await http.post(
        "/v1/messages",
        json=question
        | {"output_config": {"format": {"type": "json_schema", "schema": {"enum": []}}}},
        headers=KEY,
    )

    good, bad = (await http.get("/admin/requests")).json()
    assert good["user_id"] == "run-7"
    assert good["prompt_start"] == "The harbour freezes."
    assert len(good["prompt_sha256"]) == 64
    assert (good["outcome"], good["status"], good["stop_reason"]) == ("answered", 200, "end_turn")
    assert (bad["outcome"], bad["status"], bad["output_tokens"]) == ("error", 400, 0)
    ledger = (await http.get("/admin/ledger")).json()
    assert (ledger["requests"], ledger["answered"], ledger["error"]) == (2, 1, 1)
    assert ledger["input_tokens"] == good["input_tokens"]


async def test_calls_are_counted_by_run_and_prompt(http):
    """A call that fails is started and not answered; clearing forgets both."""
    question = QUESTION | {"metadata": {"user_id": "run-7"}}
    await http.put("/admin/faults", json={"fault": "overloaded", "count": 1})
    for _ in range(3):
        await http.post("/v1/messages", json=question, headers=KEY)
    other = question | {"messages": [{"role": "user", "content": "The harbour thaws."}]}
    await http.post("/v1/messages", json=other | {"stream": True}, headers=KEY)
    await http.post("/v1/messages", json=QUESTION, headers=KEY)

    calls = (await http.get("/admin/calls")).json()
    await http.delete("/admin/requests")
    forgotten = (await http.get("/admin/calls")).json()

    assert [("run-7", 3, 2), ("run-7", 1, 1), (None, 1, 1)] == [
        (call["run_id"], call["started"], call["answered"]) for call in calls
    ]
    assert calls[0]["prompt_sha256"] == calls[2]["prompt_sha256"] != calls[1]["prompt_sha256"]
    assert [] == forgotten


async def test_what_is_set_can_be_taken_back(http):
    """Limits and cache are as at the start."""
    limits = (await http.put("/admin/limits", json={"requests_per_min": 1})).json()
    await http.post("/v1/messages", json=QUESTION, headers=KEY)
    refused = await http.post("/v1/messages", json=QUESTION, headers=KEY)
    clear = (await http.delete("/admin/limits")).json()
    signs = [{"type": "text", "text": "!" * 1100, "cache_control": {"type": "ephemeral"}}]
    await http.post("/v1/messages", json=QUESTION | {"system": signs}, headers=KEY)
    cached = (await http.get("/admin/cache")).json()

    assert [1] == [limit["requests_per_min"] for limit in limits["limits"]]
    assert refused.status_code == 429
    assert {"limits": [], "models": {}} == clear
    assert [1104] == [entry["tokens"] for entry in cached]
    assert [] == (await http.delete("/admin/cache")).json()


async def test_the_settings_limits_hold_from_the_start():
    """And again after others were taken back."""
    settings = SimulatorSettings(latency_ms=0, requests_per_min=1)
    transport = httpx2.ASGITransport(app=create_app(settings))
    async with httpx2.AsyncClient(transport=transport, base_url="http://simulator") as client:
        for _ in range(2):
            first = await client.post("/v1/messages", json=QUESTION, headers=KEY)
            second = await client.post("/v1/messages", json=QUESTION, headers=KEY)
            await client.delete("/admin/limits")

            assert (200, 429) == (first.status_code, second.status_code)
            assert first.headers["anthropic-ratelimit-requests-remaining"] == "0"


async def test_half_an_answer_is_none(http):
    """A stream that ends in an error counts as started only."""
    await http.put("/admin/faults", json={"fault": "midstream_overloaded"})
    await http.post("/v1/messages", json=QUESTION | {"stream": True}, headers=KEY)

    (call,) = (await http.get("/admin/calls")).json()
    assert (1, 0) == (call["started"], call["answered"])


async def test_a_slow_stream_is_a_rule_without_a_fault(http):
    """Pieces come at the pace that the rule says."""
    await http.put("/admin/faults", json={"chunk_delay_ms": 20})
    await http.post("/v1/messages", json=QUESTION | {"stream": True}, headers=KEY)

    (call,) = (await http.get("/admin/requests")).json()
    assert call["outcome"] == "answered"
    assert call["duration_ms"] >= 20 * 20


async def test_faults_are_set_shown_and_taken_back(http):
    """The admin API's three verbs."""
    rule = {"fault": "overloaded", "count": 2, "match": "harbour"}
    await http.put("/admin/faults", json=rule)
    failed = await http.post("/v1/messages", json=QUESTION, headers=KEY)
    (left,) = (await http.get("/admin/faults")).json()
    cleared = (await http.delete("/admin/faults")).json()
    well = await http.post("/v1/messages", json=QUESTION, headers=KEY)

    assert failed.status_code == 529
    assert failed.json()["error"]["type"] == "overloaded_error"
    assert left["count"] == 1
    assert cleared == []
    assert well.status_code == 200


async def test_a_prompt_is_not_kept_whole(http):
    """The log shows the first 200 characters."""
    long = QUESTION | {"messages": [{"role": "user", "content": "x" * 1000}]}
    await http.post("/v1/messages", json=long, headers=KEY)

    (call,) = (await http.get("/admin/requests")).json()
    assert call["prompt_start"] == "x" * 200


async def test_nobody_can_take_it_for_claude(http):
    """Root page and OpenAPI say what it is."""
    root = await http.get("/")
    schema = (await http.get("/openapi.json")).json()

    assert TITLE == "Claude simulator (not Claude)"
    assert TITLE in root.text
    assert TITLE == schema["info"]["title"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/samples/researcher.html", "Elena Marsh"),
        ("/samples/book.html", "The Lanternmaker's Ledger"),
        ("/samples/organisation.html", "Open Tools for Rivers"),
        ("/arxiv/api/query?search_query=au:%22Elena+Marsh%22", "Storm memory of salt marshes"),
        ("/livez", "ok"),
    ],
)
async def test_sample_sources_are_served(http, path, text):
    """Pages and feed are there without a key."""
    answer = await http.get(path)

    assert answer.status_code == 200
    assert text in answer.text
