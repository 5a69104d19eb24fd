"""Proposals to stop a job: how they stand in the world, and what is said and kept of them. Pure."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

from resilient_nb.core import events as ev
from resilient_nb.core.model import Checkpoint, Futile, Job, Proposal
from resilient_nb.core.progress import judged
from resilient_nb.core.world import World

#: The tag of the best checkpoint of a job that was stopped for a proposal.
BEST = "best"

_WHY = {
    Futile.CONVERGED: "it has converged",
    Futile.LATE: "it misses its deadline",
    Futile.DOMINATED: "its siblings are better by far",
}


def proposed(job: Job, event: ev.StopProposed | ev.ProposalWithdrawn) -> Job:
    """Return the job with a proposal, or without it; there is at most one of each kind."""
    others = tuple(p for p in job.proposals if p.kind != event.why)
    if isinstance(event, ev.StopProposed):
        others = (*others, Proposal(event.why, event.evidence, event.at))
    return replace(job, proposals=others)


def said(proposal: Proposal) -> str:
    """Return a proposal's reason and the facts that it follows from."""
    reason = why(proposal.kind)
    return " ".join([f"{reason[0].upper()}{reason[1:]}.", *proposal.evidence])


def why(kind: Futile) -> str:
    """Return the reason of a proposal as a clause."""
    return _WHY[kind]


def remedies(job: Job) -> tuple[str, ...]:
    """Return the proposals to stop an unfinished job, each with what carries it out."""
    if job.state.final:
        return ()
    return tuple(
        f"{said(proposal)} `{command(job.run)}` stops it at a checkpoint."
        for proposal in job.proposals
    )


def command(run: str) -> str:
    """Return what carries a proposal out."""
    return f"%resilient cancel {run}"


def best_checkpoint(world: World, job: Job) -> Checkpoint | None:
    """Return the best checkpoint of a job, by what it is judged by; None if nothing tells."""
    own = [c for c in world.runs[job.run].checkpoints.values() if c.job == job.id]
    names = {name for c in own for name, value in c.metrics.items() if isfinite(value)}
    for name, greatest in judged(names, job.spec.keep).items():
        known = [c for c in own if isfinite(c.metrics.get(name, float("nan")))]
        return min(known, key=lambda c: (-1 if greatest else 1) * c.metrics[name])
    return None


def ending(world: World, job: Job, at: float) -> tuple[ev.Event, ...]:
    """Return how a job ends that was cancelled or stopped; if that was proposed, its best
    checkpoint is tagged, unless the run has such a tag already."""
    run, best = world.runs[job.run], best_checkpoint(world, job) if job.proposals else None
    if best is None:
        return (ev.JobCancelled(at, job.id, job.message),)
    if BEST in run.tags:
        text = f"Its best checkpoint is {run.name}@{best.step}."
        return (ev.JobCancelled(at, job.id, f"{job.message} {text}"),)
    text = f"Its best checkpoint is {run.name}@{BEST}, at step {best.step:,}."
    return (
        ev.CheckpointTagged(at, run.name, best.id, BEST),
        ev.JobCancelled(at, job.id, f"{job.message} {text}"),
    )
