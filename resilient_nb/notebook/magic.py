"""`%%resilient` and `%resilient`: thin, the work is elsewhere."""

from __future__ import annotations

import hashlib
import traceback
import uuid
from dataclasses import replace
from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from resilient_nb import connection
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import Settings, load_settings
from resilient_nb.core.model import (
    Cell,
    JobSpec,
    OnNan,
    Priority,
    Resources,
    Scaling,
    StopPolicy,
)
from resilient_nb.detached import Detached
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, ResilientError
from resilient_nb.handles import Job, Run
from resilient_nb.notebook.capture import (
    Capture,
    CellNames,
    analyse,
    capture,
    dry_run_text,
    explain_missing,
)
from resilient_nb.notebook.completion import Names, complete
from resilient_nb.notebook.display import LivePanel
from resilient_nb.notebook.execute import execute
from resilient_nb.notebook.options import (
    CellOptions,
    Command,
    help_text,
    parse_cell_line,
    parse_line,
)
from resilient_nb.notebook.pending import Pending
from resilient_nb.notebook.spans import traced
from resilient_nb.notebook.whence import cell_id, notebook_path
from resilient_nb.storage.encryption import CAPTURED, encrypt_file
from resilient_nb.wire.requests import Submit, Submitted


def register(shell: Any) -> None:
    """Add the magics, completion, and waiting for pending names to an IPython shell."""
    magics = ResilientMagics(shell)
    shell.register_magics(magics)
    shell.ast_transformers.append(magics.pending)

    # Plain functions: IPython can't call bound methods as completer hooks.
    def complete_line(_: Any, event: Any) -> list[str]:
        return magics.complete(event.line, len(event.text_until_cursor))

    for key in ("%%resilient", "%resilient"):
        shell.set_hook("complete_command", complete_line, str_key=key)


@magics_class
class ResilientMagics(Magics):
    """The magics of one shell."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shell: Any = shell
        self.pending = Pending(shell.user_ns)

    @line_magic
    def resilient(self, line: str) -> Any:
        """Run a verb: `%resilient help` lists them."""
        command = parse_line(line)
        shown = execute(command, self._shell)
        if command.verb == "resume":
            self._follow(Run(connection.current(), str(command.arguments["run"])).jobs[0])
        return shown

    @cell_magic("resilient")  # type: ignore[arg-type]
    def submit(self, line: str, cell: str) -> None:
        """Run the cell as a job that can't be lost: `%%resilient --help`."""
        options = parse_cell_line(line)
        if isinstance(options, Command):
            topic = options.arguments.get("topic")
            print(help_text(str(topic) if topic else None))
            return
        # `execution_count` already counts the next cell; `In` ends with this one.
        label = f"Cell In[{len(self._shell.user_ns['In']) - 1}]"
        # The magic's own line stays as an empty one: line numbers are the notebook's.
        source = "\n" + self._shell.transform_cell(cell)
        if not source.strip():
            raise InvalidRequest("The cell is empty: write what is to run below the magic's line.")
        names = _analyse(source, label).given(options.inputs)
        self.pending.resolve(names, options.name)
        captured = capture(names, self._shell.user_ns, options.out, measure=options.dry_run)
        if captured.missing:
            raise InvalidRequest(explain_missing(names, captured.missing, self._shell.user_ns))
        if options.dry_run:
            print(dry_run_text(options, captured, source))
            return
        settings = load_settings()
        client = current_or_new(settings)
        spec, payload = job_spec(options, captured, source, label, settings)
        place = replace(spec.cell, notebook=notebook_path(), cell_id=cell_id(self._shell))
        self._run(client, settings, options, (replace(spec, cell=place), payload))

    def _run(self, client: Client, settings: Settings, options: CellOptions, made: Any) -> None:
        spec, payload = made
        fork = str(options.fork) if options.fork is not None else None

        def submit(spec: JobSpec) -> Submitted:
            if payload:
                client.put(payload)
            return client.submit(
                Submit(options.name, spec, uuid.uuid4().hex, str(options.resume), fork)
            )

        submitted = traced(spec, submit)
        if submitted.message:
            print(f"{submitted.job}: {submitted.message}")
        job = Job(client, submitted.job)
        panel = self._follow(job, options.out)
        if options.wait or (settings.wait and not options.detach):
            self._wait(job, panel)

    def _follow(self, job: Job, out: tuple[str, ...] | None = None) -> LivePanel:
        """Make a job the notebook's `job`, expect its names, and show its panel here."""
        self._shell.user_ns["job"] = job
        self.pending.add(job, job.view.out if out is None else out)
        return live_panel(job).start()

    def _wait(self, job: Job, panel: LivePanel) -> None:
        try:
            job.wait()
        except Detached as detached:
            print(detached)
            return
        panel.join(5.0)
        job.result()

    def complete(self, line: str, cursor: int) -> list[str]:
        """Return completions; without a cluster, those that need none."""
        runs: tuple[str, ...] = ()
        jobs: tuple[str, ...] = ()
        refs: tuple[str, ...] = ()
        try:
            views = connection.current().runs()
            runs = tuple(view.name for view in views)
            jobs = tuple(job for view in views for job in view.jobs)
            refs = tuple(c.ref for view in views for c in view.checkpoints)
            refs += tuple(f"{view.name}@{tag}" for view in views for tag in view.tags)
        except ResilientError:
            pass  # options and verbs are completed all the same
        variables = tuple(n for n in self._shell.user_ns if not n.startswith("_"))
        return complete(line, cursor, Names(runs, jobs, refs, variables))


