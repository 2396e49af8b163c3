"""Wrong input of every kind gives the documented problem, and nothing of what was sent."""

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from uuid_utils.compat import uuid7

from config.anthropic import AnthropicSettings
from services.api.app import create_app
from services.api.dependencies import Dependencies
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import MAX_BODY_BYTES, add_key, client_of, post_run

JSON = {"Content-Type": "application/json"}


def assert_problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """The answer is this problem, complete and without a trace of our code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:penstock:problem:{name}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    return dict(problem)


def fields_of(problem: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a problem says that something is wrong."""
    return [(error["in"], error["field"]) for error in problem["errors"]]


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        "Bearer psk_0123456789ab_" + "x" * 43,
        "Bearer psk_0123456789ab_" + "ä" * 43,
    ],
)
async def test_without_a_good_key_the_answer_is_401(
    stranger: httpx.AsyncClient, authorization: str | None
) -> None:
    """No key, no good key and an unknown key get the same answer, whatever they ask for."""
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = await stranger.get("/v1/runs", headers=headers)

    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_strangers_are_turned_away_before_their_body_is_read(
    stranger: httpx.AsyncClient,
) -> None:
    """A stranger learns nothing from what is wrong with a request."""
    big = b"x" * (MAX_BODY_BYTES + 1)

    for content, path in ((b"{", "/v1/runs"), (big, "/v1/runs"), (b"", "/v1/runs/no-uuid/cancel")):
        assert_problem(await stranger.post(path, content=content), 401, "unauthorized")


async def test_an_unknown_path_is_404(client: httpx.AsyncClient) -> None:
    """Also with a trailing slash: there are no redirects."""
    for path in ("/", "/v1", "/v1/nothing", "/v1/runs/", "/docs/..%2fapp.py", "/wp-login.php"):
        assert_problem(await client.get(path), 404, "not-found")


@pytest.mark.parametrize("kind", ["runs", "emails"])
async def test_what_is_not_there_is_404(client: httpx.AsyncClient, kind: str) -> None:
    """A well-formed id of nothing."""
    assert_problem(await client.get(f"/v1/{kind}/{uuid7()}"), 404, "not-found")


