"""Every line of a container is JSON, says whose it is, and holds no secret."""

from tests.integration.telemetry.conftest import Stack, parse_lines, wait_until
from tests.integration.telemetry.sample import KEY


def test_gunicorn_and_uvicorn_log_json_and_keep_quiet_about_probes(stack: Stack) -> None:
    """Start and requests are lines of one form; a health check every few seconds is none."""
    for _ in range(5):
        stack.http.get("/livez")
    stack.http.get("/nowhere")
    # The line is written after the answer is sent.
    wait_until(lambda: "/nowhere" in stack.api_log.read_text())
    lines = parse_lines(stack.api_log)

    assert {"gunicorn.error", "uvicorn.error", "uvicorn.access"} <= {
        line["logger"] for line in lines
    }
    access = [line["message"] for line in lines if line["logger"] == "uvicorn.access"]
    assert any('"GET /nowhere HTTP/1.1" 404' in message for message in access)
    assert not any("/livez" in message for message in access)


def test_a_worker_logs_json_with_the_trace(stack: Stack) -> None:
    """A failed task's line leads to its trace, from a prefork child, with the key in its traceback removed."""
    answer = stack.http.post("/v1/runs/failing", json={"text": "x"})
    trace_id = answer.json()["traceparent"].split("-")[1]
    wait_until(lambda: trace_id in stack.worker_log.read_text())
    lines = parse_lines(stack.worker_log)

    (failed,) = [line for line in lines if line.get("trace_id") == trace_id]
    assert failed["level"] == "ERROR"
    assert "ValueError: refused [redacted]" in failed["exc_info"]
    assert KEY not in stack.worker_log.read_text()
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
