"""A schema that cannot be used is refused by the API, before a run exists."""

import dataclasses
from typing import Any

import httpx
import pytest

from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from tests.unit.api.conftest import add_key, dependencies, publisher, redis, store, texts

__all__ = ["dependencies", "publisher", "redis", "store", "texts"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "object", "properties": {"a": {"$ref": "https://evil.example/x"}}},
            "/properties/a/$ref: only #/$defs/… is followed",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}},
            "/properties/a/pattern: ",
        ),
    ],
)
async def test_a_wrong_schema_is_answered_422_with_its_field(
    dependencies: Dependencies, store: Any, schema: dict[str, Any], message: str
) -> None:
    """The client reads where and why; nothing was queued."""
    given = dataclasses.replace(dependencies, pipelines={"extract_records": EXTRACT_RECORDS})
    app = create_app(given)
    transport = httpx.ASGITransport(app=app)
    headers = {"Authorization": f"Bearer {await add_key(store)}"}
    body = {"pipeline": "extract_records", "input": {"schema": schema, "texts": ["x"]}}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client,
    ):
        answer = await client.post("/v1/runs", json=body)
        runs = (await client.get("/v1/runs")).json()

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "/input/schema"
    assert message in error["message"]
    assert runs["items"] == []
