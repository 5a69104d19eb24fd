"""Tables for the verbs that report: `jobs`, `checkpoints`, `show`, `status`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resilient_nb.core.explain import headless
from resilient_nb.core.views import CheckpointView, ClusterView, JobView, RunView
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Items, Note, Table, to_html, to_text
from resilient_nb.notebook.lineage import Entry, Fork, tree
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
    entries: Sequence[tuple[str, Entry]], moment: Moment, metrics: bool = False
) -> Table:
    """Return checkpoints, each with what its reference is indented by, as a table.

    How much smaller compression made what was added is shown if it did.
    """
    heads = [
        Column("checkpoint", "tree"), Column("saved", "right"), Column("size", "right"),
        Column("added", "right"), Column("tags"), Column("digest", "mono"),
    ]  # fmt: skip
    packed = any(_ratio(c) for _, c in entries if isinstance(c, CheckpointView))
    heads[4:4] = [Column("ratio", "right")] if packed else []
    copied = any(c.replicated for _, c in entries if isinstance(c, CheckpointView))
    heads += [Column("copies")] if copied else []
    heads += [Column("metrics")] if metrics else []
    rows = []
    for indent, c in entries:
        if isinstance(c, Fork):
            row = [f"{indent}{words.one_line(c.run)}  (fork)"]
            rows.append(tuple(row + [""] * (len(heads) - 1)))
            continue
        mark = "  ◀ head" if c.is_head else ""
        row = [
            f"{indent}{words.one_line(c.ref)}{mark}", moment.clock(c.at),
            words.size(c.nbytes), _added(c), ", ".join(c.tags), words.short_digest(c.digest),
        ]  # fmt: skip
        row[4:4] = [_ratio(c)] if packed else []
        row += [c.replicated] if copied else []
        if metrics:
            row.append(", ".join(f"{k} {words.number(v)}" for k, v in c.metrics.items()))
        rows.append(tuple(row))
    return Table("", tuple(heads), tuple(rows))


def run_head(view: RunView, moment: Moment) -> list[Block]:
    """Return what is said of a run above its checkpoints."""
    own = any(c.is_head for c in view.checkpoints)
    none = "no checkpoint at its head" if view.checkpoints else "no checkpoint yet"
    head = f"head {words.reference(view.head)}" if view.head else none
    if view.head and not own:
        head += " (of another run)"
    origin = f"forked from {words.reference(view.forked_from)}" if view.forked_from else ""
    amount = words.count(len(view.checkpoints), "checkpoint")
    stored = f"{amount}, {_stored(view.checkpoints)}" if view.checkpoints else ""
    said = Head(f"run {view.name}", facts=(head, origin),
                details=(f"created {moment.clock(view.created_at)}", stored))  # fmt: skip
    if view.head or not view.checkpoints:
        return [said]
    job = view.jobs[-1] if view.jobs else f"Run {view.name}"
    why = headless(view.name, job, view.active_job is not None, view.checkpoints[-1].step)
    return [said, Note("No checkpoint at its head.", why, "wait")]


def checkpoint_table(
    checkpoints: Sequence[CheckpointView], forks: Mapping[str, str], moment: Moment
) -> Table:
    """Return checkpoints as a tree; of very many, the newest and those that somebody named.

    Args:
        checkpoints: of one run or of several.
        forks: runs that aren't drawn, by the ids of the checkpoints that they begin at.
        moment: when it is looked at.
    """
    entries = tree(checkpoints, forks)
    newest = {c.id for c in sorted(checkpoints, key=lambda c: c.at)[-MOST_CHECKPOINTS:]}
    named = newest | set(forks.values())
    shown = [
        (i, c) for i, c in entries if isinstance(c, Fork) or c.id in named or c.is_head or c.tags
    ]
    hidden = len(entries) - len(shown)
    more = f"… {words.count(hidden, 'older checkpoint')} without a tag" if hidden else ""
    if not more and any(indent for indent, _ in shown):
        more = "Indented: what a rollback left behind, and forks."
    table = checkpoint_rows(shown, moment, metrics=True)
    return Table("Checkpoints", table.columns, table.rows, more)


def _added(c: CheckpointView) -> str:
    # A first checkpoint that has written nothing is of before that was counted.
    return words.size(c.written) if c.written or c.parent else ""


def _ratio(c: CheckpointView) -> str:
    ratio = c.changed / c.written if c.written else 0.0
    return f"{ratio:.1f}×" if ratio > 1.05 else ""


def _stored(checkpoints: Sequence[CheckpointView]) -> str:
    whole, added = sum(c.nbytes for c in checkpoints), sum(c.written for c in checkpoints)
    return f"{words.size(whole)}, {words.size(added)} in the store" if added else words.size(whole)


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


def _tree(view: RunView, moment: Moment) -> list[Block]:
    head = run_head(view, moment)
    if not view.checkpoints:
        why = "A running job makes one at its first checkpoint interval, and at its end."
        return [*head, Note("No checkpoints of its own.", why, "off")]
    return [*head, checkpoint_table(view.checkpoints, view.forks, moment)]


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
             details=(f"id {view.cluster_id}", f"version {view.version}", f"store {view.store}",
                      f"measures {view.metrics}" if view.metrics else "")),
        *(Note("Alert:", alert, "bad") for alert in view.alerts),
    ]  # fmt: skip
    if view.hosts:
        heads = (
            Column("host"), Column("slots", "right"), Column("in use", "right"), Column("warm"),
            Column("store free", "right"), Column("disk free", "right"),
            Column("answers in", "right"), Column("Dask workers"), Column("", "below"),
        )  # fmt: skip
        rows = tuple(
            (
                h.id, str(h.slots), str(h.used), "yes" if h.warm else "no",
                *("" if free is None else words.size(free) for free in (h.store_free, h.disk_free)),
                words.short(h.round_trip) if h.round_trip else "", ", ".join(h.workers),
                f"Unwell: {h.unwell}." if h.unwell else "",
            )
            for h in view.hosts
        )  # fmt: skip
        blocks.append(Table("Hosts", heads, rows))
    else:
        blocks.append(Note("No workers.", "Jobs wait until one joins.", "wait"))
    blocks.append(Items("Running", (", ".join(view.running) or "nothing",)))
    blocks.append(Items("Queued, next first", (", ".join(view.queued) or "nothing",)))
    return blocks
