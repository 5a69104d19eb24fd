"""What an experiment tracker is told of a job: params, tags, metrics, references. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from resilient_nb.core.accounting import group_of
from resilient_nb.core.model import Job, JobState, Run
from resilient_nb.core.world import World

Series = Mapping[str, tuple[tuple[int, float], ...]]

#: A tracker's words for our states.
STATUS: Mapping[JobState, str] = {
    JobState.QUEUED: "SCHEDULED",
    JobState.STARTING: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.STOPPING: "RUNNING",
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}

#: Longer values are cut: trackers refuse them.
_LONGEST = 5000
_ODD, _LONGEST_NAME = re.compile(r"[^\w.\- /]"), 250


@dataclass(frozen=True)
class Tracked:
    """A job as a tracker has it. Times in seconds.

    `params` never change; `tags` and `status` are those of now. `series` are (step, value) pairs.
    """

    job: str
    began: float
    ended: float | None
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    series: Series = field(default_factory=dict)


def tracked(world: World, job: Job, series: Series, root: str) -> Tracked:
    """Return what a tracker is told of a job.

    Args:
        world: what is true.
        job: the job.
        series: its metrics.
        root: the store's folder of runs.
    """
    return Tracked(
        job=job.id,
        began=job.submitted_at,
        ended=job.ended_at if job.state.final else None,
        status=STATUS[job.state],
        params=_params(job),
        tags={name: text[:_LONGEST] for name, text in _tags(world, job, root).items()},
        series=series,
    )


def metric_name(name: str) -> str:
    """Return a metric's name as trackers take it: `acc@5`, say, would be refused, with all else."""
    plain = _ODD.sub("_", name)
    parts = [part for part in plain.split("/") if part.strip(".")]
    return "/".join(parts)[:_LONGEST_NAME].rstrip("/") or "_"


def _params(job: Job) -> dict[str, str]:
    spec = job.spec
    most = f":{spec.max_workers}" if spec.elastic else ""
    said = {
        "workers": f"{spec.workers}{most}",
        "seed": str(spec.seed),
        "checkpoint_every": str(spec.interval),
        "retries": str(spec.retries),
        "scaling": spec.scaling.value,
        "cell_sha256": sha256(spec.cell.source.encode()).hexdigest(),
        "cpus": f"{spec.needs.cpus:g}",
        "memory": str(spec.needs.memory),
        "gpus": str(spec.needs.gpus),
    }
    return said


def _tags(world: World, job: Job, root: str) -> dict[str, str]:
    run = world.runs[job.run]
    origin = run.forked_from or ""
    own = {
        "cluster": world.cluster_id,
        "job": job.id,
        "run": job.run,
        "group": group_of(world, job),
        "priority": job.spec.priority.value,
        "state": job.state.value,
        "attempts": str(job.attempts),
        "failures": str(len(job.failures)),
        "cause": job.failures[-1].cause if job.failures else "",
        "forked_from": origin,
    }
    tags = {f"resilient_nb.{name}": text for name, text in own.items() if text}
    tags |= {"mlflow.user": job.spec.user, "mlflow.source.name": job.spec.cell.label}
    return {**tags, **_checkpoints(run, job, root)}


def _checkpoints(run: Run, job: Job, root: str) -> dict[str, str]:
    """Return where this job's checkpoints are: the newest one, and those with a name."""
    own = {c.id: c for c in run.checkpoints.values() if c.job == job.id}
    named = {tag: own[identity] for tag, identity in run.tags.items() if identity in own}
    if own:
        named["last"] = list(own.values())[-1]
    return {
        f"resilient_nb.checkpoint.{tag}": f"{c.run}@{c.step} {root}/{c.id} digest {c.digest}"
        for tag, c in sorted(named.items())
    }
