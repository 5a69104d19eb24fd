"""Tables for the verbs that report: `jobs`, `checkpoints`, `show`, `status`. Pure.

A run's checkpoints are drawn as a tree by parent. The line that leads to the head runs
straight down; what a rollback left behind is drawn beside it, at the place where it left.
"""

from __future__ import annotations

from collections.abc import Sequence

from resilient_nb.core.views import CheckpointView, ClusterView, JobView, RunView
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Items, Note, Table, to_html, to_text
from resilient_nb.notebook.words import Moment

#: Of a run with more checkpoints, older ones that are neither tagged nor the head are left out.
MOST_CHECKPOINTS = 200


def jobs_html(views: Sequence[JobView], *, moment: Moment | None = None) -> str:
    """Return jobs as a table, in the order given."""
    return to_html(_jobs(views, moment or Moment()))


def jobs_text(views: Sequence[JobView], *, moment: Moment | None = None) -> str:
    """Return jobs as lines of at most 100 characters."""
    return to_text(_jobs(views, moment or Moment()))


def checkpoints_html(view: RunView, *, moment: Moment | None = None) -> str:
    """Return a run's checkpoints as a tree of its forks and rollbacks, oldest first."""
    return to_html(_tree(view, moment or Moment()))


def checkpoints_text(view: RunView, *, moment: Moment | None = None) -> str:
    """Return a run's checkpoints as a tree in plain text."""
    return to_text(_tree(view, moment or Moment()))


def run_html(view: RunView, *, moment: Moment | None = None) -> str:
    """Return a run: where it comes from, its jobs, tags and checkpoints."""
    return to_html(_run(view, moment or Moment()))


def run_text(view: RunView, *, moment: Moment | None = None) -> str:
    """Return a run in plain text."""
    return to_text(_run(view, moment or Moment()))


def cluster_html(view: ClusterView) -> str:
    """Return the cluster: its hosts, their slots, and the jobs on it."""
    return to_html(_cluster(view))


def cluster_text(view: ClusterView) -> str:
    """Return the cluster in plain text."""
    return to_text(_cluster(view))


def checkpoint_rows(
    entries: Sequence[tuple[str, CheckpointView]], moment: Moment, metrics: bool = False
) -> Table:
    """Return checkpoints, each with what its reference is indented by, as a table."""
    heads = [
        Column("checkpoint", "tree"), Column("step", "right"), Column("saved", "right"),
        Column("size", "right"), Column("tags"), Column("digest", "mono"),
    ]  # fmt: skip
    if metrics:
        heads.append(Column("metrics"))
    rows = []
    for indent, c in entries:
        mark = "  ◀ head" if c.is_head else ""
        row = [
            f"{indent}{words.one_line(c.ref)}{mark}", f"{c.step:,}", moment.clock(c.at),
            words.size(c.nbytes), ", ".join(c.tags), words.short_digest(c.digest),
        ]  # fmt: skip
        if metrics:
            row.append(", ".join(f"{k} {words.number(v)}" for k, v in c.metrics.items()))
        rows.append(tuple(row))
    return Table("", tuple(heads), tuple(rows))


def lineage(checkpoints: Sequence[CheckpointView]) -> list[tuple[str, CheckpointView]]:
    """Return the checkpoints in the order of a tree, each with its indentation.

    A checkpoint whose parent isn't among them begins a line. Where a checkpoint has several
    children, those that don't lead to the head are indented below it, and the line to the
    head (or, if the head is elsewhere, the newest) goes straight on.
    """
    ids = {c.id for c in checkpoints}
    children: dict[str | None, list[CheckpointView]] = {}
    for c in sorted(checkpoints, key=lambda c: c.at):
        children.setdefault(c.parent if c.parent in ids else None, []).append(c)
    main = _path_to_head(checkpoints)
    drawn: list[tuple[str, CheckpointView]] = []
    # A stack and not recursion: a lineage is as deep as the run is long.
    waiting = [("", "", c) for c in reversed(_side_lines_first(children.get(None, []), main))]
    while waiting:
        lead, below, c = waiting.pop()
        drawn.append((lead, c))
        following = _side_lines_first(children.get(c.id, []), main)
        waiting += [(below, below, straight) for straight in following[-1:]]
        waiting += [(f"{below}├─ ", f"{below}│  ", side) for side in reversed(following[:-1])]
    return drawn


def _path_to_head(checkpoints: Sequence[CheckpointView]) -> set[str]:
    by_id = {c.id: c for c in checkpoints}
    at = next((c for c in checkpoints if c.is_head), None)
    path: set[str] = set()
    while at is not None and at.id not in path:
        path.add(at.id)
        at = by_id.get(at.parent or "")
    return path


