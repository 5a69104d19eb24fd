"""The verbs about runs and their checkpoints, here and in copies elsewhere.

What each returns is shown; see `execute`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from resilient_nb import checkpoints, connection
from resilient_nb.config import load_settings
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.scrubbing import VerifyReport
from resilient_nb.core.transfers import TransferReport
from resilient_nb.core.views import RetentionReport
from resilient_nb.handles import Run
from resilient_nb.notebook import (
    checkpoint_reports,
    diff_reports,
    reports,
    retention_reports,
    transfer_reports,
    verify_reports,
    words,
)
from resilient_nb.notebook.grammar import Arguments
from resilient_nb.notebook.panel import Rich
from resilient_nb.notebook.scrub import scrub
from resilient_nb.notebook.telling import teller
from resilient_nb.wire.requests import Retain


def _resume(arguments: Arguments) -> str:
    at = arguments.get("at")
    point = None if at is None else str(at).partition("@")[2]
    job = Run(connection.current(), str(arguments["run"])).resume(point)
    return f"{job.id} {words.begins(job.view.step)}."


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


def _load(arguments: Arguments) -> Any:
    only = arguments["only"]
    if not arguments.get("json"):
        return checkpoints.load(str(arguments["ref"]), only=only)
    whole = checkpoints.load(str(arguments["ref"]))
    return Rich("", "", {"ref": whole.ref, "path": whole.path, "tensors": whole.names(only)})


def summary(arguments: Arguments) -> str:
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


def _backup(arguments: Arguments) -> Rich[TransferReport]:
    from resilient_nb.storage.backup import backup

    return _transfer(partial(backup, prune=bool(arguments["prune"])), arguments)


def _restore(arguments: Arguments) -> Rich[TransferReport]:
    from resilient_nb.storage.backup import restore

    return _transfer(restore, arguments)


def _transfer(transfer: Callable[..., TransferReport], arguments: Arguments) -> Rich[Any]:
    """Run it here, where the home must be: the cluster may be the very thing that is broken."""
    say, dry_run = teller(arguments), bool(arguments["dry_run"])
    report = transfer(load_settings(), arguments["place"], say, dry_run)
    return Rich(
        transfer_reports.transfer_text(report), transfer_reports.transfer_html(report), report
    )


def _verify(arguments: Arguments) -> Rich[VerifyReport]:
    report = scrub(connection.current(), arguments["ref"], teller(arguments))
    return Rich(verify_reports.verify_text(report), verify_reports.verify_html(report), report)


#: What runs each verb.
VERBS: dict[str, Callable[[Arguments], Any]] = {
    "resume": _resume,
    "rollback": _rollback,
    "checkpoints": _checkpoints,
    "diff": _diff,
    "tag": _tag,
    "fork": _fork,
    "retain": _retain,
    "load": _load,
    "export": _export,
    "import": _import,
    "backup": _backup,
    "restore": _restore,
    "verify": _verify,
}
