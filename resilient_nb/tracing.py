"""Spans to an OpenTelemetry collector, if an OTLP endpoint is set; else nothing, at no cost.

What sends them is imported with the first span: `pip install 'resilient_nb[tracing]'`.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import Any

from resilient_nb.core.traces import Parent, Span, parse

logger = logging.getLogger(__name__)

#: The same variables as every OpenTelemetry SDK takes.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
#: How long the end of a process may be held up for its last spans, in seconds.
_LAST = 2.0


def wanted() -> bool:
    """Whether somebody takes spans."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(os.environ.get(name) for name in _ENDPOINTS)


def here() -> tuple[Parent, str]:
    """Return the place of a new span, and the one that it is a part of.

    That is the user's own current span, if they trace themselves, else there is none.
    """
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            around = f"{context.span_id:016x}"
            sampled = bool(context.trace_flags & 1)
            return Parent(f"{context.trace_id:032x}", os.urandom(8).hex(), sampled), around
    if (known := parse(os.environ.get("TRACEPARENT", ""))) is not None:
        return Parent(known.trace, os.urandom(8).hex(), known.sampled), known.span
    return Parent(os.urandom(16).hex(), os.urandom(8).hex()), ""


class Tracer:
    """Sends spans in the background. Where nobody takes them it does nothing."""

    def __init__(self, service: str) -> None:
        self._service = os.environ.get("OTEL_SERVICE_NAME") or service
        self._on = wanted()
        self._processor: Any = None
        self._exporter: Any = None
        self._resource: Any = None

    @property
    def on(self) -> bool:
        """Whether spans are sent."""
        return self._on

    def send(self, span: Span) -> None:
        """Have a span sent soon; what can't be is dropped."""
        if not self._on or not span.place.sampled:
            return
        try:
            if self._processor is None:
                self._start()
            self._processor.on_end(_readable(span, self._resource))
        except ImportError as error:
            self._on = False
            logger.warning(
                "resilient_nb: an OTLP endpoint is set, but %s is missing: "
                "pip install 'resilient_nb[tracing]'", error.name,
            )  # fmt: skip
        except Exception:
            logger.exception("resilient_nb: a span wasn't sent")

    def close(self) -> None:
        """Send what is left, and wait for that a moment."""
        processor, self._processor, self._on = self._processor, None, False
        if processor is not None:
            atexit.unregister(self.close)
            ending = threading.Thread(target=processor.shutdown, daemon=True)
            ending.start()
            ending.join(_LAST)
            if ending.is_alive():
                self._exporter.shutdown()  # which else would try again for a minute
                ending.join(_LAST)

    def _start(self) -> None:
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
        if protocol not in ("", "http/protobuf"):
            logger.warning("resilient_nb: spans go by http/protobuf, whatever says %s", protocol)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._resource = Resource.create({"service.name": self._service})
        self._exporter = OTLPSpanExporter()
        self._processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=1000)
        atexit.register(self.close)


def _readable(span: Span, resource: Any) -> Any:
    """Return a span as the SDK has those that it made itself."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(identity: str) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(span.place.trace, 16), int(identity, 16), True, flags)

    status = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK)
    return ReadableSpan(
        name=span.name,
        context=context(span.place.span),
        parent=context(span.parent) if span.parent else None,
        resource=resource,
        attributes=dict(span.attributes),
        kind=SpanKind.INTERNAL,
        status=status,
        start_time=int(span.start * 1e9),
        end_time=int(span.end * 1e9),
        instrumentation_scope=InstrumentationScope("resilient_nb"),
    )
