"""The OpenAPI document: valid, complete, with examples that are true."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from jsonschema_rs import validator_for
from schemathesis import openapi

OPEN_PATHS = {"/livez", "/readyz", "/health", "/metrics"}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
PROBLEM = "#/components/schemas/Problem"


@pytest.fixture
async def document(app: FastAPI, stranger: httpx.AsyncClient) -> dict[str, Any]:
    """The document as clients get it."""
    return (await stranger.get("/openapi.json")).json()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every (path, method, operation)."""
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def fits(document: dict[str, Any], value: object, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema of the document."""
    return validator_for({**schema, "components": document["components"]}).is_valid(value)


async def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    """Generators and viewers can read it."""
    assert document["openapi"].startswith("3.1")
    openapi.from_dict(document).validate()


async def test_every_operation_is_named_tagged_and_described(document: dict[str, Any]) -> None:
    """Generated clients get good names."""
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names)) == 18
    for path, method, operation in operations(document):
        assert re.fullmatch("[a-z]+[A-Za-z]*", operation["operationId"]), (path, method)
        assert operation["tags"], (path, method)
        assert operation["description"], (path, method)


async def test_every_operation_documents_its_problems(document: dict[str, Any]) -> None:
    """As problem+json with a schema and examples that fit it."""
    for path, _, operation in operations(document):
        problems = {
            int(status): answer
            for status, answer in operation["responses"].items()
            if int(status) >= 400
        }
        needed = set() if path in OPEN_PATHS else {401, 422, 500, 503}
        assert needed <= set(problems), path
        for status, answer in problems.items():
            (media_type, content), *others = answer["content"].items()
            assert (media_type, others) == ("application/problem+json", [])
            assert content["schema"] == {"$ref": PROBLEM}
            for example in content["examples"].values():
                assert fits(document, example["value"], content["schema"])
                assert example["value"]["status"] == status


async def test_keys_are_needed_exactly_where_they_are_documented(
    document: dict[str, Any], stranger: httpx.AsyncClient
) -> None:
    """The document and the doors agree."""
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, method, operation in operations(document):
        url = re.sub(r"\{\w+\}", "0193588b-2f6b-7d3c-8d2f-4b8f0a1c2d3e", path)
        answer = await stranger.request(method, url)

        assert (path not in OPEN_PATHS) == bool(operation.get("security")), path
        assert (answer.status_code == 401) == bool(operation.get("security")), path


async def test_pipelines_bring_their_own_examples(
    document: dict[str, Any], client: httpx.AsyncClient
) -> None:
    """What the docs page offers to try is accepted as it stands."""
    body = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]

    assert list(body["examples"]) == ["letter 1"]
    for example in body["examples"].values():
        assert fits(document, example["value"], body["schema"])
        assert (await client.post("/v1/runs", json=example["value"])).status_code == 202


async def test_answers_fit_their_schemas(
    document: dict[str, Any], client: httpx.AsyncClient, letter: dict[str, Any]
) -> None:
    """Strictly: every documented member is there, and no other."""
    run = (await client.post("/v1/runs", json=letter)).json()
    schema = document["components"]["schemas"]["Run"]

    assert set(schema["required"]) == set(schema["properties"]) == set(run)
    assert fits(document, run, {"$ref": "#/components/schemas/Run"})
