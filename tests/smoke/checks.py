"""What is checked: settings, connections, workers, beat, Flower and one whole run."""

import asyncio
import time
from typing import Any

import asyncpg
import httpx
import redis
from pydantic import ValidationError
from redis.sentinel import Sentinel

from config.api import ApiSettings
from config.celery import CelerySettings
from config.flower import FlowerSettings
from config.loading import describe_problem
from config.logfire import LogfireSettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from config.sources import Settings
from services.core.queue.app import create_celery_app
from services.core.queue.contracts import QUEUE_OF_TASK, TaskName
from tests.smoke.report import Check, SkippedError

WORKER_TIMEOUT_S = 20
RUN_TIMEOUT_S = 90
FRESH_S = 45
"""Age up to which a heartbeat is a sign of life."""
FINAL_STATES = {"succeeded", "failed", "cancelled"}
RUN = {
    "pipeline": "outreach_email",
    "input": {
        "template": "Dear {{name}},\n\nCould we talk for twenty minutes?\n\nKind regards\n{{sender}}",
        "template_type": "general",
        "recipient": {"name": "Dr. Elena Marsh", "affiliation": "Northfield University"},
        "sender": "Sam Okafor",
    },
    "metadata": {"source": "smoke test"},
    "budget_usd": "0.25",
}


def create_checks() -> list[tuple[str, Check]]:
    """Every check, in the order in which one failure explains the next."""
    return [
        ("Redis configuration", check_redis_settings),
        ("Celery configuration", check_celery_settings),
        ("Logfire configuration", check_logfire_settings),
        ("PostgreSQL configuration", check_postgres_settings),
        ("Redis connection", check_redis),
        ("PostgreSQL connection", check_postgres),
        ("API", check_api),
        ("Health", check_health),
        ("Worker (health_check)", check_worker),
        ("Beat", check_beat),
        ("Flower", check_flower),
        ("One whole run", check_run),
    ]


def _read(model: type[Settings]) -> Any:
    """The settings, or an error with the same lines that a process would end with."""
    try:
        return model()
    except ValidationError as error:
        lines = [describe_problem(model, problem) for problem in error.errors()]
        raise ValueError("; ".join(lines)) from None


def check_redis_settings() -> str:
    """Redis settings are valid."""
    settings = _read(RedisSettings)
    where = ", ".join(settings.sentinels) or f"{settings.host}:{settings.port}"
    return f"{where}, broker in database {settings.db}, results in {settings.db + 1}"


def check_celery_settings() -> str:
    """Celery settings are valid and make an app."""
    settings = _read(CelerySettings)
    create_celery_app(_read(RedisSettings), settings)
    return f"{settings.concurrency} runs at once, lease {settings.lease_ttl_s:g} s"


def check_logfire_settings() -> str:
    """Traces go somewhere."""
    settings = _read(LogfireSettings)
    goals = [
        *(["Logfire"] if settings.token else []),
        *([settings.otlp_endpoint] if settings.otlp_endpoint else []),
    ]
    if not goals:
        raise SkippedError(
            "no LOGFIRE_TOKEN and no OTEL_EXPORTER_OTLP_ENDPOINT: nothing leaves this machine"
        )
    return f"traces go to {' and '.join(goals)}"


def check_postgres_settings() -> str:
    """PostgreSQL settings are valid."""
    settings = _read(PostgresSettings)
    return f"{settings.user}@{settings.host}:{settings.port}/{settings.db}"


def check_redis() -> str:
    """Redis answers, with the password."""
    settings = _read(RedisSettings)
    started = time.monotonic()
    try:
        with _redis_client(settings) as client:
            client.ping()
            latency_ms = (time.monotonic() - started) * 1000
            version = client.info("server")["redis_version"]
    except redis.ConnectionError as error:
        _skip_if_up_inside("redis", error)
        raise
    return f"version {version}, first answer after {latency_ms:.0f} ms"


def _redis_client(settings: RedisSettings) -> "redis.Redis[Any]":
    timeouts = {
        "socket_timeout": settings.socket_timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
    }
    if not settings.sentinels:
        return redis.Redis.from_url(settings.broker_url, **timeouts)
    password = settings.password.get_secret_value() if settings.password else None
    sentinel = Sentinel(settings.sentinel_nodes, **timeouts)
    return sentinel.master_for(
        settings.sentinel_master, username=settings.username, password=password, db=settings.db
    )


def check_postgres() -> str:
    """PostgreSQL answers, and its schema is there."""
    try:
        return asyncio.run(_ask_postgres(_read(PostgresSettings)))
    except ConnectionError as error:
        _skip_if_up_inside("postgres", error)
        raise


