"""Spans, where an exporter is set; elsewhere only a caller's trace is passed on.

The standard variables of OpenTelemetry decide (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`
and so on). Its SDK is imported in a process that exports, and in no other: it takes memory.

What a trace is told in is its W3C traceparent. It comes with a request, the span of the work that
is done for it is its child, and whatever is asked of others meanwhile carries the span's own.
"""

import os
import re
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any, Final

TRACEPARENT: Final = "traceparent"

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_CURRENT: ContextVar[str] = ContextVar("engineshed_traceparent", default="")

# OpenTelemetry's tracer in a process that exports.
_tracer: Any = None

Value = str | int | float | bool


class Span:
    """A piece of work that somebody asked for; where nothing is exported, only its context."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, traceparent: str, span: Any = None) -> None:  # noqa: ANN401 - the SDK's, if it is there
        """Make it; `start_span` does."""
        self._span = span
        self.traceparent = traceparent
        """What goes with calls on its account; empty outside of any trace."""

    def enter(self) -> None:
        """Make it what calls of this task, and of tasks that it starts, are on account of."""
        _CURRENT.set(self.traceparent)

    def rename(self, name: str) -> None:
        """Give it the name that became known."""
        if self._span is not None:
            self._span.update_name(name)

    def event(self, name: str) -> None:
        """Note that something has happened now."""
        if self._span is not None:
            self._span.add_event(name)

    def end(self, attributes: dict[str, Value], error: str = "") -> None:
        """End it; `error` says in a word why it failed, if it did. Never a prompt or an answer."""
        if self._span is None:
            return
        self._span.set_attributes(attributes)
        if error:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


NO_SPAN: Final = Span("")


def configure_tracing(service: str) -> None:
    """Export the spans of this process, if its environment says where to.

    Raises:
        ValueError: the environment asks for what there is not.

    """
    global _tracer  # like the logging of a process, there is one
    if not _is_wanted():
        return
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), "grpc")
    if protocol != "grpc":
        raise ValueError(f"{_PROTOCOLS[1]}={protocol!r} is not spoken here; set it to grpc")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(
            "to export traces, install the extra: pip install 'engineshed[tracing]'"
        ) from error
    release = version("engineshed")
    names = {"service.name": f"engineshed-{service}", "service.version": release}
    provider = TracerProvider(resource=Resource.create(names))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("engineshed", release)


def start_span(name: str, parent: str, *, only_continue: bool = False) -> Span:
    """Begin the work for a request.

    Args:
        name: what is done, of few kinds: no ids in it.
        parent: the traceparent that came with the request; empty or nonsense: none.
        only_continue: leave it out where no trace came with the request.

    """
    parent = clean_traceparent(parent)
    if _tracer is None or (only_continue and not parent):
        return Span(parent) if parent else NO_SPAN
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent} if parent else {})
    span = _tracer.start_span(name, context, SpanKind.SERVER)
    at = span.get_span_context()
    return Span(f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}", span)


def current_traceparent() -> str:
    """Return what calls of this task are on account of; empty: no trace."""
    return _CURRENT.get()


def clean_traceparent(given: str) -> str:
    """Return a traceparent if it is one, else an empty string."""
    return given if _TRACEPARENT.fullmatch(given) else ""


def is_exported(traceparent: str) -> bool:
    """Tell whether this process exports spans of this trace."""
    return _tracer is not None and bool(traceparent) and bool(int(traceparent[-2:], 16) & 1)


def _is_wanted() -> bool:
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if exporter not in ("", "none", "otlp"):
        raise ValueError(f"OTEL_TRACES_EXPORTER={exporter!r} is not there; set it to otlp or none")
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return exporter == "otlp" or any(map(os.environ.get, _ENDPOINTS))
