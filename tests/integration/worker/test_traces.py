"""One trace, from the request that posted a run to its steps in the worker."""

from services.core.runs.states import RunState
from tests.fakes.otlp_collector import OtlpCollector
from tests.integration.worker.lab import Lab

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


async def test_a_runs_spans_hang_below_the_request(lab: Lab) -> None:
    """The run's span continues the stored trace, steps are below it, with figures and no content."""
    with OtlpCollector().running() as collector:
        worker = await lab.start_worker(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        run_id = await lab.post("ask", traceparent=TRACEPARENT)
        (run,) = await lab.wait(run_id)
        worker.stop()
        spans = collector.wait_for("run", "first", "second")

    assert RunState.SUCCEEDED is run.state
    assert {TRACE_ID} == {span.trace_id for span in spans.values()}
    assert PARENT_ID == spans["run"].parent_id
    assert {spans["run"].span_id} == {spans["first"].parent_id, spans["second"].parent_id}
    told = spans["second"].attributes
    assert (str(run_id), "second", 1) == (told["run_id"], told["step"], told["attempt"])
    assert (10, 5, "0.01") == (told["input_tokens"], told["output_tokens"], told["cost_usd"])
    assert "Dear" not in "".join(span.text for span in spans.values())


async def test_a_recycled_child_loses_no_span(lab: Lab) -> None:
    """A prefork child that is replaced after its last task sends what it holds first."""
    with OtlpCollector().running() as collector:
        await lab.start_worker(
            pool="prefork",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            CELERY_MAX_TASKS_PER_CHILD="1",
        )
        await lab.wait(await lab.post_suspect(traceparent=TRACEPARENT))

        spans = collector.wait_for("run", "first", "second")

    assert spans["run"].span_id == spans["second"].parent_id
