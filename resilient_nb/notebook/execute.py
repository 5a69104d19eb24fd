"""The verbs, the same for `%resilient` and the shell's `resilient`.

Each returns what is shown: a `Rich` (text and HTML of a view), a text, or, for `load`, the
state itself. With `--json` the text is JSON whose schema `schema` prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from resilient_nb import connection
from resilient_nb.api import Job, Run, load
from resilient_nb.client import Tls
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.views import JobView, QueueReport, WhyReport
from resilient_nb.errors import ClusterUnreachable, InvalidRequest
from resilient_nb.notebook import queue_reports, reports, words
from resilient_nb.notebook.doctor import doctor
from resilient_nb.notebook.options import Command, help_text
from resilient_nb.notebook.panel import Rich, panel_html, panel_text
from resilient_nb.wire.codec import plain, schema, to_json
from resilient_nb.wire.requests import REPORTS

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
    result = _VERBS[command.verb](arguments)
    if arguments.get("json"):
        return _said(to_json(plain(result.data)).decode(), shell)
    if isinstance(result, str):
        return _said(result, shell)
    if command.verb == "why" and shell is None:
        return _for_shell(result.text)
    return _summary(result) if command.verb == "load" and shell is None else result


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
    return f"{job.id} is {view.state} at step {view.step}. `resume {view.run}` goes on."


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
    views = connection.current().runs(str(arguments["run"]) if arguments["run"] else None)
    text = "\n\n".join(reports.checkpoints_text(view) for view in views)
    page = "".join(reports.checkpoints_html(view) for view in views)
    return Rich(text or "No run yet.", page, [c for view in views for c in view.checkpoints])


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


def _load(arguments: Arguments) -> Any:
    state = load(str(arguments["ref"]), only=arguments["only"])
    if not arguments.get("json"):
        return state
    whole = load(str(arguments["ref"]))
    return Rich("", "", {"ref": whole.ref, "path": whole.path, "tensors": whole.names()})


def _summary(state: Any) -> str:
    names = state.names() if hasattr(state, "names") else list(state)
    head = repr(state) if hasattr(state, "names") else f"{len(names)} entries"
    return "\n".join([head, *(f"  {name}" for name in names)])


def _queue(_: Arguments) -> Rich[QueueReport]:
    report = connection.current().queue()
    return Rich(queue_reports.queue_text(report), queue_reports.queue_html(report), report)


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
    "jobs": _jobs,
    "show": _show,
    "panel": _panel,
    "logs": _logs,
    "cancel": _cancel,
    "restart": _restart,
    "resume": _resume,
    "rollback": _rollback,
    "checkpoints": _checkpoints,
    "tag": _tag,
    "fork": _fork,
    "load": _load,
    "why": _why,
    "doctor": _doctor,
    "schema": _schema,
}
