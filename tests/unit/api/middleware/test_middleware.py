"""What happens around every request."""

import logging

import httpx
import pytest
from fastapi import FastAPI

from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import post_run


async def test_each_answer_has_a_request_id_of_its_own(stranger: httpx.AsyncClient) -> None:
    """Also problems."""
    ids = {
        (await stranger.get(path)).headers["x-request-id"]
        for path in ("/livez", "/livez", "/nothing", "/v1/runs")
    }

    assert len(ids) == 4


async def test_a_well_formed_request_id_is_kept(stranger: httpx.AsyncClient) -> None:
    """One id from the first proxy to the last log line."""
    answer = await stranger.get("/nothing", headers={"X-Request-Id": "edge-1.2_3"})

    assert answer.headers["x-request-id"] == "edge-1.2_3"
    assert answer.json()["request_id"] == "edge-1.2_3"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "ä", 'a"b', "a\tb"])
async def test_other_request_ids_are_replaced(stranger: httpx.AsyncClient, given: str) -> None:
    """What goes into logs is never the client's free choice."""
    headers = {"X-Request-Id": given.encode("latin-1")}
    answer = await stranger.get("/livez", headers=headers)

    assert given != answer.headers["x-request-id"]
    assert len(answer.headers["x-request-id"]) == 32


async def test_every_answer_tells_browsers_to_keep_their_hands_off(
    client: httpx.AsyncClient,
) -> None:
    """No sniffing, framing, caching."""
    run_id = await post_run(client)
    for path in ("/livez", "/nothing", f"/v1/runs/{run_id}", "/docs"):
        headers = (await client.get(path)).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/livez", "/v1/runs", "/v1/runs/{}", "/docs", "/nothing"])
async def test_head_answers_as_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    """Monitors ask so."""
    url = path.format(await post_run(client))
    get, head = await client.get(url), await client.head(url)

    varying = {"x-request-id", "content-length"}
    assert head.content == b""
    assert get.status_code == head.status_code
    assert {k: v for k, v in get.headers.items() if k not in varying} == {
        k: v for k, v in head.headers.items() if k not in varying
    }


async def test_requests_are_logged_by_route(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Method, route, status and time; no ids, keys, queries or bodies."""
    caplog.set_level(logging.INFO, logger="services.api")
    run_id = await post_run(client, input={"name": "hunter2"})
    await client.get(f"/v1/runs/{run_id}?limit=hunter2")
    await stranger.get("/hunter2")

    facts = [(r.method, r.route, r.status) for r in caplog.records if hasattr(r, "route")]
    assert facts == [
        ("POST", "/v1/runs", 202),
        ("GET", "/v1/runs/{run_id}", 200),
        ("GET", "(none)", 404),
    ]
    assert "hunter2" not in caplog.text
    assert "psk_" not in caplog.text
    assert all(record.ms >= 0 for record in caplog.records if hasattr(record, "ms"))


async def test_probes_are_logged_only_when_they_fail(
    stranger: httpx.AsyncClient, store: InMemoryRunStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Else they would be most of the log."""
    caplog.set_level(logging.INFO, logger="services.api")
    for path in ("/livez", "/readyz", "/metrics"):
        await stranger.get(path)
    assert not caplog.records
    store.is_away = True

    await stranger.get("/readyz")

    assert [503] == [record.status for record in caplog.records if hasattr(record, "status")]


async def test_an_unexpected_error_is_logged_with_its_request_id(
    app: FastAPI,
    client: httpx.AsyncClient,
    store: InMemoryRunStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer says where to look, and there it is."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    store.list_runs = fail  # type: ignore[method-assign]  # a bug in the record

    answer = await client.get("/v1/runs")

    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.request_id == answer.json()["request_id"]
