"""What came of a click or a verb, in a sentence. Pure."""

from __future__ import annotations

from resilient_nb.core.names import reference
from resilient_nb.core.views import JobView, RunView
from resilient_nb.wire.requests import Submitted


def said(result: object) -> str:
    """Return an action's result as a sentence; empty if there is nothing to say."""
    match result:
        case None:
            return ""
        case JobView():
            return f"Job {result.id} is {result.state}."
        case RunView():
            head = reference(result.head) if result.head else "empty"
            return f"The head of {result.name} is {head}."
        case Submitted():
            step = result.resumes_from
            start = "the beginning" if step is None else f"step {step:,}"
            if result.message:
                return f"Job {result.job} was submitted. {result.message}"
            return f"Job {result.job} was submitted; it goes on from {start}."
    return str(result)
