"""What a notebook file holds of a job beside HTML and text: its view, cut down.

JupyterLab with our extension draws a panel from it and has the rest from the cluster. Where
there is none, this is all: enough for the head, the plots, failures and checkpoints. Whatever
can grow without a bound is cut to one, so that a job adds some kilobytes to its notebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from resilient_nb.core.model import Failure, RemoteError
from resilient_nb.core.thinning import spaced, stride_for
from resilient_nb.core.views import CheckpointView, JobView
from resilient_nb.notebook.blocks import Charts
from resilient_nb.notebook.words import clip
from resilient_nb.wire.codec import from_json, to_json

#: The labextension's renderer is registered for it; other frontends take HTML or text.
MIME = "application/vnd.resilient-nb.job+json"
VERSION = 1

_METRICS, _POINTS, _VALUES = 3, 300, 8
_CHECKPOINTS, _RANKS, _FAILURES, _OTHERS = 40, 16, 5, 10
#: Characters of one text.
_LONG, _SHORT = 1000, 200


def payload(job_id: str, cluster_id: str, view: JobView | None, at: float) -> dict[str, Any]:
    """Return what `MIME` stands for, as plain JSON.

    Args:
        job_id: the job.
        cluster_id: whose it is; "" if that isn't known.
        view: the job as it is; None as long as the cluster didn't answer.
        at: when it was so.
    """
    run = job_id.partition("#")[0] if view is None else view.run
    shown = None if view is None else from_json(to_json(shortened(view)))
    whose = {"job": job_id, "run": run, "cluster": cluster_id}
    return {"version": VERSION, **whose, "at": at, "view": shown}


def shortened(view: JobView) -> JobView:
    """Return a view of bounded size: the newest of what there is much of."""
    names = Charts(view.series).chosen()[:_METRICS]
    series = {name: _thinned(view.series[name]) for name in names}
    return replace(
        view,
        reason=clip(view.reason, _LONG),
        ranks=view.ranks[:_RANKS],
        metrics=_some(view.metrics, names),
        series=series,
        checkpoints=_checkpoints(view.checkpoints),
        failures=tuple(_failure(failure) for failure in view.failures[-_FAILURES:]),
        notes=_texts(view.notes),
        alerts=_texts(view.alerts),
        chaos=view.chaos[-_OTHERS:],
        out=view.out[:_OTHERS],
        returned=view.returned[:_OTHERS],
        after=view.after[:_OTHERS],
        inputs=view.inputs[:_OTHERS],
        reads={name: clip(place, _SHORT) for name, place in [*view.reads.items()][:_OTHERS]},
    )


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return points that cover all steps evenly, and the newest one."""
    steps = [step for step, _ in points]
    kept = set(spaced(steps, stride_for(steps, 1, _POINTS - 1))) | {steps[-1]}
    # Six digits draw the same curve.
    return tuple((step, float(f"{value:.6g}")) for step, value in points if step in kept)


def _checkpoints(checkpoints: Sequence[CheckpointView]) -> tuple[CheckpointView, ...]:
    """Return the newest, and of older ones those with a name; not where their machine has them."""
    older, newest = checkpoints[:-_CHECKPOINTS], checkpoints[-_CHECKPOINTS:]
    named = [c for c in older if c.tags or c.is_head][-_OTHERS:]
    return tuple(
        replace(c, metrics=_some(c.metrics), copies=(), path="") for c in (*named, *newest)
    )


def _some(metrics: Mapping[str, float], first: Sequence[str] = ()) -> dict[str, float]:
    names = [*(n for n in first if n in metrics), *(n for n in metrics if n not in first)]
    return {name: metrics[name] for name in names[:_VALUES]}


def _failure(failure: Failure) -> Failure:
    return replace(
        failure,
        message=clip(failure.message, _LONG),
        reason=clip(failure.reason, _LONG),
        evidence=_texts(failure.evidence),
        error=_error(failure.error) if failure.error else None,
        stacks="",
    )


def _error(error: RemoteError) -> RemoteError:
    frames = tuple(replace(f, line=clip(f.line, _SHORT)) for f in error.frames[-_OTHERS:])
    return replace(error, message=clip(error.message, _LONG), frames=frames)


def _texts(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(clip(text, _SHORT) for text in texts[-_OTHERS:])
