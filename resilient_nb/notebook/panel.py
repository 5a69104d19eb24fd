"""The panel of a job: what a notebook cell shows while its job runs and when it is saved.

Pure: a view in, HTML or plain text out; the clock is a parameter. The panel is complete as
it stands, so a saved notebook tells the whole story without a kernel, and nothing that came
from a job is ever HTML (`markup.tag` escapes it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, TypeVar

from resilient_nb.core import proposals
from resilient_nb.core.explain import cost_text, way_on
from resilient_nb.core.model import Failure, Frame, JobState, RemoteError
from resilient_nb.core.policy import DEFAULT_GROUP
from resilient_nb.core.views import CheckpointView, JobView, LiveRank
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import (
    Block,
    Charts,
    Column,
    Event,
    Head,
    Items,
    Note,
    Output,
    Progress,
    Table,
    to_html,
    to_text,
)
from resilient_nb.notebook.chaos_reports import chaos_blocks
from resilient_nb.notebook.goodput_reports import goodput_said
from resilient_nb.notebook.reports import (
    checkpoint_rows,
    checkpoints_html,
    checkpoints_text,
    cluster_html,
    cluster_text,
    jobs_html,
    jobs_text,
    run_html,
    run_text,
)
from resilient_nb.notebook.words import Moment

__all__ = [
    "Rich", "checkpoints_html", "checkpoints_text", "cluster_html", "cluster_text", "jobs_html",
    "jobs_text", "line_text", "panel_html", "panel_text", "run_html", "run_text",
]  # fmt: skip

_MOST_CHECKPOINTS = 8
_MOST_RANKS = 16
_MOST_FAILURES = 5
_MOST_NOTES = 8
_MOST_FRAMES = 24

T = TypeVar("T")


@dataclass(frozen=True)
class Rich(Generic[T]):
    """What a verb returns: shown as HTML or text, with the view itself in `data`."""

    text: str
    html: str
    data: T

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.text, "text/html": self.html}


def panel_html(
    view: JobView, tail: str = "", *, notice: str = "", moment: Moment | None = None
) -> str:
    """Return a job as one HTML element with its style, and no script.

    Args:
        view: the job.
        tail: the end of its output, shown below.
        notice: a warning about the panel itself (say, that the cluster doesn't answer).
        moment: now, and the time zone; the default is the machine's.
    """
    return to_html(_job(view, tail, notice, moment or Moment()))


def panel_text(
    view: JobView, tail: str = "", *, notice: str = "", moment: Moment | None = None
) -> str:
    """Return a job as lines of at most 100 characters; arguments as of `panel_html`."""
    return to_text(_job(view, tail, notice, moment or Moment()))


def line_text(view: JobView) -> str:
    """Return how far a job is on one line, for terminals that can't redraw."""
    progress = _progress(view)
    latest = [f"{name} {words.number(value)}" for name, value in view.metrics.items()]
    said = words.joined(progress.said(), *latest[:3])
    if view.state is JobState.QUEUED:
        said = view.reason or "waiting for its turn"
    return words.clip(words.one_line(f"{view.id} {words.sign(view.state)} · {said}"), words.WIDTH)


def _job(view: JobView, tail: str, notice: str, moment: Moment) -> list[Block]:
    blocks: list[Block] = [_head(view, moment)]
    if notice:
        blocks.append(Note("", notice, "wait"))
    if view.state is JobState.QUEUED:
        place = f"Number {view.position} in the queue." if view.position else ""
        starts = moment.start(view.starts_at, view.starts_guess) if view.starts_at else ""
        if view.failures and "(back-off)" in view.reason:
            starts = f"%resilient retry {view.run} starts it now. {starts}".rstrip()
        more = f"(%resilient why {view.id} says more.)"
        why = " ".join(t for t in (view.reason or "for its turn.", place, starts, more) if t)
        blocks.append(Note("Waiting:", why, "wait"))
    elif view.state is JobState.STOPPING and view.reason:
        blocks.append(Note("Stopping:", view.reason, "wait"))
    blocks += [Note("Alert:", text, "bad") for text in view.alerts]
    if view.state is not JobState.QUEUED or view.step:
        blocks.append(_progress(view))
    blocks += failure_blocks(view, moment)
    blocks += chaos_blocks(view.chaos, moment)
    blocks += _proposals(view)
    blocks += _ending(view)
    blocks.append(Charts(view.series))
    if view.ranks:
        blocks.append(_ranks(view.ranks))
    if view.checkpoints:
        blocks.append(_checkpoints(view.checkpoints, moment))
    if view.reads:
        blocks.append(_reads(view))
    if view.notes:
        blocks.append(_notes(view.notes))
    if tail:
        blocks.append(Output("Output", tail))
    return blocks


def _head(view: JobView, moment: Moment) -> Head:
    again = f"attempt {view.attempts}" if view.attempts > 1 else ""
    return Head(
        view.id,
        view.state.value,
        (view.label, f"{view.priority} priority", *_gang(view), again),
        (
            f"by {view.user}" if view.user else "",
            group_said(view),
            f"after {', '.join(view.after)}" if view.after else "",
            f"gets {', '.join(view.inputs)}" if view.inputs else "",
            _deadline(view, moment),
            goodput_said(view.goodput),
            f"submitted {moment.clock(view.submitted_at)}",
            _time_spent(view, moment),
            _results(view),
            _cadence(view),
        ),
        # Of a final panel too: its other times have no date if they are of this day.
        f"as of {moment.stamp()}",
    )


def _reads(view: JobView) -> Items:
    """Return the data that the cell declares, and what of it can't be read now."""
    gone = {name for rank in view.ranks for name in rank.missing}
    return Items(
        "Reads",
        tuple(
            f"{name}: {place}" + (" (can't be read now)" if name in gone else "")
            for name, place in view.reads.items()
        ),
    )


def group_said(view: JobView) -> str:
    """Return a job's group in words; nothing for those that are in none."""
    return f"group {view.group}" if view.group not in ("", DEFAULT_GROUP) else ""


def _deadline(view: JobView, moment: Moment) -> str:
    return f"deadline {moment.clock(view.deadline_at)}" if view.deadline_at is not None else ""


def _cadence(view: JobView) -> str:
    known = view.cadence
    if known is None:
        return ""
    costs = f"costs {words.short(known.cost)}"
    failures = f"failure expected every {words.about(known.mtbf)}"
    bound = f"at most {100 * known.overhead:g} %"
    return f"checkpoints every {words.duration(known.every)} (auto: {costs}, {failures}, {bound})"


def _gang(view: JobView) -> tuple[str, ...]:
    lane = "admin lane" if view.admin else ""
    if view.max_workers <= view.workers:
        return (words.count(view.workers, "worker"), lane)
    sizes = f"{words.gang(view.workers, view.max_workers, view.held)} workers"
    # An elastic gang keeps its number of ranks and shares fewer workers among them.
    ranks = len(view.ranks) if view.held else 0
    return (sizes, words.count(ranks, "rank") if ranks not in (0, view.held) else "", lane)


def _time_spent(view: JobView, moment: Moment) -> str:
    if view.state is JobState.QUEUED:
        return f"waiting {moment.since(view.submitted_at)}" if not view.attempts else ""
    if view.started_at is None:
        return ""
    spent = moment.since(view.started_at, view.ended_at)
    of = " (this attempt)" if view.attempts > 1 else ""
    ended = f"ended {moment.clock(view.ended_at)}" if view.ended_at is not None else ""
    return words.joined(ended, f"run time {spent}{of}")


def _results(view: JobView) -> str:
    if view.returned:
        return f"returned {', '.join(view.returned)}"
    return f"returns {', '.join(view.out)}" if view.out and not view.state.final else ""


def _progress(view: JobView) -> Progress:
    left = ""
    if view.eta_s is not None and view.state is JobState.RUNNING:
        left = f"{words.duration(view.eta_s)} left"
    speed = words.rate(view.rate) if view.state is JobState.RUNNING else ""
    return Progress(view.step, view.total_steps, view.state.value, (speed, left))


def _proposals(view: JobView) -> list[Block]:
    """Return why it had better be stopped, and how; the job goes on until somebody does."""
    if view.state.final:
        return []
    how = f"{proposals.command(view.run)} stops it at a checkpoint, and tags its best one."
    return [Note("Proposal:", f"{proposals.said(p)} {how}", "wait") for p in view.proposals]


def _ending(view: JobView) -> list[Block]:
    """Return how an unsuccessful job ended, when no failure above says it, and the way out."""
    if view.state not in (JobState.FAILED, JobState.CANCELLED):
        return []
    failed = view.state is JobState.FAILED
    blocks: list[Block] = []
    if view.reason and not (failed and view.failures):
        blocks.append(Note("", view.reason, "bad" if failed else "off"))
    head = next((c for c in view.checkpoints if c.is_head), None)
    place = f"step {head.step:,}" if head else "the run's head, if it has a checkpoint"
    act = way_on(view.run, view.failures if failed else ()).replace("`", "")
    blocks.append(Note("To go on:", f"{act}. It goes on from {place}.", "off"))
    return blocks


def failure_blocks(view: JobView, moment: Moment) -> list[Block]:
    """Return what went wrong in a job's attempts, and what was decided each time."""
    found = _in_a_row(view.failures)
    shown = found[-_MOST_FAILURES:]
    blocks: list[Block] = []
    if hidden := sum(times for _, times in found[: -len(shown)]):
        blocks.append(Note("", f"{words.count(hidden, 'earlier failure')} not shown.", "off"))
    last = len(shown) - 1
    for index, (failure, times) in enumerate(shown):
        fatal = index == last and view.state is JobState.FAILED
        blocks.append(_failure(failure, times, fatal, view.label, moment))
    return blocks


def _in_a_row(failures: Sequence[Failure]) -> list[tuple[Failure, int]]:
    """Return the last of each row of like failures, and how many there are in it.

    They are alike if only numbers in their words differ, such as a process's.
    """
    rows = groupby(
        failures, lambda f: (f.cause, f.rank, f.step, f.decision, _without_numbers(f.message))
    )
    return [(several[-1], len(several)) for several in (list(row) for _, row in rows)]


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


def _failure(failure: Failure, times: int, fatal: bool, label: str, moment: Moment) -> Event:
    title = words.joined(
        f"{'failed' if fatal else 'retried'}: {failure.cause}",
        f"{times} times in a row" if times > 1 else "",
        f"rank {failure.rank}" if failure.rank is not None else "",
        f"step {failure.step:,}",
        moment.clock(failure.at),
    )
    decided = f"Decision: {failure.decision}. {failure.reason}"
    evidence = words.joined(*failure.evidence)
    return Event(
        "failed" if fatal else "retried",
        title,
        (
            failure.message,
            f"Evidence: {evidence}" if evidence else "",
            decided if fatal else f"{decided} {_went_on(failure)}",
            cost_text(failure),
        ),
        traceback_text(failure.error, label) if failure.error else "",
        unfolded=fatal,
        stacks=failure.stacks,
    )


def _went_on(failure: Failure) -> str:
    if failure.resumes_from is None:
        return "Begun again: there was no checkpoint."
    return f"Resumed from step {failure.resumes_from:,}."


def traceback_text(error: RemoteError, label: str) -> str:
    """Return a remote exception as Python prints one; the cell's lines are named by `label`."""
    cell = error.frames[0].filename if error.frames else ""
    lines = ["Traceback of the job (most recent call last):"] if error.frames else []
    frames = error.frames
    if len(frames) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        lines += _frames(frames[:half], cell, label)
        lines.append(f"  … {words.count(len(frames) - 2 * half, 'more frame')} …")
        frames = frames[-half:]
    lines += _frames(frames, cell, label)
    said = words.last_lines(error.message, 40)
    kind = words.one_line(error.type)
    lines.append(f"{kind}: {said}" if said else kind)
    return "\n".join(lines)


def _frames(frames: Sequence[Frame], cell: str, label: str) -> list[str]:
    lines = []
    for frame in frames:
        own = frame.filename == cell and label
        place = label if own else f'File "{_shortened(frame.filename)}"'
        inside = "" if frame.name == "<module>" else f", in {frame.name}"
        lines.append(words.one_line(f"{place}, line {frame.lineno}{inside}"))
        if frame.line.strip():
            lead = "--> " if frame.filename == cell else "    "
            lines.append(f"{lead}{words.one_line(frame.line)}")
    return [f"  {line}" for line in lines]


def _shortened(path: str) -> str:
    """Return the end of a library's path: where it is installed says nothing, and takes a line."""
    _, installed, rest = path.partition("site-packages/")
    return f"…/{rest}" if installed else path


def _ranks(ranks: Sequence[LiveRank]) -> Table:
    shown, hidden = ranks[:_MOST_RANKS], ranks[_MOST_RANKS:]
    with_gpu, more = any(map(_has_gpu, shown)), ""
    if hidden:
        steps = [r.step for r in hidden]
        more = f"… {words.count(len(hidden), 'more rank')}, at steps {min(steps)} to {max(steps)}"
    return Table(
        "Ranks, and where the time of a step goes",
        (
            Column("rank", "right"), Column("state", "state"), Column("step", "right"),
            Column("rate", "right"), Column("data", "right"), Column("compute", "right"),
            Column("wait", "right"), Column("memory", "right"), Column("cores", "right"),
            # A line has room for one of them.
            Column("host"), Column("GPU" if with_gpu else "pid", "right"),
        ),
        tuple(_rank(row, with_gpu) for row in shown),
        more,
    )  # fmt: skip


def _rank(row: LiveRank, with_gpu: bool) -> tuple[str, ...]:
    timed = row.data_s + row.compute_s + row.wait_s > 0
    return (
        str(row.rank),
        row.state,
        f"{row.step:,}",
        words.rate(row.rate) or "-",
        *(words.short(part) if timed else "-" for part in (row.data_s, row.compute_s, row.wait_s)),
        _memory(row),
        f"{row.cpu:.2f}" if row.cpu else "-",
        row.host or "-",
        _gpu(row) if with_gpu else str(row.pid or "-"),
    )


def _has_gpu(row: LiveRank) -> bool:
    return row.gpu is not None or row.gpu_memory > 0


def _gpu(row: LiveRank) -> str:
    busy = f"{100 * row.gpu:.0f} %" if row.gpu is not None else ""
    memory = words.size(row.gpu_memory) if row.gpu_memory else ""
    return " ".join(filter(None, (busy, memory))) or "-"


def _memory(row: LiveRank) -> str:
    if not row.rss:
        return "-"
    return words.size(row.rss) + (f" {words.share(row.rss, row.limit)}" if row.limit else "")


def _checkpoints(checkpoints: Sequence[CheckpointView], moment: Moment) -> Table:
    shown = checkpoints[-_MOST_CHECKPOINTS:]
    hidden = len(checkpoints) - len(shown)
    more = ""
    if hidden:
        run = checkpoints[0].run
        more = f"… {words.count(hidden, 'older checkpoint')}: %resilient checkpoints {run}"
    rows = checkpoint_rows([("", c) for c in reversed(shown)], moment)
    return Table("Checkpoints", rows.columns, rows.rows, more)


def _notes(notes: Sequence[str]) -> Items:
    hidden = len(notes) - _MOST_NOTES
    shown = tuple(notes[-_MOST_NOTES:])
    return Items("Notes", (f"… {hidden} earlier", *shown) if hidden > 0 else shown)
