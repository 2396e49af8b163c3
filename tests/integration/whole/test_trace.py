"""The real API, worker and simulator as processes: one run is one unbroken trace."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.runs.keys import generate_key
from tests.fakes.otlp_collector import OtlpCollector
from tests.integration.servers import free_port
from tests.integration.telemetry.conftest import Processes, wait_until

KEY = generate_key()
SECRET_WISH = "a wish that belongs to nobody else"
POST = "POST /v1/runs"


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    """A collector that listens."""
    with OtlpCollector().running() as collector:
        yield collector


@pytest.fixture
def simulator_url() -> str:
    """Where the simulator will listen."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def api(
    collector: OtlpCollector,
    fresh_database: PostgresSettings,
    clean_redis: RedisSettings,
    simulator_url: str,
    tmp_path: Path,
) -> Iterator[httpx.Client]:
    """The API of a stack of real processes, with the commands that compose.yaml gives them."""
    assert fresh_database.password is not None
    assert clean_redis.password is not None
    port = str(free_port())
    simulator = httpx.URL(simulator_url)
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "LOGFIRE_LOG_FORMAT": "json",
        "POSTGRES_HOST": fresh_database.host,
        "POSTGRES_PORT": str(fresh_database.port),
        "POSTGRES_DB": fresh_database.db,
        "POSTGRES_USER": fresh_database.user,
        "POSTGRES_PASSWORD": fresh_database.password.get_secret_value(),
        "REDIS_HOST": clean_redis.host,
        "REDIS_PORT": str(clean_redis.port),
        "REDIS_PASSWORD": clean_redis.password.get_secret_value(),
        "API_PORT": port,
        "API_INITIAL_KEY": KEY,
        "ANTHROPIC_SIMULATOR_URL": simulator_url,
        "RESEARCH_ALLOWED_PRIVATE_HOSTS": f'["{simulator.netloc.decode()}"]',
        "CELERY_CUSTOM_WORKER_POOL": "services.worker.pool:TaskPool",
    }
    processes = Processes(variables, tmp_path)
    done = processes.run_python(
        "import runpy; runpy.run_module('services.migrate', run_name='__main__')"
    )
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        simulate = ("uvicorn", "--factory", "services.simulator.app:create_app")
        stack.enter_context(processes.running("simulator", *simulate, f"--port={simulator.port}"))
        work = ("python", "-m", "services.worker", "--pool=custom", "--queues=runs")
        worker_log = stack.enter_context(processes.running("worker", *work))
        serve = ("gunicorn", "-c", "services/api/gunicorn.conf.py", "services.api.app:create_app()")
        api_log = stack.enter_context(processes.running("api", *serve))
        wait_until(lambda: "ready." in worker_log.read_text(), timeout_s=60)
        wait_until(lambda: "startup complete" in api_log.read_text(), timeout_s=60)
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{port}"
        yield stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=15))


def test_a_run_is_one_trace_from_the_post_to_each_call_to_claude(
    api: httpx.Client, collector: OtlpCollector, simulator_url: str
) -> None:
    """Whoever opens the trace of a run sees the request, the hint, each step and each call, and no content."""
    body = {
        "pipeline": "outreach_email",
        "input": {
            "template": f"Dear {{{{name}}}},\n\n{SECRET_WISH}: {{{{research_topic}}}}.\n\nBest\nSam",
            "template_type": "general",
            "recipient": {"name": "Dr. Elena Marsh"},
            "sources": [f"{simulator_url}/samples/researcher.html"],
        },
    }

    posted = api.post("/v1/runs", json=body).raise_for_status().json()
    path = f"/v1/runs/{posted['id']}"
    wait_until(lambda: api.get(path).json()["state"] == "succeeded", timeout_s=60)
    trace_id = api.get(path).json()["trace_id"]
    wait_until(lambda: POST in [s.name for s in collector.spans if s.trace_id == trace_id])
    wait_until(lambda: "run" in [s.name for s in collector.spans if s.trace_id == trace_id])

    spans = [span for span in collector.spans if span.trace_id == trace_id]
    paths = {tuple(reversed(collector.path_to_root(span))) for span in spans}
    chat = next(span.name for span in spans if span.name.startswith("chat "))
    assert {
        (POST,),
        (POST, "apply_async/runs.execute"),
        (POST, "apply_async/runs.execute", "run/runs.execute"),
        (POST, "run"),
        (POST, "run", "parse_template"),
        (POST, "run", "parse_template", chat),
        (POST, "run", "research"),
        (POST, "run", "compose_email"),
        (POST, "run", "compose_email", chat),
    } <= paths
    assert not [path for path in paths if "(missing parent)" in path]
    assert {"api", "worker"} == {span.service for span in spans}
    everything = "".join(span.text for span in collector.spans)
    assert SECRET_WISH not in everything
    assert KEY not in everything
