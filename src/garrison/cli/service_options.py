"""Options that both services share: where they listen, and what clients may take."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.service.server import Settings

F = TypeVar("F", bound="Callable[..., Any]")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SECONDS = click.FloatRange(0, 24 * 3600, min_open=True)
# Each limit's option, type, default and help. The defaults are those of `Limits`, which is not
# imported here: every command would pay for it.
_LIMITS: list[tuple[str, str, click.ParamType[Any], float, str]] = [
    (
        "connections",
        "--max-connections",
        click.IntRange(1, 1_000_000),
        2000,
        "Connections open at once, in each worker; further ones are answered 503.",
    ),
    (
        "connections_per_address",
        "--max-connections-per-address",
        click.IntRange(1, 1_000_000),
        500,
        "Of those, from one IPv4 address or IPv6 network of 64 bits.",
    ),
    (
        "handshake_seconds",
        "--handshake-timeout",
        _SECONDS,
        10,
        "Seconds for a TLS handshake.",
    ),
    (
        "head_seconds",
        "--header-timeout",
        _SECONDS,
        15,
        "Seconds for the headers of a request to arrive; else 408.",
    ),
    (
        "head_bytes",
        "--max-header-bytes",
        click.IntRange(1024, 1 << 20),
        32 * 1024,
        "Bytes of a request's line and headers; more are answered 431.",
    ),
    (
        "head_fields",
        "--max-headers",
        click.IntRange(10, 10_000),
        100,
        "Headers of a request; more are answered 431.",
    ),
    (
        "idle_seconds",
        "--idle-timeout",
        _SECONDS,
        30,
        "Seconds that a connection may stay open between two requests.",
    ),
    (
        "pause_seconds",
        "--body-timeout",
        _SECONDS,
        30,
        "Seconds that a body may stop arriving; else 408.",
    ),
    (
        "request_seconds",
        "--request-timeout",
        _SECONDS,
        600,
        "Seconds from the headers of a request to the end of its answer.",
    ),
    (
        "drain_seconds",
        "--drain-timeout",
        _SECONDS,
        10,
        "Seconds that requests under way may still take after SIGTERM.",
    ),
]
_OWN = ("host", "port", "tls_cert", "tls_key", "workers", "otel_endpoint", "as_json")


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What was given; `settings` makes of it how the service runs."""

    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    as_json: bool
    limits: dict[str, Any]
    metrics: tuple[str, int] | None
    workers: int
    otel_endpoint: str | None

    def settings(
        self, name: str, certificate: Path, key: Path, client_ca: Path | None = None
    ) -> Settings:
        """How the service `name` runs, with these TLS files."""
        from garrison.service.limits import Limits
        from garrison.service.server import Settings

        return Settings(
            name=name,
            host=self.host,
            port=self.port,
            certificate=certificate,
            key=key,
            client_ca=client_ca,
            json_output=self.as_json,
            limits=Limits(**self.limits),
            metrics=self.metrics,
            workers=self.workers,
            otel_endpoint=self.otel_endpoint,
        )


def service_options(port: int, tls_default: str = "") -> Callable[[F], F]:
    """The options of every service; the command takes them as `service: ServiceOptions`.

    Args:
        port: the default of `--port`.
        tls_default: what the help says of a service without `--tls-cert`.
    """
    options = [
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; :: for all.",
        ),
        click.option(
            "--port",
            default=port,
            show_default=True,
            type=click.IntRange(0, 65535),
            help="Port to listen on; 0 takes a free one.",
        ),
        click.option("--tls-cert", type=_FILE, help=f"TLS chain, PEM{tls_default}."),
        click.option("--tls-key", type=_FILE, help="Private key of --tls-cert, PEM."),
        *(
            click.option(name, field, default=default, show_default=True, type=kind, help=text)
            for field, name, kind, default, text in _LIMITS
        ),
        click.option(
            "--workers",
            default=1,
            show_default=True,
            type=click.IntRange(1, 64),
            help="Processes that serve; one that dies is started again.",
        ),
        click.option(
            "--metrics",
            metavar="HOST:PORT",
            help="Serve Prometheus metrics at /metrics there, and /ready and /live, without TLS and"
            " for whoever can reach it; port 0 takes a free one.",
        ),
        click.option(
            "--otel-endpoint",
            metavar="URL",
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="Send OpenTelemetry traces to the collector there, OTLP over HTTP; needs"
            " garrison[otel]. Also OTEL_EXPORTER_OTLP_ENDPOINT.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Say where it listens in JSON."),
    ]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            limits = {field: given.pop(field) for field, *_ in _LIMITS}
            own = {field: given.pop(field) for field in _OWN}
            if (own["tls_cert"] is None) != (own["tls_key"] is None):
                raise Misuse(
                    "given without the other",
                    field="--tls-cert, --tls-key",
                    expected="both, or neither",
                )
            metrics = _metrics(given.pop("metrics"))
            service = ServiceOptions(**own, limits=limits, metrics=metrics)
            return function(service=service, **given)

        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]  # options leave a function what it is

    return decorate


def _metrics(text: str | None) -> tuple[str, int] | None:
    """The address in `--metrics`.

    Raises:
        Malformed: it is none.
    """
    if text is None:
        return None
    from garrison.errors import Malformed
    from garrison.formats.endpoint import parse_host, parse_port

    host, colon, port = text.rpartition(":")
    if not colon:
        raise Malformed("no port", field="--metrics", found=text, expected="HOST:PORT")
    host = parse_host(host.removeprefix("[").removesuffix("]"), field="--metrics")
    return host, 0 if port == "0" else parse_port(port, field="--metrics")
