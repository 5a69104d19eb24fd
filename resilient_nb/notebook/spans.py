"""The span of a submission: what a job's own spans are part of, if somebody takes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from resilient_nb import tracing
from resilient_nb.core.model import JobSpec
from resilient_nb.core.traces import Span
from resilient_nb.tracing import Tracer
from resilient_nb.wire.requests import Submitted


def traced(spec: JobSpec, submit: Callable[[JobSpec], Submitted]) -> Submitted:
    """Submit a job in a span of its own; where nobody takes spans, just submit it."""
    if not tracing.wanted():
        return submit(spec)
    place, around = tracing.here()
    began, job, error = time.time(), "", ""
    try:
        submitted = submit(replace(spec, trace=str(place)))
        job = submitted.job
        return submitted
    except BaseException as failed:
        error = f"{type(failed).__name__}: {failed}"
        raise
    finally:
        facts = {"resilient_nb.job": job, "resilient_nb.cell": spec.cell.label}
        _tracer().send(Span("submit", place, around, began, time.time(), facts, error))


@cache
def _tracer() -> Tracer:
    return Tracer("resilient_nb notebook")
