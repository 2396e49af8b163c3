"""Wrong input of every kind gives the documented problem and no stack trace."""

import httpx
import pytest

from tests.e2e.conftest import Api

NOBODYS_ID = "01890000-0000-7000-8000-000000000000"


def _assert_problem(answer: httpx.Response, status: int, kind: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].endswith(kind), problem
    assert "Traceback" not in answer.text
    return dict(problem)


def _fields(problem: dict[str, object]) -> list[str]:
    errors = problem["errors"]
    assert isinstance(errors, list)
    return [error["field"] for error in errors]


def test_no_key(stranger: httpx.Client) -> None:
    """Nobody without a key gets anything."""
    answer = stranger.get("/v1/runs")

    _assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("key", ["nonsense", "psk_0123456789ab_" + "x" * 43])
def test_a_bad_key(stranger: httpx.Client, key: str) -> None:
    """A wrong key is as good as none."""
    answer = stranger.get("/v1/runs", headers={"Authorization": f"Bearer {key}"})

    _assert_problem(answer, 401, "unauthorized")


def test_an_unknown_pipeline(api: Api, outreach) -> None:
    """The problem names the pipelines that exist."""
    answer = api.http.post("/v1/runs", json=outreach() | {"pipeline": "nope"})

    problem = _assert_problem(answer, 422, "unknown-pipeline")
    assert "outreach_email" in str(problem)


def test_missing_fields(api: Api, outreach) -> None:
    """The problem points at each missing field."""
    body = outreach()
    del body["input"]["template"], body["input"]["recipient"]["name"]

    problem = _assert_problem(api.http.post("/v1/runs", json=body), 422, "invalid-request")

    assert {"/input/template", "/input/recipient/name"} == set(_fields(problem))


def test_a_template_without_placeholders(api: Api, outreach) -> None:
    """There is nothing to find out, so the template is refused with the remedy."""
    body = outreach()
    body["input"]["template"] = "Dear all, hello."

    problem = _assert_problem(api.http.post("/v1/runs", json=body), 422, "invalid-request")

    assert ["/input/template"] == _fields(problem)
    assert "{{" in str(problem)


def test_a_body_of_10_mb(api: Api, outreach) -> None:
    """Too large a body is refused."""
    body = outreach(metadata={"blob": "x" * 10_000_000})

    _assert_problem(api.http.post("/v1/runs", json=body), 413, "body-too-large")


def test_invalid_json(api: Api) -> None:
    """What is not JSON is refused."""
    headers = {"Content-Type": "application/json"}
    answer = api.http.post("/v1/runs", content='{"pipeline": ', headers=headers)

    _assert_problem(answer, 422, "invalid-request")


def test_an_unknown_path_and_a_wrong_method(api: Api) -> None:
    """Also the framework's own errors are problems."""
    _assert_problem(api.http.get("/v1/nothing"), 404, "not-found")
    wrong = api.http.delete("/v1/runs")
    _assert_problem(wrong, 405, "method-not-allowed")
    assert "POST" in wrong.headers["allow"]


@pytest.mark.parametrize("path", [f"/v1/runs/{NOBODYS_ID}", f"/v1/emails/{NOBODYS_ID}"])
def test_what_is_not_there(api: Api, path: str) -> None:
    """An unknown run or email is 404."""
    _assert_problem(api.http.get(path), 404, "not-found")


def test_an_unreachable_source_is_left_out(api: Api, outreach, stack) -> None:
    """A source that is not there is noted in the email's metadata; the run goes on with the rest."""
    body = outreach()
    body["input"]["sources"].append(f"{stack.samples_url}/not-there.html")
    body["input"]["sources"].append("http://127.0.0.1:9/")

    run = api.wait(api.post_run(body)["id"])

    assert run["state"] == "succeeded", run["failure"]
    statuses = {s["url"]: s["status"] for s in run["output"]["metadata"]["sources"]}
    assert statuses[body["input"]["sources"][0]] == "found"
    assert {statuses[url] for url in body["input"]["sources"][1:]} == {"not_found"}
