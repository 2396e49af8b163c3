"""Where spans go: nowhere, to Logfire, to a collector, and what a dead one costs."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.otlp_collector import OtlpCollector
from tests.integration.telemetry.conftest import Processes

SPANS = """
import time
from services.core import telemetry
telemetry.initialize(service_name="sample")
telemetry.initialize(service_name="other")
for number in range(2000):
    with telemetry.span("x", number=number):
        pass
started = time.monotonic()
telemetry.flush()
telemetry.shutdown()
print(time.monotonic() - started, telemetry.is_initialized())
"""
PATIENT_SPANS = SPANS.replace("flush()", "flush(30_000)")
"""So that a busy machine loses none of them: a process that ends waits for seconds only."""
NO_SOCKETS = """
import socket
def refuse(*address):
    raise SystemExit(f"connected to {address[1:]}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


SECRETS = ("key psk_0123456789ab_not-to-be-seen", "redis://penstock:hunter22@redis:6379/0")
SECRET_SPANS = f"""
from services.core import telemetry
telemetry.initialize(service_name="secrets")
for text in {SECRETS!r}:
    with telemetry.span("secret"):
        telemetry.annotate(text=text)
telemetry.flush(30_000)
telemetry.shutdown()
"""


HANGING_SPAN = """
import os, time
from services.core import open_spans, telemetry
open_spans.TOLD_AFTER_S = 0.5
telemetry.initialize(service_name="sample")
with telemetry.span("hangs"):
    time.sleep(4)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def hanging_url() -> Iterator[str]:
    """An endpoint that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_nothing_leaves_without_token_and_endpoint(processes: Processes) -> None:
    """No connection is even tried, and nothing is printed but the result."""
    done = processes.run_python(NO_SOCKETS + SPANS, OTEL_EXPORTER_OTLP_ENDPOINT="")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("True\n")


def test_a_credentials_file_is_no_token(processes: Processes, tmp_path: Path) -> None:
    """A Logfire login in the working folder sends nothing."""
    folder = tmp_path / ".logfire"
    folder.mkdir()
    credentials = {
        "token": "pylf_v1_us_x",
        "project_name": "x",
        "project_url": "https://x.invalid",
        "logfire_api_url": "https://x.invalid",
    }
    (folder / "logfire_credentials.json").write_text(json.dumps(credentials))
    move = f"import os; os.chdir({str(tmp_path)!r})\n"
    done = processes.run_python(move + NO_SOCKETS + SPANS, OTEL_EXPORTER_OTLP_ENDPOINT="")

    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_initialize_changes_nothing(
    processes: Processes, collector: OtlpCollector
) -> None:
    """All spans arrive, once, under the first name."""
    before = len(collector.spans)
    done = processes.run_python(PATIENT_SPANS)
    spans = collector.spans[before:]

    assert done.stderr == ""
    assert len(spans) == 2000
    assert {span.service for span in spans} == {"sample"}


def test_with_a_token_spans_go_to_logfire(processes: Processes, collector: OtlpCollector) -> None:
    """Logfire's own exporter is used, here with the collector in Logfire's place."""
    before = len(collector.spans)
    processes.run_python(
        PATIENT_SPANS,
        OTEL_EXPORTER_OTLP_ENDPOINT="",
        LOGFIRE_TOKEN="pylf_v1_us_0123456789",
        LOGFIRE_BASE_URL=collector.url,
    )

    spans = collector.spans[before:]
    assert {"x"} == {span.name for span in spans}
    # Logfire's exporter sends again what was not answered in time: on a busy machine a span can come twice.
    assert len({span.span_id for span in spans}) == 2000


def test_logfire_does_not_quote_what_it_hides(
    processes: Processes, collector: OtlpCollector
) -> None:
    """Logfire names what it scrubs by the match, so nothing that it looks for may be a secret."""
    processes.run_python(SECRET_SPANS)

    spans = [span for span in collector.spans if span.service == "secrets"]
    assert [span.attributes["text"] for span in spans] == [
        "key psk_[redacted]",
        "redis://[redacted]@redis:6379/0",
    ]
    assert not any("not-to-be-seen" in span.text or "hunter22" in span.text for span in spans)


def test_a_span_that_hangs_is_seen_while_it_does(
    processes: Processes, collector: OtlpCollector
) -> None:
    """Logfire is told of it even if its process never gets to end it; a collector is not."""
    for service, variables in (
        ("told", {"LOGFIRE_TOKEN": "pylf_v1_us_0123456789", "LOGFIRE_BASE_URL": collector.url}),
        ("untold", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}),
    ):
        both = {"OTEL_EXPORTER_OTLP_ENDPOINT": ""} | variables
        processes.run_python(HANGING_SPAN.replace("sample", service), **both)

    (pending,) = (span for span in collector.spans if span.service in ("told", "untold"))
    assert (pending.service, pending.name) == ("told", "hangs")
    assert pending.attributes["logfire.span_type"] == "pending_span"


@pytest.mark.parametrize("kind", ["refused", "hanging"])
def test_a_dead_endpoint_costs_seconds_and_one_line(
    kind: str, hanging_url: str, processes: Processes
) -> None:
    """Whether it refuses or hangs, the process ends in time and says once what is wrong."""
    url = hanging_url if kind == "hanging" else "http://127.0.0.1:1"
    done = processes.run_python(SPANS, OTEL_EXPORTER_OTLP_ENDPOINT=url)

    took_s = float(done.stdout.split()[0])
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0
    assert took_s < 6.5
    assert "does not take spans" in json.loads(line)["message"]
