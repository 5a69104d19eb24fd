"""The verbs, the same for `%resilient` and the shell's `resilient`.

Each returns what is shown: a `Rich` (text and HTML of a view), a text, or, for `load`, the
state itself. With `--json` the text is JSON whose schema `schema` prints.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from typing import Any

from resilient_nb import checkpoints, connection
from resilient_nb.client import Tls
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.chaos import ChaosReport
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.model import JobState
from resilient_nb.core.querying import FactsReport, JobRow, Query, parse_when
from resilient_nb.core.recap import DeadReport, RecapReport
from resilient_nb.core.scrubbing import VerifyReport
from resilient_nb.core.transfers import TransferReport
from resilient_nb.core.views import JobView, QueueReport, RetentionReport, WhyReport
from resilient_nb.errors import ClusterUnreachable, CorruptCheckpoint, InvalidRequest
from resilient_nb.handles import Job, Run
from resilient_nb.notebook import (
    alert_reports,
    chaos_reports,
    checkpoint_reports,
    diff_reports,
    fact_reports,
    queue_reports,
    recap_reports,
    reports,
    retention_reports,
    transfer_reports,
    verify_reports,
    words,
)
from resilient_nb.notebook.chaos import make_chaos
from resilient_nb.notebook.doctor import doctor
from resilient_nb.notebook.options import Command, help_text
from resilient_nb.notebook.panel import Rich, panel_html, panel_text
from resilient_nb.notebook.scrub import scrub
from resilient_nb.wire.codec import plain, schema, to_json
from resilient_nb.wire.requests import REPORTS, Retain

Arguments = Mapping[str, Any]


def execute(command: Command, shell: Any = None) -> Any:
    """Run a verb and return what to show.

    Args:
        command: what was typed, parsed.
        shell: the IPython shell, or None in a terminal.

    Raises:
        ResilientError: with what is wrong and what to do.
    """
    if command.verb == "help":
        topic = command.arguments.get("topic")
        text = help_text(str(topic) if topic else None, "magic" if shell else "shell")
        return _said(text, shell)
    arguments = command.arguments
    if command.verb == "panel" and shell is None:
        raise InvalidRequest("`panel` needs a notebook; in a terminal use show or logs --follow.")
    if command.verb == "load" and shell is None and not arguments.get("json"):
        return _summary(arguments)
    result = _VERBS[command.verb](arguments)
    if shell is None and command.verb == "verify" and result.data.damaged:
        raise Unsound(_shown(result, arguments))
    if shell is None and arguments.get("test") and any(test.error for test in result.data):
        raise Unsound(_shown(result, arguments))
    if arguments.get("json"):
        return _said(_shown(result, arguments), shell)
    if isinstance(result, str):
        return _said(result, shell)
    if command.verb in ("why", "verify", "retry", "dead", "recap") and shell is None:
        return _shown(result, arguments)
    return result


class Unsound(CorruptCheckpoint):
    """Checkpoints are damaged, or alerts can't be sent. What is to be printed is its text."""


def _shown(result: Rich[Any], arguments: Arguments) -> str:
    """Return what a shell prints."""
    if arguments.get("json"):
        return to_json(plain(result.data)).decode()
    return _for_shell(result.text)


def _said(text: str, shell: Any) -> str | None:
    """Print in a notebook, where a returned string would be shown as a repr."""
    if shell is None:
        return text
    if text:
        print(text)
    return None


def _for_shell(text: str) -> str:
    """Return what is to be pasted as a shell takes it."""
    return re.sub(r"(?<!%)%resilient ", "resilient ", text)


def _up(arguments: Arguments) -> Rich[Any]:
    settings = load_settings()
    connection.forget(settings)
    return _cluster(embedded.up(settings, arguments["workers"], print))


def _down(_: Arguments) -> str:
    embedded.down(load_settings(), print)
    return ""


def _connect(arguments: Arguments) -> Rich[Any]:
    files = (arguments[name] or "" for name in ("ca_file", "cert", "key"))
    return _cluster(connection.connect(arguments["address"], Tls(*files)))


def _status(_: Arguments) -> Rich[Any]:
    return _cluster(connection.current().cluster())


