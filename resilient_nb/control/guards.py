"""What must hold of a run before a request changes it; else nothing is done, and why is said."""

from __future__ import annotations

from resilient_nb.control.admission import is_admin
from resilient_nb.control.engine import Engine
from resilient_nb.core.model import Run
from resilient_nb.core.world import World
from resilient_nb.errors import AlreadyRunning, Conflict, NotAllowed


def check_owner(engine: Engine, run: Run, user: str) -> None:
    """Only its owner and administrators change a run."""
    world = engine.world
    first = world.jobs[run.jobs[0]].spec.user if run.jobs else ""
    owner = run.user or first
    if owner not in ("", user) and not is_admin(world.policy, engine.settings, user):
        raise NotAllowed(
            f"Run {run.name} is {owner}'s, and you are {user}: ask {owner} or an "
            f"administrator, or fork it (%resilient fork {run.name} NEW)."
        )


def check_idle(world: World, run: Run) -> None:
    """Refuse to move the head of a run whose job is still at work from it."""
    active = world.active_job(run.name)
    if active is not None:
        raise AlreadyRunning(
            f"Run {run.name} is {active.state} already, as job {active.id}. Wait for it "
            f"(`resilient_nb.run({run.name!r}).jobs[0].result()` does, and gives what it returns), "
            f"cancel it (%resilient cancel {run.name}), or choose another name."
        )


def check_head(world: World, run: Run, seen: str | None) -> None:
    """Refuse what was decided when the run's head was another one (None: whichever)."""
    if seen is None or seen == (run.head or ""):
        return
    now = "gone" if run.head is None else _ref(world, run.head)
    raise Conflict(
        f"The head of {run.name} is {now} by now: look again, then decide. Nothing was done."
    )


def _ref(world: World, identity: str) -> str:
    checkpoint = world.checkpoint(identity)
    return f"{checkpoint.run}@{checkpoint.step}"
