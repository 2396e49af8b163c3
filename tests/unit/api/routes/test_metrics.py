"""Figures for Prometheus."""

from decimal import Decimal

import httpx
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from services.core.runs.call_limits import BreakerState, CallLimits
from services.core.runs.models import StepTotals
from services.core.runs.states import EventType
from services.core.usage import Usage
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import post_run

LABELS = {"pipeline": "letter", "step": "write_letter"}
TOTALS = StepTotals(
    pipeline="letter",
    step="write_letter",
    succeeded=3,
    failures=2,
    duration_s=4.5,
    durations={0.5: 1, 2.5: 3},
    usage=Usage(10, 20, 30, 40),
    cost_usd=Decimal("0.012345"),
)


async def read_samples(client: httpx.AsyncClient) -> dict[tuple[str, frozenset], float]:
    """Every sample by name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset]:
    """A sample's name and labels."""
    return f"penstock_{name}", frozenset(labels.items())


async def test_figures_of_the_record_are_read_from_the_record(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Queue, runs, steps, tokens, cost and errors."""
    await post_run(client)
    store.append_event(await post_run(client), EventType.RUN_FAILED)
    store.step_totals = (TOTALS,)
    store.unclaimable_runs = 2

    samples = await read_samples(stranger)

    expected = {
        key("record_up"): 1,
        key("queue_depth"): 1,
        key("due_runs"): 1,
        key("unclaimable_runs"): 2,
        key("oldest_queued_age_seconds"): 1.5,
        key("runs", state="queued"): 1,
        key("runs", state="running"): 0,
        key("runs", state="failed"): 1,
        key("run_failures_total", reason="crashed"): 0,
        key("step_duration_seconds_bucket", le="0.5", **LABELS): 1,
        key("step_duration_seconds_bucket", le="+Inf", **LABELS): 3,
        key("step_duration_seconds_count", **LABELS): 3,
        key("step_duration_seconds_sum", **LABELS): 4.5,
        key("step_failures_total", **LABELS): 2,
        key("claude_tokens_total", kind="input", **LABELS): 10,
        key("claude_tokens_total", kind="output", **LABELS): 20,
        key("claude_tokens_total", kind="cache_read", **LABELS): 30,
        key("claude_tokens_total", kind="cache_creation", **LABELS): 40,
        key("claude_cache_hit_ratio", **LABELS): 30 / 80,
        key("claude_cost_usd_total", **LABELS): 0.012345,
    }
    assert expected.items() <= samples.items()


async def test_requests_are_counted_by_route_not_by_path(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """Ids in paths would make a series of each run."""
    run_id = await post_run(client)
    await client.get(f"/v1/runs/{run_id}")
    await client.get(f"/v1/runs/{run_id}")
    await stranger.get(f"/v1/runs/{run_id}")
    await stranger.get("/wp-login.php")

    samples = await read_samples(stranger)

    one_run = {"method": "GET", "route": "/v1/runs/{run_id}"}
    assert samples[key("http_requests_total", status="200", **one_run)] == 2
    assert samples[key("http_requests_total", status="401", **one_run)] == 1
    assert samples[key("http_request_duration_seconds_count", **one_run)] == 3
    nothing = {"method": "GET", "route": "(none)", "status": "404"}
    assert samples[key("http_requests_total", **nothing)] == 1
    assert str(run_id) not in str(samples)


async def test_without_the_record_http_figures_are_still_there(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """An outage must be seen, not hide the rest; figures that are not known are not given as 0."""
    await stranger.get("/livez")
    store.is_away = True

    samples = await read_samples(stranger)

    assert samples[key("record_up")] == 0
    assert key("queue_depth") not in samples
    assert key("http_requests_total", method="GET", route="/livez", status="200") in samples


async def test_apps_do_not_share_their_figures(stranger: httpx.AsyncClient) -> None:
    """Each app has its own registry, so tests, and processes, do not add to each other's."""
    assert key("http_requests_total") not in await read_samples(stranger)
    assert not [name for name, _ in await read_samples(stranger) if name.startswith("python_")]


async def test_openmetrics_is_given_to_those_who_ask(stranger: httpx.AsyncClient) -> None:
    """A current Prometheus asks for it."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = await stranger.get("/metrics", headers=accept)

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(answer.text))


LIMITS = CallLimits(
    model="claude-sonnet-5-5",
    requests_per_min=4000,
    input_tokens_per_min=2_000_000,
    output_tokens_per_min=None,
    requests_left=12.5,
    input_tokens_left=-3.0,
    output_tokens_left=None,
    rate_factor=0.5,
    paused_for_s=1.5,
    breaker=BreakerState.OPEN,
    calls_in_flight=7,
)


async def test_limits_are_those_that_the_workers_share(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """By model; a limit that nobody knows yet is left out."""
    store.call_limits = [LIMITS]

    samples = await read_samples(stranger)

    model = {"model": "claude-sonnet-5-5"}
    expected = {
        key("claude_limit", kind="requests", **model): 4000,
        key("claude_limit", kind="input_tokens", **model): 2_000_000,
        key("claude_limit_left", kind="requests", **model): 12.5,
        key("claude_limit_left", kind="input_tokens", **model): -3,
        key("claude_rate_factor", **model): 0.5,
        key("claude_paused_seconds", **model): 1.5,
        key("claude_calls_in_flight", **model): 7,
        key("claude_breaker", penstock_claude_breaker="open", **model): 1,
        key("claude_breaker", penstock_claude_breaker="closed", **model): 0,
        key("claude_breaker", penstock_claude_breaker="half_open", **model): 0,
    }
    assert expected.items() <= samples.items()
    assert key("claude_limit", kind="output_tokens", **model) not in samples
