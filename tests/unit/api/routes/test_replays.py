"""Replaying runs, one and many, and looking at what was before."""

import dataclasses
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from config.anthropic import AnthropicSettings
from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.api.schemas import MAX_IDS, ReplayDeadLetters
from services.core.errors import StoreFullError
from services.core.runs.states import EventType
from services.pipelines.definition import Pipeline, Step, StepContext
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import (
    LETTER,
    LetterInput,
    LetterOutput,
    RecordingPublisher,
    add_key,
    client_of,
    post_run,
    write_letter,
)
from tests.unit.api.test_errors import assert_problem, fields_of

PLAN, WRITE = "plan_letter", "write_letter"
ATTEMPT_MEMBERS = {
    "number", "state", "input", "output", "failure", "steps", "started_at", "finished_at",
}  # fmt: skip


async def plan_letter(letter: LetterInput, context: StepContext) -> LetterInput:
    """Never called: the API only describes steps."""
    raise NotImplementedError


PLANNED: Pipeline[LetterOutput] = Pipeline(
    name="planned",
    description="Plans a letter, then writes it.",
    steps=(Step(plan_letter), Step(write_letter)),
)


@pytest.fixture
def dependencies(dependencies: Dependencies) -> Dependencies:
    """With a pipeline of two steps."""
    return dataclasses.replace(dependencies, pipelines={"letter": LETTER, "planned": PLANNED})


async def post_failed(
    client: httpx.AsyncClient,
    store: InMemoryRunStore,
    *,
    reason: str = "permanent",
    pipeline: str = "planned",
) -> UUID:
    """A run that has planned its letter and failed to write it."""
    run_id = await post_run(client, pipeline=pipeline)
    store.add_checkpoint(run_id, PLAN)
    store.append_event(run_id, EventType.RUN_FAILED, reason=reason, step=WRITE)
    return run_id


async def replay(client: httpx.AsyncClient, run_id: UUID, body: object = None) -> httpx.Response:
    """Ask for a replay."""
    path = f"/v1/runs/{run_id}/replay"
    return await (client.post(path) if body is None else client.post(path, json=body))


def states_of(run: dict[str, Any]) -> list[str]:
    """The states of a run's steps."""
    return [step["state"] for step in run["steps"]]


@pytest.mark.parametrize("body", [None, {}, {"from_step": WRITE}, {"from_step": None}])
async def test_a_failed_run_goes_on_where_it_failed(
    client: httpx.AsyncClient,
    store: InMemoryRunStore,
    publisher: RecordingPublisher,
    body: object,
) -> None:
    """The same run, with its checkpoints; a body is not needed. It is hinted once."""
    run_id = await post_failed(client, store)
    publisher.hints.clear()

    answer = await replay(client, run_id, body)

    run = answer.json()
    assert answer.status_code == 202, answer.text
    assert (run["id"], run["state"], run["replays"]) == (str(run_id), "queued", 1)
    assert run["failure"] is None
    assert states_of(run) == ["succeeded", "pending"]
    assert publisher.hints == [(run_id, False)]


async def test_a_run_that_crashed_is_hinted_to_the_isolated_worker(
    client: httpx.AsyncClient, store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """It stays a suspect, so no other worker would take it."""
    run_id = await post_failed(client, store, reason="crashed")
    publisher.hints.clear()

    await replay(client, run_id)

    assert publisher.hints == [(run_id, True)]


async def test_a_replay_may_begin_earlier_and_with_another_input(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """All steps are done again then."""
    run_id = await post_failed(client, store)

    answer = await replay(client, run_id, {"from_step": PLAN, "input": {"name": "Zoë"}})

    run = answer.json()
    assert run["input"] == {"name": "Zoë"}
    assert states_of(run) == ["pending", "pending"]


async def test_a_cancelled_run_can_be_replayed(client: httpx.AsyncClient) -> None:
    """Whoever cancelled it may change their mind."""
    run_id = await post_run(client)
    await client.post(f"/v1/runs/{run_id}/cancel")

    assert (await replay(client, run_id)).json()["state"] == "queued"


@pytest.mark.parametrize("state", ["queued", "succeeded"])
async def test_other_runs_cannot_be_replayed(
    client: httpx.AsyncClient, store: InMemoryRunStore, state: str
) -> None:
    """What goes on goes on, and what succeeded is done."""
    run_id = await post_run(client)
    if state == "succeeded":
        store.append_event(run_id, EventType.RUN_SUCCEEDED)

    assert_problem(await replay(client, run_id), 409, "not-replayable")
    assert store.runs[run_id].state == state


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"from_step": "nonsense"}, "/from_step"),
        ({"from_step": ""}, "/from_step"),
        ({"from_step": 3}, "/from_step"),
        ({"from_step": WRITE, "input": {"name": "a"}}, "/input"),
        ({"input": {"name": "a"}}, "/from_step"),
        ({"from_step": PLAN, "input": {}}, "/input/name"),
        ({"from_step": PLAN, "input": {"name": "a", "lines": [1]}}, "/input/lines/0"),
        ({"from_step": PLAN, "input": {"name": "\x00"}}, "/input"),
        ({"from_step": PLAN, "input": "a"}, "/input"),
        ({"step": PLAN}, "/step"),
        ([], ""),
    ],
)
async def test_each_wrong_field_of_a_replay_is_pointed_at(
    client: httpx.AsyncClient, store: InMemoryRunStore, body: object, field: str
) -> None:
    """The input is held to the same schema as in a POST, and nothing is replayed."""
    run_id = await post_failed(client, store)

    problem = assert_problem(await replay(client, run_id, body), 422, "invalid-request")

    assert ("body", field) in fields_of(problem)
    assert store.runs[run_id].replays == 0