async def _ask_postgres(settings: PostgresSettings) -> str:
    connection = await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        database=settings.db,
        password=settings.password.get_secret_value() if settings.password else None,
        timeout=settings.connect_timeout_s,
        command_timeout=settings.statement_timeout_s,
    )
    try:
        version = await connection.fetchval("SHOW server_version")
        revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    finally:
        await connection.close()
    return f"version {version}, schema {revision}"


def _api() -> httpx.Client:
    settings: ApiSettings = _read(ApiSettings)
    key = settings.initial_key.get_secret_value() if settings.initial_key else ""
    return httpx.Client(
        base_url=f"http://127.0.0.1:{settings.port}",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=10,
    )


def _health() -> dict[str, Any]:
    with _api() as api:
        return dict(api.get("/health").raise_for_status().json())


def _skip_if_up_inside(part: str, error: Exception) -> None:
    """Without compose.override.yaml no port of this part is published; then the API's word counts."""
    try:
        is_up = _health()[part]["status"] == "up"
    except (httpx.HTTPError, KeyError):
        return
    if is_up:
        raise SkippedError("no port on this machine; the API reaches it") from error


def check_api() -> str:
    """The API can serve."""
    with _api() as api:
        ready = api.get("/readyz")
        if not ready.is_success:
            raise ConnectionError(f"not ready: {ready.json().get('detail', ready.text)}")
    health = _health()
    return (
        f"version {health['version']}, {health['environment']}, Claude {health['claude']['status']}"
    )


def check_health() -> str:
    """PostgreSQL and Redis take writes, and somebody can execute every run."""
    health = _health()
    parts = {part: health[part] for part in ("postgres", "redis")}
    ills = [
        f"{name} is {part['status']}: {part['error']}"
        for name, part in parts.items()
        if part["status"] != "up"
    ]
    queue = health["queue"] or {"depth": "?", "unclaimable_runs": 0}
    if queue["unclaimable_runs"]:
        ills.append(f"no living worker can execute {queue['unclaimable_runs']} due runs")
    if ills:
        raise RuntimeError("; ".join(ills))
    return f"{queue['depth']} runs queued"


def check_worker() -> str:
    """A worker takes a task from the queue and answers."""
    settings: RedisSettings = _read(RedisSettings)
    try:
        with _redis_client(settings) as client:
            client.ping()
    except redis.ConnectionError as error:
        _skip_if_up_inside("redis", error)
        raise
    with create_celery_app(settings, _read(CelerySettings)) as app:
        result = app.send_task(
            TaskName.HEALTH_CHECK,
            queue=QUEUE_OF_TASK[TaskName.HEALTH_CHECK],
            expires=WORKER_TIMEOUT_S,
        )
        report = result.get(timeout=WORKER_TIMEOUT_S)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"{report['worker']}: {versions}; Redis {report['redis_latency_ms']:.1f} ms"


def check_beat() -> str:
    """Beat has caused a sweep a moment ago."""
    ages = [beat["age_s"] for beat in _health()["heartbeats"] if beat["kind"] == "beat"]
    if not ages:
        raise ConnectionError("beat has never been heard of")
    if min(ages) > FRESH_S:
        raise ConnectionError(f"beat was last heard of {min(ages):.0f} s ago")
    return f"last heard of {min(ages):.0f} s ago"


def check_flower() -> str:
    """Flower lets its user in and knows workers."""
    settings: FlowerSettings = _read(FlowerSettings)
    password = settings.password.get_secret_value() if settings.password else ""
    url = f"http://127.0.0.1:{settings.port}/api/workers"
    with httpx.Client(auth=(settings.user, password), timeout=10) as flower:
        workers = flower.get(url, params={"refresh": "true"}).raise_for_status().json()
    if not workers:
        raise ConnectionError("it sees no worker")
    return f"sees {', '.join(sorted(workers))}"


def check_run() -> str:
    """A run goes from POST to a finished email."""
    if _read(ApiSettings).initial_key is None:
        raise SkippedError("API_INITIAL_KEY is not set")
    with _api() as api:
        answer = api.post("/v1/runs", json=RUN)
        if not answer.is_success:
            raise ConnectionError(
                f"refused with {answer.status_code}: {answer.json().get('detail')}"
            )
        run = _wait_for(api, answer.json()["id"])
    if run["state"] != "succeeded":
        why = run["failure"] or f"not finished within {RUN_TIMEOUT_S} s"
        raise RuntimeError(f"run {run['id']} is {run['state']}: {why}")
    is_simulated = run["output"]["metadata"].get("simulated", False)
    return (
        f"“{run['output']['subject']}”, ${run['cost_usd']}{', simulated' if is_simulated else ''}"
    )


def _wait_for(api: httpx.Client, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while True:
        run = dict(api.get(f"/v1/runs/{run_id}").raise_for_status().json())
        if run["state"] in FINAL_STATES or time.monotonic() > deadline:
            return run
        time.sleep(0.5)
