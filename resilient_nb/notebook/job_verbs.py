"""The verbs about jobs: look at them, steer them, and what was recorded of them.

What each returns is shown; see `execute`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape
from typing import Any

from resilient_nb import connection
from resilient_nb.config import load_settings
from resilient_nb.core.chaos import ChaosReport
from resilient_nb.core.explain import headless
from resilient_nb.core.model import JobState
from resilient_nb.core.querying import FactsReport, JobRow, Query, parse_when
from resilient_nb.core.recap import DeadReport
from resilient_nb.core.views import JobView, WhyReport
from resilient_nb.detached import detaching
from resilient_nb.errors import InvalidRequest, UnknownName
from resilient_nb.handles import Job
from resilient_nb.notebook import (
    chaos_reports,
    fact_reports,
    queue_reports,
    recap_reports,
    reports,
    words,
)
from resilient_nb.notebook.chaos import make_chaos
from resilient_nb.notebook.grammar import Arguments
from resilient_nb.notebook.panel import Rich, panel_html, panel_text
from resilient_nb.notebook.telling import teller
from resilient_nb.wire.requests import ReadLog


def _jobs(arguments: Arguments) -> Rich[Any]:
    views = connection.current().jobs(arguments["run"])
    return Rich(reports.jobs_text(views), reports.jobs_html(views), views)


def _job(arguments: Arguments) -> Job:
    client = connection.current()
    return Job(client, client.watch(str(arguments["job"]), timeout=0.0).job.id)


def _show(arguments: Arguments) -> Rich[JobView]:
    job = _job(arguments)
    tail, view = job.tail(), job.view
    return Rich(panel_text(view, tail), panel_html(view, tail), view)


def _panel(arguments: Arguments) -> Any:
    from resilient_nb.notebook.widgets import panel  # ipywidgets, only where it is wanted

    return panel(_job(arguments))


def _logs(arguments: Arguments) -> Any:
    job, epoch, tail = _job(arguments), arguments["attempt"], arguments["tail"]
    rank = arguments["rank"]
    view = job.view
    # An elastic gang has had more ranks or fewer; those that said nothing are left out.
    most = max(view.workers, view.max_workers, len(view.ranks))
    _check_log(view, rank, most, epoch)
    if arguments["follow"]:
        job.logs(rank or 0, epoch, follow=True)
        return ""
    ranks = [rank] if rank is not None else list(range(most))
    texts = {n: job.logs(n, epoch, tail) for n in ranks}
    texts = {n: text for n, text in texts.items() if text or rank is not None or n < view.workers}
    if arguments.get("json"):
        return Rich("", "", {"job": job.id, "ranks": texts})
    if len(texts) == 1:
        return texts[ranks[0]].rstrip("\n")
    return "\n".join(f"--- rank {n}\n{text}".rstrip("\n") for n, text in texts.items())


def _check_log(view: JobView, rank: int | None, ranks: int, epoch: int | None) -> None:
    """Refuse a rank or an attempt that the job never had."""
    if rank is not None and rank >= ranks:
        there = f"ranks 0 to {ranks - 1}" if ranks > 1 else "rank 0 only"
        raise UnknownName(f"{view.id} has no rank {rank}; it has {there}.")
    if epoch is None or epoch in (view.epoch, *(failure.epoch for failure in view.failures)):
        return
    known = connection.current().log(ReadLog(view.id, rank or 0, epoch)).epochs
    if epoch not in known:
        there = f"; there is of {', '.join(map(str, known))}" if known else ", nor of any other"
        raise UnknownName(f"{view.id} has no output of attempt {epoch}{there}.")


def _why(arguments: Arguments) -> Rich[WhyReport]:
    job = _job(arguments)
    report, view = job.why(), job.view
    return Rich(queue_reports.why_text(report, view), queue_reports.why_html(report, view), report)


def _cancel(arguments: Arguments) -> str:
    job = _job(arguments)
    before = job.state
    if before.final:
        return f"{job.id} {before.said} already."
    job.cancel()
    with detaching(job.id, f"It was asked to end; `show {job.id}` says when it has."):
        view = job.wait(load_settings().leave_grace + 10.0)
    best = f" {view.reason}" if view.proposals else ""
    run = job.run.view
    way = f"`resume {view.run}` goes on."
    if run.head is None and run.checkpoints:
        way = headless(run.name, job.id, False, run.checkpoints[-1].step)
    return f"{job.id} is {view.state} at step {view.step}.{best} {way}"


def _restart(arguments: Arguments) -> Rich[JobView]:
    job = _job(arguments)
    before = job.view
    if before.state.final:
        raise InvalidRequest(
            f"{job.id} has ended ({before.state}): there is nothing to restart. "
            f"`resume {before.run}` goes on from its head."
        )
    view = job.restart()
    head = job.run.view.head
    start = words.reference(head) if head else "the beginning"
    text = f"The ranks of {job.id} are ended; it starts again from {start}."
    return Rich(text, f"<p>{escape(text)}</p>", view)


def _retry(arguments: Arguments) -> Rich[JobView]:
    job = _job(arguments)
    before = job.view
    again = job.retry(
        anyway=bool(arguments.get("anyway")),
        memory=arguments.get("memory") or 0,
        on_nan=arguments.get("on_nan"),
    )
    text = f"{again.id} {words.begins(again.view.step)}."
    if again.id == before.id or again.view.state is JobState.QUEUED:
        text = f"{text[:-1]} as soon as it is its turn: {again.why().reason}"
    return Rich(text, f"<p>{escape(text)}</p>", again.view)


def _dead(arguments: Arguments) -> Rich[Any]:
    if arguments["requeue"]:
        return _retry(arguments)
    report, name = connection.current().dead(), arguments["job"]
    if name is not None:
        job = _job(arguments).id
        report = DeadReport(tuple(one for one in report.letters if one.job == job))
    return Rich(recap_reports.dead_text(report), recap_reports.dead_html(report), report)


def _chaos(arguments: Arguments) -> Rich[ChaosReport]:
    report = make_chaos(connection.current(), arguments, teller(arguments))
    return Rich(chaos_reports.chaos_text(report), chaos_reports.chaos_html(report), report)


def _query(arguments: Arguments) -> Rich[list[JobRow]]:
    now = time.time()
    since, until = (
        None if arguments[name] is None else parse_when(arguments[name], now)
        for name in ("since", "until")
    )
    query = Query(
        run=arguments["run"] or "",
        user=arguments["user"] or "",
        states=arguments["state"] or (),
        metrics=arguments["metric"] or (),
        tag=arguments["tag"] or "",
        cause=arguments["cause"] or "",
        data=arguments["data"] or "",
        since=since,
        until=until,
        limit=arguments["limit"],
    )
    rows = connection.current().find(query)
    return Rich(fact_reports.rows_text(rows), fact_reports.rows_html(rows), rows)


def _facts(arguments: Arguments) -> Rich[FactsReport]:
    job, wanted = str(arguments["job"]), arguments["rows"]
    report = connection.current().facts(job, arguments["rank"], wanted or 500)
    rows = wanted or fact_reports.ROWS
    return Rich(
        fact_reports.facts_text(report, rows), fact_reports.facts_html(report, rows), report
    )


#: What runs each verb.
VERBS: dict[str, Callable[[Arguments], Any]] = {
    "jobs": _jobs,
    "show": _show,
    "panel": _panel,
    "logs": _logs,
    "why": _why,
    "cancel": _cancel,
    "restart": _restart,
    "retry": _retry,
    "dead": _dead,
    "chaos": _chaos,
    "query": _query,
    "facts": _facts,
}
