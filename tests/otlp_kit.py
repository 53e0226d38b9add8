"""A receiver of OTLP over HTTP on the loopback, which remembers the spans and metrics that it is sent."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass
class Received:
    """One span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    service: str
    failed: bool = False
    kind: int = 0


@dataclass
class Measured:
    """One point of a histogram: what a process has measured so far."""

    name: str
    unit: str
    attributes: dict[str, Any]
    count: int
    sum: float
    bounds: list[float]
    instance: str
    at: int


def value_of(value: Any) -> Any:
    """Return the value of an attribute."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Return attributes as they were set."""
    return {each.key: value_of(each.value) for each in pairs}


@dataclass
class Collector:
    """What was received."""

    url: str = ""
    spans: list[Received] = field(default_factory=list[Received])
    points: list[Measured] = field(default_factory=list[Measured])

    def named(self, name: str, count: int) -> list[Received]:
        """Return the spans of this name; wait until there are so many."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [span for span in list(self.spans) if span.name == name]
            if len(found) >= count:
                return found
            time.sleep(0.1)
        raise AssertionError(f"no {count} spans {name!r} among {sorted(span.name for span in self.spans)}")

    def measured(self, name: str) -> list[Measured]:
        """Return the last points of a histogram, one for each process and set of attributes."""
        last: dict[str, Measured] = {}
        for point in sorted(self.points, key=lambda each: each.at):
            if point.name == name:
                last[f"{point.instance} {sorted(point.attributes.items())}"] = point
        return list(last.values())

    def by_name(self, name: str) -> Received:
        """Return the only span of this name; wait for it."""
        found = self.named(name, 1)
        assert len(found) == 1, f"{len(found)} spans {name!r}"
        return found[0]

    def take(self, body: bytes) -> None:
        """Read a request."""
        request: Any = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            resource = attributes_of(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Received(
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            attributes=attributes_of(span.attributes),
                            service=resource.get("service.name", ""),
                            failed=span.status.code == 2,
                            kind=span.kind,
                        )
                    )

    def measure(self, body: bytes) -> None:
        """Read a request about metrics."""
        request: Any = ExportMetricsServiceRequest.FromString(body)
        for group in request.resource_metrics:
            resource = attributes_of(group.resource.attributes)
            for metric in (metric for scope in group.scope_metrics for metric in scope.metrics):
                self.points += [
                    Measured(
                        name=metric.name,
                        unit=metric.unit,
                        attributes=attributes_of(point.attributes),
                        count=point.count,
                        sum=point.sum,
                        bounds=list(point.explicit_bounds),
                        instance=resource["service.instance.id"],
                        at=point.time_unix_nano,
                    )
                    for point in metric.histogram.data_points
                ]


@contextmanager
def collecting() -> Generator[Collector]:
    """Serve until the body is over."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            of_metrics = self.path.endswith("/v1/metrics")
            collector.measure(body) if of_metrics else collector.take(body)
            kind: Any = ExportMetricsServiceResponse if of_metrics else ExportTraceServiceResponse
            answer: bytes = kind().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
