"""What operators see: Flower, health, metrics, the API's docs."""

import re
import time

import httpx

from tests.e2e.conftest import Api


def _tasks_of_runs(flower: httpx.Client) -> dict[str, dict[str, object]]:
    tasks = flower.get("/api/tasks", params={"limit": 1000}).raise_for_status().json()
    return {uuid: task for uuid, task in tasks.items() if task["name"] == "run:outreach_email"}


def test_flower_shows_workers_and_each_run_as_a_task(api: Api, outreach, flower) -> None:
    """Flower knows both workers, and each run with its state and runtime."""
    run = api.wait(api.post_run(outreach())["id"])
    time.sleep(2)

    workers = flower.get("/api/workers", params={"refresh": "true"}).raise_for_status().json()
    mine = [t for uuid, t in _tasks_of_runs(flower).items() if uuid.startswith(run["id"])]

    assert len(workers) == 2
    assert ["SUCCESS"] == [task["state"] for task in mine]
    assert mine[0]["runtime"] > 0


def test_flower_needs_its_password(flower: httpx.Client) -> None:
    """Nobody looks without logging in."""
    assert httpx.get(str(flower.base_url)).status_code == 401


def test_health_shows_every_part_alive(stranger: httpx.Client) -> None:
    """Health names each part and how old its last sign of life is."""
    assert stranger.get("/livez").status_code == 200
    assert stranger.get("/readyz").status_code == 200
    health = stranger.get("/health").raise_for_status().json()

    kinds = {beat["kind"] for beat in health["heartbeats"]}
    assert {"worker", "worker-isolated", "beat"} <= kinds


def test_metrics_count_runs_tokens_and_cost(api: Api, outreach, stranger) -> None:
    """The figures of the record are there for Prometheus."""
    api.wait(api.post_run(outreach())["id"])
    time.sleep(6)  # each process reads the record's figures every 5 s at most

    text = stranger.get("/metrics").raise_for_status().text

    succeeded = re.search(r'^penstock_runs\{state="succeeded"\} (\S+)$', text, re.MULTILINE)
    assert succeeded
    assert float(succeeded[1]) >= 1
    for name in (
        "penstock_queue_depth",
        "penstock_oldest_queued_age_seconds",
        "penstock_step_duration_seconds",
        "penstock_claude_tokens",
        "penstock_claude_cost_usd",
    ):
        assert re.search(rf"^{name}", text, re.MULTILINE), name


def test_the_docs_page_needs_no_internet(stranger: httpx.Client) -> None:
    """The docs page loads nothing from other hosts, and every asset is there."""
    page = stranger.get("/docs").raise_for_status().text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert assets
    for asset in assets:
        assert asset.startswith("/"), asset
        assert stranger.get(asset).status_code == 200
    assert stranger.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_answers_carry_a_request_id(stranger: httpx.Client) -> None:
    """Each answer names its request, for the logs."""
    assert stranger.get("/livez").headers["x-request-id"]