def _side_lines_first(siblings: Sequence[CheckpointView], main: set[str]) -> list[CheckpointView]:
    """Return siblings, oldest first, with the one that goes straight on at the end."""
    return sorted(siblings, key=lambda c: (c.id in main, c.at))


def _jobs(views: Sequence[JobView], moment: Moment) -> list[Block]:
    if not views:
        return [Note("No jobs.", "Begin a cell with %%resilient NAME to submit one.", "off")]
    heads = (
        Column("job"), Column("state", "state"), Column("step", "right"), Column("left", "right"),
        Column("workers", "right"), Column("priority"), Column("user"),
        Column("submitted", "right"), Column("why"),
    )  # fmt: skip
    return [Table("", heads, tuple(_job_row(view, moment) for view in views))]


def _job_row(view: JobView, moment: Moment) -> tuple[str, ...]:
    step = f"{view.step:,}" + (f"/{view.total_steps:,}" if view.total_steps else "")
    return (
        view.id, view.state.value, step,
        words.duration(view.eta_s) if view.eta_s is not None and not view.state.final else "",
        words.gang(view.workers, view.max_workers, view.held), view.priority, view.user,
        moment.clock(view.submitted_at), view.reason,
    )  # fmt: skip


def _run_head(view: RunView, moment: Moment) -> list[Block]:
    own = any(c.is_head for c in view.checkpoints)
    head = f"head {words.reference(view.head)}" if view.head else "no checkpoint yet"
    if view.head and not own:
        head += " (of another run)"
    origin = f"forked from {words.reference(view.forked_from)}" if view.forked_from else ""
    total = sum(c.nbytes for c in view.checkpoints)
    amount = words.count(len(view.checkpoints), "checkpoint")
    stored = f"{amount}, {words.size(total)}" if view.checkpoints else ""
    return [
        Head(f"run {view.name}", facts=(head, origin),
             details=(f"created {moment.clock(view.created_at)}", stored))
    ]  # fmt: skip


def _tree(view: RunView, moment: Moment) -> list[Block]:
    if not view.checkpoints:
        why = "A running job makes one at its first checkpoint interval, and at its end."
        return [*_run_head(view, moment), Note("No checkpoints of its own.", why, "off")]
    entries = lineage(view.checkpoints)
    newest = {c.id for c in sorted(view.checkpoints, key=lambda c: c.at)[-MOST_CHECKPOINTS:]}
    shown = [(i, c) for i, c in entries if c.id in newest or c.is_head or c.tags]
    hidden = len(entries) - len(shown)
    more = f"… {words.count(hidden, 'older checkpoint')} without a tag" if hidden else ""
    table = checkpoint_rows(shown, moment, metrics=True)
    return [*_run_head(view, moment), Table("Checkpoints", table.columns, table.rows, more)]


def _run(view: RunView, moment: Moment) -> list[Block]:
    head, *tree = _tree(view, moment)
    jobs = tuple(f"{job} (active)" if job == view.active_job else job for job in view.jobs)
    blocks: list[Block] = [head]
    if jobs:
        blocks.append(Items("Jobs", (", ".join(jobs),)))
    if view.tags:
        tags = tuple(f"{tag}: {words.reference(i)}" for tag, i in sorted(view.tags.items()))
        blocks.append(Items("Tags", tags))
    return [*blocks, *tree]


def _cluster(view: ClusterView) -> list[Block]:
    may_grow = view.max_workers is not None and view.max_workers > view.slots
    growth = f"grows to {view.max_workers}" if may_grow else ""
    blocks: list[Block] = [
        Head(f"cluster {view.address}",
             facts=(f"{view.used} of {words.count(view.slots, 'slot')} in use", growth),
             details=(f"id {view.cluster_id}", f"version {view.version}", f"store {view.store}"))
    ]  # fmt: skip
    if view.hosts:
        heads = (
            Column("host"), Column("slots", "right"), Column("in use", "right"), Column("warm"),
            Column("Dask workers"),
        )  # fmt: skip
        rows = tuple(
            (h.id, str(h.slots), str(h.used), "yes" if h.warm else "no", ", ".join(h.workers))
            for h in view.hosts
        )
        blocks.append(Table("Hosts", heads, rows))
    else:
        blocks.append(Note("No workers.", "Jobs wait until one joins.", "wait"))
    blocks.append(Items("Running", (", ".join(view.running) or "nothing",)))
    blocks.append(Items("Queued, next first", (", ".join(view.queued) or "nothing",)))
    return blocks