def _cluster(view: Any) -> Rich[Any]:
    return Rich(reports.cluster_text(view), reports.cluster_html(view), view)


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
    if arguments["follow"]:
        job.logs(rank or 0, epoch, follow=True)
        return ""
    view = job.view
    # An elastic gang has had more ranks or fewer; those that said nothing are left out.
    most = max(view.workers, view.max_workers, len(view.ranks))
    ranks = [rank] if rank is not None else list(range(most))
    texts = {n: job.logs(n, epoch, tail) for n in ranks}
    texts = {n: text for n, text in texts.items() if text or rank is not None or n < view.workers}
    if arguments.get("json"):
        return Rich("", "", {"job": job.id, "ranks": texts})
    if len(texts) == 1:
        return texts[ranks[0]].rstrip("\n")
    return "\n".join(f"--- rank {n}\n{text}".rstrip("\n") for n, text in texts.items())


def _cancel(arguments: Arguments) -> str:
    job = _job(arguments)
    before = job.state
    if before.final:
        return f"{job.id} has {before} already."
    job.cancel()
    view = job.wait(load_settings().leave_grace + 10.0)
    best = f" {view.reason}" if view.proposals else ""
    return f"{job.id} is {view.state} at step {view.step}.{best} `resume {view.run}` goes on."


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
    text = f"{again.id} goes on from step {again.view.step}."
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


def _recap(arguments: Arguments) -> Rich[RecapReport]:
    user = "" if arguments["all"] else arguments["user"]
    report = connection.current().recap(arguments["since"], user)
    return Rich(recap_reports.recap_text(report), recap_reports.recap_html(report), report)


def _resume(arguments: Arguments) -> str:
    at = arguments.get("at")
    point = None if at is None else str(at).partition("@")[2]
    job = Run(connection.current(), str(arguments["run"])).resume(point)
    return f"{job.id} goes on from step {job.view.step}."


def _rollback(arguments: Arguments) -> str:
    ref = str(arguments["ref"])
    client = connection.current()
    view = client.rollback(ref, load_settings().user)
    return (
        f"The head of {view.name} is now {client.resolve(view.name).ref}; later checkpoints are "
        f"kept. `resume {view.name}` goes on from here."
    )


def _checkpoints(arguments: Arguments) -> Rich[Any]:
    ref = arguments["ref"]
    if ref is not None and (ref.step is not None or ref.tag is not None):
        report = checkpoints.describe(str(ref))
        text = checkpoint_reports.checkpoint_text(report)
        return Rich(text, checkpoint_reports.checkpoint_html(report), report)
    views = connection.current().runs(ref and ref.run)
    listed = [c for view in views for c in view.checkpoints]
    if ref is not None:
        [view] = views
        return Rich(reports.checkpoints_text(view), reports.checkpoints_html(view), listed)
    return Rich(checkpoint_reports.runs_text(views), checkpoint_reports.runs_html(views), listed)


def _diff(arguments: Arguments) -> Rich[DiffReport]:
    report = checkpoints.diff(str(arguments["a"]), str(arguments["b"]), arguments["only"])
    shown = diff_reports.diff_text, diff_reports.diff_html
    text, page = (show(report, arguments["tensors"]) for show in shown)
    return Rich(text, page, report)


def _tag(arguments: Arguments) -> str:
    ref, tag = str(arguments["ref"]), str(arguments["tag"])
    view = connection.current().tag(ref, tag)
    return f"{view.name}@{tag} is now {connection.current().resolve(f'{view.name}@{tag}').ref}."


def _fork(arguments: Arguments) -> str:
    ref, name = str(arguments["ref"]), str(arguments["newname"])
    view = connection.current().fork(ref, name)
    return (
        f"{view.name} begins at {ref}. `%%resilient {name}` gives it a cell of its own; "
        f"`resume {name}` goes on with its parent's."
    )


def _retain(arguments: Arguments) -> Rich[RetentionReport]:
    request = Retain(str(arguments["run"]), arguments["keep"], bool(arguments["dry_run"]))
    report = connection.current().retain(request)
    return Rich(
        retention_reports.retention_text(report), retention_reports.retention_html(report), report
    )


def _backup(arguments: Arguments) -> Rich[TransferReport]:
    from resilient_nb.storage.backup import backup

    return _transfer(partial(backup, prune=bool(arguments["prune"])), arguments)


def _restore(arguments: Arguments) -> Rich[TransferReport]:
    from resilient_nb.storage.backup import restore

    return _transfer(restore, arguments)


def _transfer(transfer: Callable[..., TransferReport], arguments: Arguments) -> Rich[Any]:
    """Run it here, where the home must be: the cluster may be the very thing that is broken."""

    def say(text: str) -> None:
        if not arguments["json"]:
            print(text, file=sys.stderr)

    report = transfer(load_settings(), arguments["place"], say, bool(arguments["dry_run"]))
    return Rich(
        transfer_reports.transfer_text(report), transfer_reports.transfer_html(report), report
    )