async def test_an_unknown_pipeline_to_read_is_404(client: httpx.AsyncClient) -> None:
    """It is named in the path, so it is a thing that is not there."""
    assert_problem(await client.get("/v1/pipelines/nope"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/runs", "GET, HEAD, POST"),
        ("PUT", "/v1/runs/0193588b-2f6b-7d3c-8d2f-4b8f0a1c2d3e", "GET, HEAD"),
        ("GET", "/v1/runs/0193588b-2f6b-7d3c-8d2f-4b8f0a1c2d3e/cancel", "POST"),
        ("OPTIONS", "/v1/pipelines", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_every_right_one(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """Allow names the methods of all routes of the path."""
    answer = await client.request(method, path)

    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


async def test_too_large_a_body_is_413(client: httpx.AsyncClient) -> None:
    """By its announced length."""
    body = json.dumps({"pipeline": "letter", "input": {"name": "x" * MAX_BODY_BYTES}})

    answer = await client.post("/v1/runs", content=body, headers=JSON)

    assert_problem(answer, 413, "body-too-large")


async def test_a_body_of_the_largest_size_is_read(client: httpx.AsyncClient) -> None:
    """The limit itself is allowed."""
    start, end = b'{"pipeline": "letter", "input": {"name": "', b'"}}'
    body = start + b"x" * (MAX_BODY_BYTES - len(start) - len(end)) + end

    answer = await client.post("/v1/runs", content=body, headers=JSON)

    assert len(body) == MAX_BODY_BYTES
    assert answer.status_code == 202


async def test_too_large_a_body_in_chunks_is_413(client: httpx.AsyncClient) -> None:
    """A body that does not announce its length is counted, and not read to its end."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * MAX_BODY_BYTES:
            sent += 1000
            yield b"x" * 1000

    answer = await client.post("/v1/runs", content=endless(), headers=JSON)

    assert_problem(answer, 413, "body-too-large")
    assert sent <= MAX_BODY_BYTES + 2000


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_a_body_that_is_not_json_by_name_is_415(
    client: httpx.AsyncClient, media_type: str | None
) -> None:
    """What is sent must say what it is."""
    headers = {"Content-Type": media_type} if media_type else {}
    answer = await client.post("/v1/runs", content=b'{"pipeline": "letter"}', headers=headers)

    assert_problem(answer, 415, "unsupported-media-type")


async def test_json_with_a_charset_is_json(client: httpx.AsyncClient) -> None:
    """Parameters and case of the media type do not matter."""
    headers = {"Content-Type": "Application/JSON; charset=UTF-8"}
    body = b'{"pipeline": "letter", "input": {"name": "a"}}'

    assert (await client.post("/v1/runs", content=body, headers=headers)).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        b'{"pipeline": ',
        b"\xff\xfe",
        b'{"pipeline": "letter", "input": {"name": "\xff"}}',
        b"[" * 4000,
        b'{"pipeline": "letter", "input": {"n": ' + b"9" * 4001 + b"}}",
    ],
    ids=["cut", "utf-16 mark", "not utf-8", "deep", "huge number"],
)
async def test_invalid_json_is_422(client: httpx.AsyncClient, body: bytes) -> None:
    """Never 500, whatever the parser stumbles over."""
    problem = assert_problem(
        await client.post("/v1/runs", content=body, headers=JSON), 422, "invalid-request"
    )

    assert {place for place, _ in fields_of(problem)} == {"body"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": {}}, "/input/name"),
        ({"input": {"name": ""}}, "/input/name"),
        ({"input": {"name": 5}}, "/input/name"),
        ({"input": {"name": "a", "lines": ["x", 3]}}, "/input/lines/1"),
        ({"input": {"name": "a", "options": {"a/b~c": "x"}}}, "/input/options/a~1b~0c"),
        ({"input": {"name": "a", "nmae": 1}}, "/input/nmae"),
        ({"input": {"name": "\x00"}}, "/input"),
        ({"input": {"name": "a", "\x00": 1}}, "/input"),
        ({"input": {"name": "a", "mood": {"kind": "x"}}}, "/input/mood/level"),
        ({"input": {"name": "a", "mood": {"level": "x"}}}, "/input/mood/level"),
        ({"input": []}, "/input"),
        ({"input": None}, "/input"),
        ({"priority": 101}, "/priority"),
        ({"priority": 1.5}, "/priority"),
        ({"budget_usd": 0}, "/budget_usd"),
        ({"budget_usd": -1}, "/budget_usd"),
        ({"budget_usd": "NaN"}, "/budget_usd"),
        ({"budget_usd": 0.0000001}, "/budget_usd"),
        ({"metadata": {"a": {"b": 1}}}, "/metadata/a"),
        ({"metadata": {"a": "x" * 501}}, "/metadata/a"),
        ({"metadata": {str(n): n for n in range(33)}}, "/metadata"),
        ({"metadata": {"": 1}}, "/metadata/"),
        ({"surprise": 1}, "/surprise"),
        ({"pipeline": 3}, "/pipeline"),
    ],
)
async def test_each_wrong_field_is_pointed_at(
    client: httpx.AsyncClient, letter: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    """`field` is a JSON Pointer into the body."""
    answer = await client.post("/v1/runs", json=letter | changes)

    problem = assert_problem(answer, 422, "invalid-request")
    assert ("body", field) in fields_of(problem)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"'])
async def test_what_postgresql_cannot_keep_is_refused(
    client: httpx.AsyncClient, literal: str
) -> None:
    """Python reads more than JSON allows; the record does not."""
    body = f'{{"pipeline": "letter", "input": {{"name": "a", "x": {literal}}}}}'

    answer = await client.post("/v1/runs", content=body.encode(), headers=JSON)

    assert_problem(answer, 422, "invalid-request")


async def test_deeply_nested_input_is_refused(
    client: httpx.AsyncClient, letter: dict[str, Any]
) -> None:
    """Deep enough to be parsed, too deep to be kept."""
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"a": deep}

    answer = await client.post("/v1/runs", json=letter | {"input": deep})

    assert_problem(answer, 422, "invalid-request")


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256])
async def test_a_malformed_idempotency_key_is_422(
    client: httpx.AsyncClient, letter: dict[str, Any], key: str
) -> None:
    """1 to 255 visible characters."""
    headers = {"Idempotency-Key": key.encode("latin-1")}
    problem = assert_problem(
        await client.post("/v1/runs", json=letter, headers=headers), 422, "invalid-request"
    )

    assert fields_of(problem) == [("header", "/Idempotency-Key")]


async def test_an_idempotency_key_with_another_body_is_422(
    client: httpx.AsyncClient, letter: dict[str, Any]
) -> None:
    """It would be another request."""
    headers = {"Idempotency-Key": "1"}
    await client.post("/v1/runs", json=letter, headers=headers)

    answer = await client.post("/v1/runs", json=letter | {"priority": 1}, headers=headers)

    assert_problem(answer, 422, "idempotency-conflict")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=x", "/limit"),
        ("state=asleep", "/state"),
        ("stat=queued", "/stat"),
        ("cursor=nonsense", "/cursor"),
        ("pipeline=%00", "/pipeline"),
    ],
)
async def test_each_wrong_parameter_is_pointed_at(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    """A misspelt filter is refused: it would list too much."""
    problem = assert_problem(await client.get(f"/v1/runs?{query}"), 422, "invalid-request")

    assert fields_of(problem) == [("query", field)]


async def test_an_unknown_pipeline_names_the_known_ones(
    client: httpx.AsyncClient, letter: dict[str, Any]
) -> None:
    """The remedy is in the problem."""
    answer = await client.post("/v1/runs", json=letter | {"pipeline": "lettre"})

    problem = assert_problem(answer, 422, "unknown-pipeline")
    assert problem["known_pipelines"] == ["letter"]
    assert problem["detail"] == "There is no such pipeline; there are: letter."


async def test_problems_never_repeat_what_was_sent(client: httpx.AsyncClient) -> None:
    """A secret in a wrong place does not come back, nor does an endless list of complaints."""
    secret = "sk-ant-very-secret"
    body = {
        "pipeline": secret,
        "input": {"name": secret},
        "priority": secret,
        "budget_usd": secret,
        "metadata": {"a": [secret]},
    }
    answers = [
        await client.post("/v1/runs", json=body),
        await client.post("/v1/runs", json={"pipeline": secret, "input": {}}),
        await client.post("/v1/runs", json={"pipeline": "letter", "input": {"name": [secret]}}),
        await client.post("/v1/runs", content=f'{{"a": "{secret}'.encode(), headers=JSON),
        await client.get("/v1/runs", params={"state": secret, "cursor": secret}),
    ]

    for answer in answers:
        assert_problem(answer, 422, answer.json()["type"].rpartition(":")[2])
        assert secret not in answer.text


async def test_a_problem_lists_a_bounded_number_of_errors(
    client: httpx.AsyncClient, letter: dict[str, Any]
) -> None:
    """A small body cannot ask for a large answer."""
    letter["input"] = {"name": "a", "lines": [1] * 1000}

    problem = assert_problem(await client.post("/v1/runs", json=letter), 422, "invalid-request")

    assert len(problem["errors"]) == 50


async def test_a_full_queue_is_429_with_a_time_to_try_again(
    client: httpx.AsyncClient, store: InMemoryRunStore, letter: dict[str, Any]
) -> None:
    """Nothing is accepted that cannot be worked on."""
    store._max_queued_runs = 0
    answer = await client.post("/v1/runs", json=letter)

    assert_problem(answer, 429, "queue-full")
    assert answer.headers["retry-after"] == "7"


async def test_without_the_record_the_answer_is_503(
    client: httpx.AsyncClient, store: InMemoryRunStore, letter: dict[str, Any]
) -> None:
    """An outage says when to try again, for every kind of request."""
    store.is_away = True

    for method, path in (("POST", "/v1/runs"), ("GET", "/v1/runs"), ("GET", f"/v1/runs/{uuid7()}")):
        answer = await client.request(method, path, json=letter if method == "POST" else None)
        assert_problem(answer, 503, "record-unavailable")
        assert int(answer.headers["retry-after"]) >= 1


async def test_without_claude_a_run_is_refused_not_queued(
    dependencies: Dependencies, store: InMemoryRunStore, letter: dict[str, Any]
) -> None:
    """A run that nobody could execute would wait for ever; reading goes on."""
    app = create_app(dataclasses.replace(dependencies, anthropic=AnthropicSettings()))
    async with client_of(app, await add_key(store)) as client:
        refused = await client.post("/v1/runs", json=letter)
        listed = await client.get("/v1/runs")

    problem = assert_problem(refused, 503, "claude-not-configured")
    assert "ANTHROPIC_API_KEY" in problem["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    assert listed.json()["items"] == []


async def test_an_unexpected_error_is_500_and_tells_nothing(
    app: FastAPI, client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """The message stays in the log, found by the request id in the answer."""

    async def fail(*_: object, **__: object) -> None:
        message = "password=hunter2"
        raise RuntimeError(message)

    run_id = await post_run(client)
    store.get_run = fail  # type: ignore[method-assign]  # a bug in the record

    answer = await client.get(f"/v1/runs/{run_id}")

    assert_problem(answer, 500, "internal-error")
    assert "hunter2" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
