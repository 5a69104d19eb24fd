"""Clicks: which request each is, and what is said when it is done. Nothing here waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from resilient_nb.core.names import parse_reference, reference
from resilient_nb.core.views import JobView, RunView
from resilient_nb.errors import (
    ClusterUnreachable,
    Conflict,
    InvalidRequest,
    JournalFailed,
    NotAllowed,
    ResilientError,
    StaleEpoch,
    UnknownName,
    VersionMismatch,
)
from resilient_nb.outcomes import said
from resilient_nb.wire import requests as rq
from resilient_nb.wire.feed import Action, Done

#: The first that fits; what isn't here is a fault of ours.
_STATUS: tuple[tuple[type[ResilientError], int], ...] = (
    (UnknownName, 404),
    (InvalidRequest, 400),
    (NotAllowed, 403),
    (Conflict, 409),
    (StaleEpoch, 409),
    (VersionMismatch, 409),  # trying again doesn't help
    (ClusterUnreachable, 503),
    (JournalFailed, 503),
)

#: What each verb can't do without.
_NEEDS = {
    "cancel": ("job",),
    "restart": ("job", "epoch"),
    "retry": ("job", "epoch"),
    "resume": ("run",),
    "rollback": ("ref",),
    "fork": ("ref", "name"),
    "tag": ("ref", "name"),
}


class Asked(NamedTuple):
    """A request, and the class of its answer."""

    message: Any
    kind: type[Any]


def status(error: ResilientError) -> int:
    """Return the HTTP status of an error."""
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 500)


def request(action: Action) -> Asked:
    """Return what a click asks of the control plane.

    Raises:
        InvalidRequest: the action lacks something, or its parts don't fit together.
    """
    for name in ("request_id", *_NEEDS[action.verb]):
        if not getattr(action, name):
            raise InvalidRequest(f"An action {action.verb!r} needs {name!r}.")
    for name in ("epoch", "memory"):
        if not 0 <= getattr(action, name) < 2**63:
            raise InvalidRequest(f"An action has no {name!r} of {getattr(action, name)}.")
    match action.verb:
        case "cancel":
            return Asked(rq.Cancel(action.job), JobView)
        case "restart":
            return Asked(rq.Restart(action.job, action.epoch), JobView)
        case "retry":
            again = rq.Retry(action.job, action.request_id, action.epoch)
            again = replace(again, anyway=action.anyway, memory=action.memory)
            return Asked(again, rq.Submitted)
        case "resume":
            at = action.ref or None
            resume = rq.Resume(action.run, action.request_id, at, head=action.head)
            return Asked(resume, rq.Submitted)
        case "rollback":
            run = parse_reference(action.ref).run
            if action.run not in ("", run):
                raise InvalidRequest(f"{action.ref} is no checkpoint of run {action.run}.")
            return Asked(rq.Rollback(action.ref, head=action.head), RunView)
        case "fork":
            return Asked(rq.Fork(action.ref, action.name), RunView)
        case "tag":
            return Asked(rq.Tag(action.ref, action.name), RunView)


def done(action: Action, result: Any) -> Done:
    """Return what came of a click, from what the control plane answered."""
    match result:
        case JobView():
            return Done(said(result), result.id, result.run)
        case rq.Submitted():
            return Done(said(result), result.job, result.run)
    place = reference(action.ref)
    if action.verb == "fork":
        return Done(
            f"Run {result.name} begins at {place}: resume it to go on there.", "", result.name
        )
    if action.verb == "tag":
        return Done(f"{place} is tagged {action.name}.", "", result.name)
    return Done(f"{said(result)} Nothing was deleted.", "", result.name)
