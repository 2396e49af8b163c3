"""A collector that takes traces from any process over OTLP/HTTP and keeps them in memory."""

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """A span as it arrived, from whichever process."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    attributes: dict[str, object]
    text: str
    """Everything in it as text: the place to look for what should not be there."""


class OtlpCollector:
    """Spans of all processes that were given `url` as OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[CollectedSpan] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._create_handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[CollectedSpan]:
        """What has arrived, in order of arrival."""
        with self._lock:
            return list(self._spans)

    def wait_for(self, *names: str, timeout_s: float = 15) -> dict[str, CollectedSpan]:
        """The latest span of each name, once all have arrived."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = {span.name: span for span in self.spans}
            if found.keys() >= set(names):
                return {name: found[name] for name in names}
            time.sleep(0.05)
        message = f"missing {set(names) - {span.name for span in self.spans}} among {self.spans}"
        raise AssertionError(message)

    def path_to_root(self, span: CollectedSpan) -> list[str]:
        """Names from a span up to the root; breaks off where a parent never arrived."""
        by_id = {(s.trace_id, s.span_id): s for s in self.spans}
        names = [span.name]
        while span.parent_id is not None:
            parent = by_id.get((span.trace_id, span.parent_id))
            if parent is None:
                return [*names, "(missing parent)"]
            names.append(parent.name)
            span = parent
        return names

    @contextmanager
    def running(self) -> Iterator["OtlpCollector"]:
        """Listen until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            _to_span(_values(group.resource.attributes).get("service.name"), span)
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans.extend(spans)

    def _create_handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Say nothing."""

        return Handler


def _to_span(service: object, span: WireSpan) -> CollectedSpan:
    return CollectedSpan(
        service=str(service),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        attributes=_values(span.attributes),
        text=str(span),
    )


def _values(attributes: Iterator[KeyValue]) -> dict[str, object]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in attributes
    }
