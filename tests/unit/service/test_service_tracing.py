"""Traces, as a collector receives them."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.unit.service.sample import running

from garrison.errors import Misuse
from garrison.service import tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.service.conftest import Pki

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(http.server.ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        received = self.received

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                received.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[tuple[str, Any]]:
        """Each span with its service's name."""
        found = []
        for path, body in self.received:
            assert path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [(names["service.name"], span) for span in scope.spans]
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {
        a.key: a.value.string_value or a.value.int_value  # one of them is set
        for a in span.attributes
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_and_stages_are_spans_of_the_clients_trace(
    pki: Pki, collector: Collector, workers: int
) -> None:
    with running(pki, workers=workers, otel_endpoint=collector.url + "/") as server:
        with contextlib.closing(server.connect()) as connection:
            headers = {
                "traceparent": f"00-{TRACE}-{PARENT}-01",
                "Authorization": "Bearer t0ken",
            }
            connection.request("GET", "/staged?token=s3cret", headers=headers)
            with connection.getresponse() as response:
                request_id = response.headers["X-Request-Id"]
                response.read()
            connection.request("GET", "/broken", headers={"traceparent": "garbage"})
            connection.getresponse().read()
        assert server.end()[0] == 0
    spans = collector.spans()
    assert {service for service, _ in spans} == {"garrison-sample"}
    (stage,) = [span for _, span in spans if span.name == "count"]
    (failed,) = [span for _, span in spans if span.name == "fail"]
    request, broken = [span for _, span in spans if span.kind == span.SPAN_KIND_SERVER]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    for child in (stage, failed):
        assert (child.trace_id, child.parent_span_id) == (request.trace_id, request.span_id)
    assert attributes(failed) == {"error.type": "Unavailable"}
    assert attributes(request) == {
        "http.request.method": "GET",
        "http.route": "other",
        "http.response.status_code": 200,
        "garrison.request_id": request_id,
    }
    assert broken.trace_id.hex() != TRACE
    assert broken.status.code == broken.status.STATUS_CODE_ERROR
    sent = b"".join(body for _, body in collector.received)
    for secret in (b"s3cret", b"t0ken", b"a defect", b"/staged"):
        assert secret not in sent


def test_collector_that_is_down_hinders_nothing(pki: Pki) -> None:
    with running(pki, otel_endpoint="http://127.0.0.1:9") as server:
        with contextlib.closing(server.connect()) as connection:
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
        started = time.monotonic()
        code, _, err = server.end()
    assert code == 0
    assert time.monotonic() - started < 30
    for line in err.splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:4318", "ftp://a", "http://", "http://user:s3cret@a:4318", "http://a/?key=s3cret"],
)
def test_what_is_no_collector_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(Misuse) as caught:
        tracing.check(endpoint)
    assert caught.value.field == "--otel-endpoint"
    assert "s3cret" not in str(caught.value)


def test_without_the_library_it_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(Misuse, match="not installed") as caught:
        tracing.check("http://127.0.0.1:4318")
    assert caught.value.hint == "pip install 'garrison[otel]'"


def test_nothing_of_the_library_is_loaded_without_an_endpoint() -> None:
    code = "import sys, garrison.service.server; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
