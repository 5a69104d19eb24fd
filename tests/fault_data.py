"""Faults of disks, data and numbers, and jobs that can't make it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from resilient_nb.core.causes import DISK_FULL, INPUT_LOST
from resilient_nb.core.model import Injection, Interval, JobState, OnNan, StopPolicy
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.wire.requests import Inject
from tests.fault_checks import GOES_ON, PROPOSED, REMADE, STOPPED, but, goes_on, kill, once
from tests.fault_world import Scene, Seen, Watched, until


def io_error(scene: Scene) -> Seen:
    """A read that the kernel answers with EIO: this process's memory where there is none."""
    fault = "os.pread(os.open('/proc/self/mem', os.O_RDONLY), 1, 0)"
    job = scene.loop("eio", once(12, fault))
    return goes_on(job, job.seen(job.struck()))


def no_space(scene: Scene) -> Seen:
    """A write of the cell that the kernel answers with ENOSPC."""
    job = scene.loop("enospc", once(12, "os.write(os.open('/dev/full', os.O_WRONLY), b'x')"))
    return goes_on(job, job.seen(job.struck()))


def full_store(scene: Scene) -> Seen:
    """For a while nothing can be written to the store: no checkpoints, but training goes on."""
    job = scene.loop("fullstore", steps=150)
    job.step(12)
    struck = time.time()
    for rank in (0, 1):
        scene.client.inject(Inject(job.job, Injection.FILL_DISK, f"full-{rank}", rank, 1.5))
    text, shown = job.said("No space left")
    view = job.end()
    late = max((c.step for c in view.checkpoints), default=0)
    wrong = "" if late == 150 and view.attempts == 1 else f"{view.attempts} attempts, {late}"
    cause = DISK_FULL if "No space left" in text else text
    return Seen(cause, GOES_ON, shown - struck, 0.0, wrong)


def bit_flip(scene: Scene) -> Seen:
    job = _with_two_checkpoints(scene, "bitflip")
    inject = Inject(job.job, Injection.CORRUPT_CHUNK, "flip", 0, 60.0)
    done = scene.client.inject(inject)
    path = scene.home / "store" / "runs" / done.checkpoint
    until(lambda: _is_damaged(path), what="nothing was damaged")
    struck = kill(job.view, 1)
    return goes_on(job, job.seen(struck, 1))


def missing_chunk(scene: Scene) -> Seen:
    job = _with_two_checkpoints(scene, "missing")
    head = scene.client.resolve("missing")
    manifest = open_checkpoint(head.path).manifest
    own = next(t for t in manifest.tensors if t.at == head.id and t.nbytes)
    Path(head.path, own.key, min(own.sums)).unlink()
    struck = kill(job.view, 1)
    return goes_on(job, job.seen(struck, 1))


def not_a_number(scene: Scene) -> Seen:
    """One batch makes the loss NaN: the run goes on without it, from before it."""
    noted = "strike() if first and run.rank == 0 else None"
    poison = f"if run.step == 24:\n    {noted}\n    loss = loss * float('nan')\nrun.log(loss=loss)"
    job = scene.loop("nan", poison, on_nan=OnNan.SKIP)
    return goes_on(job, job.seen(job.struck()))


def plateau(scene: Scene) -> Seen:
    """A loss that no longer falls: it is proposed to stop, and the notebook says so."""
    inside = "loss = 0.0 * loss + 0.5 + 0.01 * torch.randn(1).squeeze()"
    job = scene.loop("plateau", inside, steps=6000, pause=0.01, workers=1)
    view = job.when(lambda v: v.proposals, patience=120.0)
    return Seen(" ".join(sorted(p.kind for p in view.proposals)), PROPOSED)


def hopeless(scene: Scene) -> Seen:
    """Its deadline is long before its end: it is stopped at a checkpoint, as it was told."""
    spec = {"deadline": 45.0, "stop_policy": StopPolicy.STOP}
    job = scene.loop("hopeless", steps=100_000, pause=0.05, workers=1, **spec)
    view = job.end(patience=180.0)
    texts = " ".join(" ".join(p.evidence) for p in view.proposals)
    wrong = "" if view.state is JobState.CANCELLED and view.checkpoints else str(view.state)
    cause = "late" if "deadline" in texts or "deadline" in view.reason else view.reason
    return Seen(cause, STOPPED, None, None, wrong)


def lost_input(scene: Scene) -> Seen:
    """What a job returned is gone when another needs it: it is made again, first."""
    made = scene.submit("made", "numbers = list(range(1000))", out=("numbers",), workers=1)
    assert made.end().state is JobState.SUCCEEDED
    for file in (scene.home / "store" / "out" / "made").rglob("out.pkl"):
        file.unlink()
    struck = time.time()
    job = scene.loop("needs", before="assert sum(numbers)", after=("made",), inputs=("numbers",))
    view = job.when(lambda v: v.failures or "is lost" in v.reason)
    if view.failures:  # found by the cell only
        seen = replace(job.seen(struck), decision=REMADE)
    else:
        seen = Seen(INPUT_LOST, REMADE, time.time() - struck, 0.0)
    jobs = scene.client.jobs("made")
    return but(goes_on(job, seen), "" if len(jobs) == 2 else f"{len(jobs)} jobs of made")


def _with_two_checkpoints(scene: Scene, run: str) -> Watched:
    """Return a job whose next checkpoint is still far."""
    job = scene.loop(run, steps=90, pause=0.06, interval=Interval(steps=25))
    job.when(lambda view: len(view.checkpoints) >= 2)
    return job


def _is_damaged(path: Path) -> bool:
    opened = open_checkpoint(path)
    try:
        opened.read_many(opened.names())
    except Exception:
        return True
    return False