def _verify(arguments: Arguments) -> Rich[VerifyReport]:
    def say(text: str) -> None:
        if not arguments["json"]:
            print(text, file=sys.stderr)

    report = scrub(connection.current(), arguments["ref"], say)
    return Rich(verify_reports.verify_text(report), verify_reports.verify_html(report), report)


def _load(arguments: Arguments) -> Any:
    only = arguments["only"]
    if not arguments.get("json"):
        return checkpoints.load(str(arguments["ref"]), only=only)
    whole = checkpoints.load(str(arguments["ref"]))
    return Rich("", "", {"ref": whole.ref, "path": whole.path, "tensors": whole.names(only)})


def _summary(arguments: Arguments) -> str:
    """Say what there is to load: a shell has no use for values, so none are read."""
    state, only = checkpoints.load(str(arguments["ref"])), arguments["only"]
    names = state.names(only)
    amount = f"{state.ref}, {only}: {words.count(len(names), 'tensor')}"
    return "\n".join([repr(state) if only is None else amount, *(f"  {name}" for name in names)])


def _export(arguments: Arguments) -> str:
    ref, only = str(arguments["ref"]), arguments["only"]
    path = checkpoints.export(ref, arguments["file"], only, overwrite=bool(arguments["overwrite"]))
    what = ref if only is None else f"{ref}, {only},"
    return f"{what} is now in {path} ({words.size(path.stat().st_size)})."


def _import(arguments: Arguments) -> str:
    run = checkpoints.import_checkpoint(
        arguments["file"], str(arguments["run"]), name=arguments["as"], only=arguments["only"],
        step=arguments["step"], allow_pickle=bool(arguments["allow_pickle"]),
    )  # fmt: skip
    state, [first] = run.load(), run.checkpoints
    return (
        f"{run.name} begins with {', '.join(state) or 'nothing'} at {first.ref} "
        f"({words.size(first.nbytes)}). A cell with --fork {run.name} that tracks the same names "
        "begins with them."
    )


def _queue(_: Arguments) -> Rich[QueueReport]:
    report = connection.current().queue()
    return Rich(queue_reports.queue_text(report), queue_reports.queue_html(report), report)


def _alerts(arguments: Arguments) -> Rich[Any]:
    client = connection.current()
    if arguments["test"]:
        tests = client.test_alerts()
        return Rich(alert_reports.outcomes_text(tests), alert_reports.outcomes_html(tests), tests)
    report = client.alerts()
    return Rich(alert_reports.alerts_text(report), alert_reports.alerts_html(report), report)


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


def _chaos(arguments: Arguments) -> Rich[ChaosReport]:
    def say(text: str) -> None:
        if not arguments["json"]:
            print(text, file=sys.stderr)

    report = make_chaos(connection.current(), arguments, say)
    return Rich(chaos_reports.chaos_text(report), chaos_reports.chaos_html(report), report)


def _why(arguments: Arguments) -> Rich[WhyReport]:
    job = _job(arguments)
    report, view = job.why(), job.view
    return Rich(queue_reports.why_text(report, view), queue_reports.why_html(report, view), report)


def _doctor(_: Arguments) -> Rich[Any]:
    try:
        client = connection.current()
        view, you = client.cluster(), client.identity()
    except ClusterUnreachable as error:
        return doctor(load_settings(), None, str(error))
    return doctor(load_settings(), view, "", you)


def _schema(_: Arguments) -> str:
    return to_json(schema(*REPORTS)).decode()


_VERBS: dict[str, Callable[[Arguments], Any]] = {
    "up": _up,
    "down": _down,
    "connect": _connect,
    "status": _status,
    "workers": _status,
    "queue": _queue,
    "alerts": _alerts,
    "jobs": _jobs,
    "query": _query,
    "facts": _facts,
    "show": _show,
    "panel": _panel,
    "logs": _logs,
    "cancel": _cancel,
    "restart": _restart,
    "retry": _retry,
    "dead": _dead,
    "recap": _recap,
    "resume": _resume,
    "rollback": _rollback,
    "checkpoints": _checkpoints,
    "diff": _diff,
    "tag": _tag,
    "fork": _fork,
    "retain": _retain,
    "backup": _backup,
    "restore": _restore,
    "verify": _verify,
    "load": _load,
    "export": _export,
    "import": _import,
    "why": _why,
    "chaos": _chaos,
    "doctor": _doctor,
    "schema": _schema,
}
