"""Traces in OpenTelemetry's words, sent by OTLP over HTTP, if an endpoint is named.

A request is a span, and so is each stage of its work. A client's `traceparent` (W3C Trace Context)
makes its trace ours. Spans hold what the access log holds, and less: method, route, status and
request id, never a path, a query, a header or the text of an error.

The library is an extra, `garrison[otel]`; without an endpoint nothing of it is imported.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# A collector that is down may not hold up the end of a service.
_EXPORT_SECONDS = 3
_PROPAGATED = {b"traceparent", b"tracestate"}


@dataclass(slots=True)
class _State:
    """The tracer of this process, None while there is none."""

    tracer: Any = None


_STATE = _State()


def check(endpoint: str) -> None:
    """Check that traces can be sent to `endpoint`.

    Raises:
        Misuse: it is no URL, or holds a password; or the library is not installed.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise Misuse(
            "not a URL of a collector",
            field="--otel-endpoint",
            expected="http://HOST:4318 or https://HOST:4318",
        )
    if parts.username is not None:
        raise Misuse(
            "holds a user's name",
            field="--otel-endpoint",
            expected="a URL without user or password",
            hint="give credentials in OTEL_EXPORTER_OTLP_HEADERS",
        )
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401 - whether it is there
    except ImportError as error:
        raise Misuse(
            "needs OpenTelemetry, which is not installed",
            field="--otel-endpoint",
            hint="pip install 'garrison[otel]'",
        ) from error


def start(service: str, endpoint: str) -> Callable[[], None]:
    """Trace from now on; call it in the process that serves, since it starts a thread.

    Args:
        service: the service's name.
        endpoint: the collector's base URL; `check` it first.

    Returns:
        A function that sends what is left, and ends it.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create(
        {"service.name": f"garrison-{service}", "service.instance.id": str(os.getpid())}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _STATE.tracer = provider.get_tracer("garrison")

    def end() -> None:
        _STATE.tracer = None
        provider.shutdown()

    return end


def is_on() -> bool:
    """Whether requests are traced."""
    return _STATE.tracer is not None


@contextmanager
def span(name: str) -> Iterator[None]:
    """A span around what is done within, if there are traces."""
    tracer = _STATE.tracer
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_attribute("error.type", type(error).__name__)
            raise


@contextmanager
def request(
    headers: Sequence[tuple[bytes, bytes]],
) -> Iterator[Callable[[str, str, int, str], None]]:
    """A span around a request.

    Args:
        headers: the request's.

    Returns:
        A function that tells the span method, route, status and request id, at the request's end.
    """
    tracer = _STATE.tracer
    if tracer is None:
        yield lambda _method, _route, _status, _request_id: None
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        name.decode(): value.decode("latin-1") for name, value in headers if name in _PROPAGATED
    }
    parent = TraceContextTextMapPropagator().extract(carrier)
    with tracer.start_as_current_span(
        "request",
        context=parent,
        kind=SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:

        def tell(method: str, route: str, status: int, request_id: str) -> None:
            current.update_name(f"{method} {route}")
            current.set_attributes(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "garrison.request_id": request_id,
                }
            )
            if status >= 500:
                current.set_status(Status(StatusCode.ERROR))

        yield tell