def live_panel(job: Job) -> LivePanel:
    """Return a panel for a job, not yet started."""
    return LivePanel(job.watch, job.id, cluster_id=job.cluster_id, tail=job.tail)


def current_or_new(settings: Settings) -> Client:
    """Return the cluster in use; with none, start the embedded default and say so."""
    try:
        return connection.current(settings)
    except ClusterUnreachable:
        print("No cluster is up: %resilient up starts one, and so does this cell.")
        embedded.up(settings, None, print)
        return connection.current(settings)


def _analyse(source: str, label: str) -> CellNames:
    try:
        return analyse(source, label)
    except SyntaxError as error:
        # As Python would print it, without our frames around it.
        text = "".join(traceback.format_exception_only(error))
        raise InvalidRequest(f"the cell doesn't compile.\n{text}") from None


def job_spec(
    options: CellOptions, captured: Capture, source: str, label: str, settings: Settings
) -> tuple[JobSpec, bytes]:
    """Return what to submit, and the payload to send before it (empty if there is none)."""
    payload = encrypt_file(captured.payload, CAPTURED) if captured.entries else b""
    spec = JobSpec(
        cell=Cell(source, label, label, dict(captured.sources)),
        workers=options.workers.least,
        max_workers=options.workers.most,
        scaling=Scaling(options.scale_lr) if options.scale_lr else Scaling.NONE,
        needs=Resources(options.cpus, options.memory, options.gpus),
        priority=Priority(options.priority),
        interval=options.checkpoint_every,
        keep=options.keep,
        compress=options.compress,
        replicas=options.replicas,
        memory_copies=options.memory_copies,
        retries=options.retries,
        budgets=dict(options.budgets),
        hang_after=options.hang_after,
        seed=options.seed,
        out=options.out,
        captured=hashlib.sha256(payload).hexdigest() if payload else None,
        captured_names=tuple(entry.name for entry in captured.entries),
        user=settings.user,
        group=options.group or "",
        admin=options.admin,
        after=options.after,
        inputs=options.inputs,
        duration=options.duration,
        deadline=options.deadline,
        on_nan=OnNan(options.on_nan),
        spike=options.spike,
        stop_policy=StopPolicy(options.stop_policy),
    )
    return spec, payload
