"""One unbroken trace over real processes, with nothing in it that should not be."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.fakes.otlp_collector import CollectedSpan, OtlpCollector
from tests.integration.telemetry.conftest import Processes, Stack, wait_until
from tests.integration.telemetry.sample import KEY, PROMPT, create_celery

CLIENT_KEY = "psk_0123456789ab_" + "S" * 43
POST = "POST /v1/runs/{name}"
HINT = "run/sample.work"
RUNS = 7  # more than the tasks after which a child is replaced


def _trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1]


def _wait_for_trace(collector: OtlpCollector, trace_id: str, *, spans: int) -> list[CollectedSpan]:
    def find() -> list[CollectedSpan]:
        return [span for span in collector.spans if span.trace_id == trace_id]

    wait_until(lambda: len(find()) >= spans)
    return find()


def test_a_trace_reaches_from_the_request_to_the_call_to_claude(
    stack: Stack, collector: OtlpCollector
) -> None:
    """POST, broker, worker, step and call are one trace each, though the worker's children are replaced."""
    with ThreadPoolExecutor(RUNS) as pool:
        answers = list(
            pool.map(lambda n: stack.http.post(f"/v1/runs/{n}", json={"text": "x"}), range(RUNS))
        )

    for answer in answers:
        spans = _wait_for_trace(collector, _trace_id(answer.json()["traceparent"]), spans=6)
        assert Counter(tuple(collector.path_to_root(span)) for span in spans) == {
            (POST,): 1,
            ("apply_async/sample.work", POST): 1,
            (HINT, "apply_async/sample.work", POST): 1,
            ("run", POST): 1,
            ("step", "run", POST): 1,
            ("claude", "step", "run", POST): 1,
        }
        assert {span.service for span in spans if span.name in {"claude", HINT}} == {"worker"}


def test_spans_hold_no_content_and_no_keys(stack: Stack, collector: OtlpCollector) -> None:
    """Neither body nor headers nor the key in an error's text leave the process; the error itself does."""
    headers = {
        "Authorization": f"Bearer {CLIENT_KEY}",
        "User-Agent": "a browser",
        "baggage": "who=someone",
    }
    stack.http.post("/v1/runs/x", json={"wrong": PROMPT}, headers=headers)
    answer = stack.http.post(
        f"/v1/runs/failing?key={CLIENT_KEY}", json={"text": PROMPT}, headers=headers
    )
    spans = _wait_for_trace(collector, _trace_id(answer.json()["traceparent"]), spans=6)
    everything = "".join(span.text for span in collector.spans)

    assert "refused [redacted]" in next(span.text for span in spans if span.name == "run")
    for secret in (KEY, CLIENT_KEY, PROMPT, "a browser", "someone"):
        assert secret not in everything


def test_housekeeping_makes_no_traces(stack: Stack, collector: OtlpCollector) -> None:
    """Health checks and messages that no request caused leave no spans of requests and messages."""
    before = len(collector.spans)
    for _ in range(3):
        assert stack.http.get("/livez").is_success
    answer = stack.http.post("/v1/runs/x", json={"text": "x"})
    own = _trace_id(answer.json()["traceparent"])
    _wait_for_trace(collector, own, spans=6)
    others = [span.name for span in collector.spans[before:] if span.trace_id != own]

    assert set(others) <= {"run", "step", "claude"}  # those of the tasks that /livez sent


def test_content_is_recorded_if_somebody_asks_for_it(
    processes: Processes, collector: OtlpCollector
) -> None:
    """LOGFIRE_CAPTURE_CONTENT puts prompts into the spans that record them."""
    trace_id = "c" * 32
    kwargs = {"traceparent": f"00-{trace_id}-{'d' * 16}-01"}
    allowing = Processes(
        processes.variables | {"LOGFIRE_CAPTURE_CONTENT": "true", "SAMPLE_QUEUE": "content"},
        processes.folder,
    )
    with (
        allowing.worker(name="allowing"),
        create_celery(processes.variables["SAMPLE_BROKER"]) as app,
    ):
        app.send_task("sample.work", kwargs=kwargs, queue="content")
        spans = _wait_for_trace(collector, trace_id, spans=3)

    assert [PROMPT] == [span.attributes["prompt"] for span in spans if span.name == "claude"]
