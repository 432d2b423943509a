"""OpenTelemetry traces, if OpenTelemetry is installed and its standard variables name a destination.

Nothing is sent unless OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) is set.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danqing.errors import ConfigError
from danqing.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NANOSECONDS = 1_000_000_000
_SILENT = frozenset({"/healthz", "/readyz", "/metrics"})

_tracer: "Tracer | None" = None


@contextlib.contextmanager
def configured() -> Iterator[None]:
    """Send traces while the block lasts, if the environment names a destination.

    Raises ConfigError if it does but OpenTelemetry is not installed.
    """
    global _tracer
    if not any(os.environ.get(name) for name in _ADDRESSES):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"{_ADDRESSES[0]} is set, but OpenTelemetry is not installed: unset it, or run "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http."
        ) from error

    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "danqing"), "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("danqing", __version__)
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def painted(model: str, images: int, queue_seconds: float, compute_seconds: float) -> None:
    """Add spans for queueing and painting to the current request."""
    if _tracer is None:
        return
    end = time.time_ns()
    begun = end - int(compute_seconds * _NANOSECONDS)
    facts: dict[str, Any] = {"danqing.model": model, "danqing.images": images}
    queued = begun - int(queue_seconds * _NANOSECONDS)
    _tracer.start_span("queue", attributes=facts, start_time=queued).end(begun)
    _tracer.start_span("paint", attributes=facts, start_time=begun).end(end)


class Traces:
    """ASGI middleware: each request is a span that continues the client's trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request within its span."""
        if _tracer is None or scope["type"] != "http" or scope["path"] in _SILENT:
            await self._app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = str(scope["method"])
        with _tracer.start_as_current_span(
            method, extract(carrier), SpanKind.SERVER, {"http.request.method": method}
        ) as span:

            async def traced(message: Message) -> None:
                if message["type"] == "http.response.start":
                    facts: dict[str, Any] = {"http.response.status_code": message["status"]}
                    if route := getattr(scope.get("route"), "path", ""):
                        span.update_name(f"{method} {route}")
                        facts["http.route"] = route
                    span.set_attributes(facts)
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, traced)
