"""Liveness, readiness, health: what machines and operators are told."""

import asyncio
import dataclasses

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from config.anthropic import AnthropicSettings
from config.environment import Environment
from services.api import checks
from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.core.runs.call_limits import BreakerState, CallLimits
from services.core.runs.models import Heartbeat
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import FakeRedis, client_of, post_run
from tests.unit.api.test_errors import assert_problem

ALL_KINDS = ("worker", "worker-isolated", "beat")


def let_all_beat(store: InMemoryRunStore, age_s: float = 1.0) -> None:
    """Every kind of process gave a sign of life so long ago."""
    store.heartbeats = [Heartbeat(f"{kind}@host", kind, age_s) for kind in ALL_KINDS]


async def test_a_process_lives_whatever_else_is_away(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Else an orchestrator would restart healthy processes during an outage of the record."""
    store.is_away = True

    assert (await stranger.get("/livez")).status_code == 200


async def test_a_process_is_ready_when_the_record_answers(stranger: httpx.AsyncClient) -> None:
    """Readiness needs PostgreSQL and, in development, nothing else."""
    answer = await stranger.get("/readyz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_without_the_record_a_process_is_not_ready(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """A load balancer sends its requests elsewhere."""
    store.is_away = True

    problem = assert_problem(await stranger.get("/readyz"), 503, "not-ready")

    assert "PostgreSQL" in problem["detail"]


async def test_a_record_that_hangs_is_away_after_a_bounded_time(
    stranger: httpx.AsyncClient, store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A health check that hangs is worse than one that fails."""

    async def hang() -> float:
        await asyncio.sleep(60)
        return 0

    monkeypatch.setattr(checks, "CHECK_TIMEOUT_S", 0.02)
    store.ping = hang  # type: ignore[method-assign]  # a frozen server
    async with asyncio.timeout(2):
        answer = await stranger.get("/readyz")

    assert_problem(answer, 503, "not-ready")


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        (Environment.DEVELOPMENT, 200),
        (Environment.STAGING, 503),
        (Environment.PRODUCTION, 503),
    ],
)
async def test_outside_development_a_missing_claude_key_is_not_ready(
    dependencies: Dependencies, environment: Environment, status: int
) -> None:
    """A deployment that can accept nothing says so, with the remedy."""
    changed = dataclasses.replace(
        dependencies, environment=environment, anthropic=AnthropicSettings()
    )
    async with client_of(create_app(changed)) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == status
    if status == 503:
        assert "ANTHROPIC_API_KEY" in assert_problem(answer, 503, "not-ready")["detail"]


async def test_health_shows_every_part_with_ages(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """One look tells an operator what is away, and since when."""
    let_all_beat(store)
    await post_run(client)

    answer = await stranger.get("/health")

    health = answer.json()
    assert answer.status_code == 200
    assert health["status"] == "ok"
    assert health["environment"] == "development"
    assert {health["postgres"]["status"], health["redis"]["status"]} == {"up"}
    assert health["postgres"]["latency_ms"] >= 0
    assert health["claude"] == {"status": "simulated"}
    assert health["queue"] == {
        "depth": 1,
        "due_runs": 1,
        "unclaimable_runs": 0,
        "oldest_due_age_s": 1.5,
    }
    assert [(beat["kind"], beat["age_s"]) for beat in health["heartbeats"]] == [
        (kind, 1.0) for kind in ALL_KINDS
    ]


@pytest.mark.parametrize("part", ["postgres", "redis", "worker"])
async def test_health_is_200_and_degraded_while_a_part_is_away(
    stranger: httpx.AsyncClient, store: InMemoryRunStore, redis: FakeRedis, part: str
) -> None:
    """Never 500: it is asked when things are broken."""
    let_all_beat(store)
    store.is_away = part == "postgres"
    redis.error = RedisConnectionError("redis:6379 refused") if part == "redis" else None
    if part == "worker":
        store.heartbeats = store.heartbeats[1:]

    answer = await stranger.get("/health")

    health = answer.json()
    assert answer.status_code == 200
    assert health["status"] == "degraded"
    if part != "worker":
        assert health[part]["status"] == "down"
        assert "6379" not in answer.text


async def test_a_silent_process_degrades_health(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """An old heartbeat is shown, and does not count."""
    let_all_beat(store, age_s=46)

    health = (await stranger.get("/health")).json()

    assert (health["status"], len(health["heartbeats"])) == ("degraded", 3)


async def test_a_run_that_nobody_can_execute_degrades_health(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """It would wait in silence, as after a deploy that renamed its steps."""
    let_all_beat(store)
    store.unclaimable_runs = 2

    health = (await stranger.get("/health")).json()

    assert (health["status"], health["queue"]["unclaimable_runs"]) == ("degraded", 2)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "memory limit"),
        (
            ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
            "Errors writing to the AOF file: No space left on device",
        ),
    ],
)
async def test_a_redis_that_takes_no_writes_degrades_health_in_plain_words(
    stranger: httpx.AsyncClient,
    store: InMemoryRunStore,
    redis: FakeRedis,
    error: Exception,
    words: str,
) -> None:
    """It is up for whoever only reads."""
    let_all_beat(store)
    redis.error = error

    health = (await stranger.get("/health")).json()

    assert (health["status"], health["redis"]["status"]) == ("degraded", "full")
    assert words in health["redis"]["error"]


async def test_health_shows_the_limits_that_the_workers_share(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Who wonders why runs wait sees it there: a pause, a lowered rate, an open breaker."""
    store.call_limits = [
        CallLimits(
            model="claude-sonnet-5-5",
            requests_per_min=50,
            input_tokens_per_min=None,
            output_tokens_per_min=None,
            requests_left=0,
            input_tokens_left=None,
            output_tokens_left=None,
            rate_factor=0.5,
            paused_for_s=7,
            breaker=BreakerState.HALF_OPEN,
            calls_in_flight=1,
        )
    ]

    limits = (await stranger.get("/health")).json()["claude_limits"]

    assert limits == [
        {
            "model": "claude-sonnet-5-5",
            "requests_per_min": 50,
            "input_tokens_per_min": None,
            "output_tokens_per_min": None,
            "rate_factor": 0.5,
            "paused_for_s": 7,
            "breaker": "half_open",
            "calls_in_flight": 1,
        }
    ]