async def test_a_step_whose_input_was_never_made_is_pointed_at(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """A step needs the checkpoint of the one before."""
    run_id = await post_run(client, pipeline="planned")
    store.append_event(run_id, EventType.RUN_FAILED)

    answer = await replay(client, run_id, {"from_step": WRITE})

    problem = assert_problem(answer, 422, "invalid-request")
    assert fields_of(problem) == [("body", "/from_step")]


async def test_a_problem_of_a_replay_does_not_repeat_what_was_sent(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """A secret in a wrong place does not come back."""
    run_id = await post_failed(client, store)
    secret = "sk-ant-very-secret"

    for body in ({"from_step": secret}, {"from_step": PLAN, "input": {"name": [secret]}}):
        answer = await replay(client, run_id, body)
        assert_problem(answer, 422, "invalid-request")
        assert secret not in answer.text


async def test_a_run_of_a_pipeline_that_is_gone_cannot_be_replayed(
    client: httpx.AsyncClient, dependencies: Dependencies, store: InMemoryRunStore
) -> None:
    """Nobody could execute it."""
    run_id = await post_failed(client, store)
    changed = dataclasses.replace(dependencies, pipelines={"letter": LETTER})
    async with client_of(create_app(changed)) as later:
        later.headers = client.headers
        one = await replay(later, run_id)
        many = await later.post("/v1/dead-letters/replay", json={"pipeline": "planned"})
        some = await later.post("/v1/dead-letters/replay", json={"ids": [str(run_id)]})

    assert_problem(one, 422, "unknown-pipeline")
    assert_problem(many, 422, "unknown-pipeline")
    assert some.json() == {"replayed": 0, "ids": []}


async def test_without_claude_nothing_is_replayed(
    dependencies: Dependencies, store: InMemoryRunStore
) -> None:
    """As nothing is accepted."""
    app = create_app(dataclasses.replace(dependencies, anthropic=AnthropicSettings()))
    async with client_of(app, await add_key(store)) as client:
        many = await client.post("/v1/dead-letters/replay", json={"reason": "crashed"})

    assert_problem(many, 503, "claude-not-configured")


async def test_what_was_before_a_replay_is_kept(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Every attempt with its input, failure and steps, the oldest first."""
    run_id = await post_failed(client, store, reason="timed_out")
    assert (await client.get(f"/v1/runs/{run_id}/history")).json() == {"items": []}
    await replay(client, run_id, {"from_step": PLAN, "input": {"name": "Zoë"}})
    await client.post(f"/v1/runs/{run_id}/cancel")
    await replay(client, run_id)

    first, second = (await client.get(f"/v1/runs/{run_id}/history")).json()["items"]

    assert set(first) == set(second) == ATTEMPT_MEMBERS
    assert (first["number"], first["state"]) == (1, "failed")
    assert (first["input"], first["failure"]["reason"]) == ({"name": "Elena"}, "timed_out")
    assert states_of(first) == ["succeeded", "pending"]
    assert (second["number"], second["state"]) == (2, "cancelled")
    assert (second["input"], second["failure"]) == ({"name": "Zoë"}, None)


@pytest.mark.parametrize("path", ["replay", "history"])
async def test_another_keys_run_is_not_there(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, store: InMemoryRunStore, path: str
) -> None:
    """Neither to replay nor to look at."""
    method = "POST" if path == "replay" else "GET"
    run_id = await post_failed(client, store)

    for foreign in (run_id, uuid7()):
        answer = await other_client.request(method, f"/v1/runs/{foreign}/{path}")
        assert_problem(answer, 404, "not-found")
    assert store.runs[run_id].replays == 0


async def test_dead_letters_are_the_failed_runs_of_the_key(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Newest first, filtered by pipeline and reason, page by page."""
    crashed = await post_failed(client, store, reason="crashed")
    refused = await post_failed(client, store)
    letter = await post_failed(client, store, pipeline="letter")
    await post_run(client)
    await post_failed(other_client, store)

    async def listed(**params: str) -> list[UUID]:
        page = (await client.get("/v1/dead-letters", params=params)).json()
        return [UUID(run["id"]) for run in page["items"]]

    first = (await client.get("/v1/dead-letters", params={"limit": 2})).json()
    assert await listed() == [letter, refused, crashed]
    assert await listed(reason="crashed") == [crashed]
    assert await listed(pipeline="planned") == [refused, crashed]
    assert await listed(pipeline="planned", reason="permanent") == [refused]
    assert await listed(limit="2", cursor=first["next_cursor"]) == [crashed]


@pytest.mark.parametrize(
    ("query", "field"),
    [("reason=tired", "/reason"), ("state=failed", "/state"), ("cursor=nonsense", "/cursor")],
)
async def test_each_wrong_parameter_is_pointed_at(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    """As in the list of runs."""
    answer = await client.get(f"/v1/dead-letters?{query}")

    assert fields_of(assert_problem(answer, 422, "invalid-request")) == [("query", field)]


@pytest.mark.parametrize("by", ["ids", "pipeline", "reason", "all three"])
async def test_many_dead_letters_are_replayed_at_once(
    client: httpx.AsyncClient,
    other_client: httpx.AsyncClient,
    store: InMemoryRunStore,
    publisher: RecordingPublisher,
    by: str,
) -> None:
    """Those that were asked for and no others, each hinted."""
    wanted = [await post_failed(client, store, reason="timed_out") for _ in range(3)]
    waiting = await post_run(client, pipeline="planned")
    foreign = await post_failed(other_client, store, reason="timed_out")
    others = [
        await post_failed(client, store, reason="timed_out", pipeline="letter"),
        await post_failed(client, store, reason="crashed", pipeline="letter"),
    ]
    filters: dict[str, Any] = {
        "ids": [str(run_id) for run_id in (*wanted, waiting, foreign, uuid7())],
        "pipeline": "planned",
        "reason": "timed_out",
    }
    body = filters if by == "all three" else {by: filters[by]}
    expected = wanted + others[:1] if by == "reason" else wanted
    publisher.hints.clear()

    answer = await client.post("/v1/dead-letters/replay", json=body)

    assert answer.status_code == 202, answer.text
    assert answer.json() == {
        "replayed": len(expected),
        "ids": [str(run_id) for run_id in expected],
    }
    assert [run_id for run_id, _ in publisher.hints] == expected
    assert {run.id for run in store.runs.values() if run.replays} == set(expected)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ""),
        ({"ids": None, "reason": None}, ""),
        ({"ids": []}, "/ids"),
        ({"ids": ["x"]}, "/ids/0"),
        ({"pipeline": "a b"}, "/pipeline"),
        ({"reason": "tired"}, "/reason"),
        ({"state": "failed"}, "/state"),
        (None, ""),
    ],
)
async def test_a_bulk_replay_says_what_it_means(
    client: httpx.AsyncClient, body: object, field: str
) -> None:
    """Without any filter it would replay everything; a misspelt one would, too."""
    answer = await client.post("/v1/dead-letters/replay", json=body)

    problem = assert_problem(answer, 422, "invalid-request")
    assert ("body", field) in fields_of(problem)


def test_a_bulk_replay_names_a_bounded_number_of_runs() -> None:
    """The rest is for another request, or for a filter."""
    ids = [uuid7() for _ in range(MAX_IDS)]

    assert ReplayDeadLetters(ids=ids).ids == ids
    with pytest.raises(ValidationError):
        ReplayDeadLetters(ids=[*ids, uuid7()])


async def test_a_full_queue_takes_no_replays(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """They wait in it like new runs."""
    run_id = await post_failed(client, store)
    store._max_queued_runs = 0

    for path in (f"/v1/runs/{run_id}/replay", "/v1/dead-letters/replay"):
        answer = await client.post(path, json={"reason": "permanent"} if "dead" in path else {})
        assert_problem(answer, 429, "queue-full")
        assert answer.headers["retry-after"] == "7"


async def test_a_full_disk_is_said_to_be_one(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """To who wanted to write, with a time to come back, and to who asks for the health."""
    run_id = await post_failed(client, store)

    async def refuse(*_: object, **__: object) -> None:
        raise StoreFullError

    before = (await stranger.get("/health")).json()
    store.accept_run = store.replay_run = refuse  # type: ignore[assignment, method-assign]  # a full disk
    letter = {"pipeline": "letter", "input": {"name": "a"}}
    for path, body in (("/v1/runs", letter), (f"/v1/runs/{run_id}/replay", {})):
        answer = await client.post(path, json=body)
        problem = assert_problem(answer, 503, "record-full")
        assert "disk is full" in problem["detail"]
        assert int(answer.headers["retry-after"]) >= 1
    health = (await stranger.get("/health")).json()

    assert before["postgres"]["status"] == "up"
    assert (health["status"], health["postgres"]["status"]) == ("degraded", "full")
    assert "disk is full" in health["postgres"]["error"]
    assert (await stranger.get("/readyz")).status_code == 200


async def test_a_replay_may_raise_the_budget(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """A run that ran out of money goes on with more."""
    run_id = await post_failed(client, store, reason="budget_exceeded")

    answer = await client.post(f"/v1/runs/{run_id}/replay", json={"budget_usd": 0.75})

    assert (answer.status_code, answer.json()["budget_usd"]) == (202, 0.75)
    assert str(store.runs[UUID(str(run_id))].budget_usd) == "0.75"
