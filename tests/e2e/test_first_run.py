"""One run, from the POST to the email."""

import json
import re
from uuid import uuid4

import pytest

from tests.e2e.conftest import Api

STEPS = ["parse_template", "research", "compose_email"]


@pytest.mark.parametrize("template_type", ["research", "book", "general"])
def test_a_posted_run_becomes_an_email(api: Api, outreach, template_type: str) -> None:
    """Every template type ends in an email made from the given template and sources."""
    body = outreach()
    body["input"]["template_type"] = template_type

    run = api.wait(api.post_run(body)["id"])

    assert run["state"] == "succeeded", run["failure"]
    assert [step["name"] for step in run["steps"]] == STEPS
    assert {step["state"] for step in run["steps"]} == {"succeeded"}
    assert {step["attempts"] for step in run["steps"]} == {1}
    output = run["output"]
    assert output["template_type"] == template_type
    assert "Elena Marsh" in output["body"]
    assert "Sam Okafor" in output["body"]
    assert "{{" not in output["body"]
    assert output["metadata"]["simulated"] is True
    assert output["metadata"]["sources"][0]["url"] == body["input"]["sources"][0]


def test_email_run_and_cost_agree(api: Api, outreach) -> None:
    """The email in the record is the run's output, and the run's cost is the sum of its steps'."""
    run = api.wait(api.post_run(outreach())["id"])

    email = api.get(f"/v1/emails/{run['output']['email_id']}")
    listed = api.get("/v1/emails", run_id=run["id"])["items"]

    assert email["subject"] == run["output"]["subject"]
    assert email["body"] == run["output"]["body"]
    assert [email["id"]] == [item["id"] for item in listed]
    assert run["usage"]["output_tokens"] > 0
    assert float(run["cost_usd"]) > 0
    total = sum(float(step["cost_usd"]) for step in run["steps"])
    assert float(run["cost_usd"]) == pytest.approx(total)
    assert re.fullmatch("[0-9a-f]{32}", run["trace_id"])


def test_events_tell_the_whole_run_in_order(api: Api, outreach) -> None:
    """Events count 1, 2, 3, …, begin with run.queued and end with run.succeeded."""
    events = api.read_events(api.post_run(outreach())["id"])

    types = [event_type for _, event_type, _ in events]
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    assert types[:3] == ["run.queued", "run.started", "step.started"]
    assert types[-2:] == ["step.succeeded", "run.succeeded"]
    assert "claude.delta" not in types
    assert types.count("step.succeeded") == len(STEPS)


def test_the_text_streams_while_it_is_written(api: Api, outreach) -> None:
    """Without ids, between the beginning and the end of its step, and whole: what Claude answers is JSON."""
    stream = api.read_stream(f"/v1/runs/{api.post_run(outreach())['id']}")

    texts: dict[str, str] = {}
    open_step = ""
    for seq, kind, data in stream:
        if kind == "claude.delta":
            assert (seq, data["step"], data["attempt"], data["call"]) == ("", open_step, 1, 0)
            assert data["offset"] == len(texts.get(open_step, ""))
            texts[open_step] = texts.get(open_step, "") + data["text"]
        else:
            open_step = data["step"] if kind == "step.started" else ""
    assert {"parse_template", "compose_email"} == set(texts)
    assert all(json.loads(text) for text in texts.values())


def test_events_resume_after_any_id(api: Api, outreach) -> None:
    """A client that reconnects with Last-Event-ID misses and repeats nothing."""
    run_id = api.post_run(outreach())["id"]
    whole = api.read_events(run_id)

    for seq in range(1, len(whole)):
        assert whole[seq:] == api.read_events(run_id, after=seq)


def test_the_same_idempotency_key_gives_the_same_run(api: Api, outreach) -> None:
    """A repeated POST is the same run; with another body it is refused."""
    key = {"Idempotency-Key": f"e2e-{uuid4()}"}
    first = api.post_run(outreach(), **key)
    again = api.post_run(outreach(), **key)
    other = api.http.post("/v1/runs", json=outreach(priority=1), headers=key)

    assert first["id"] == again["id"]
    assert other.status_code == 422
    assert other.headers["content-type"].startswith("application/problem+json")


def test_a_queued_or_running_run_can_be_cancelled(api: Api, outreach, simulator) -> None:
    """A cancelled run ends at once and stays so."""
    simulator.put("/admin/faults", json={"latency_ms": 20_000}).raise_for_status()
    run_id = api.post_run(outreach())["id"]

    answer = api.http.post(f"/v1/runs/{run_id}/cancel")

    assert answer.status_code == 202
    assert api.wait(run_id, timeout_s=5)["state"] == "cancelled"
    assert api.read_events(run_id)[-1][1] == "run.cancelled"


def test_a_failing_claude_is_tried_again(api: Api, outreach, simulator) -> None:
    """An overloaded Claude delays a run; it does not fail it."""
    simulator.put("/admin/faults", json={"fault": "overloaded", "count": 1}).raise_for_status()

    run = api.wait(api.post_run(outreach())["id"])

    assert run["state"] == "succeeded"
    assert max(step["attempts"] for step in run["steps"]) == 2
    assert "step.retrying" in [kind for _, kind, _ in api.read_events(run["id"])]
