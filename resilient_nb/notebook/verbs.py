"""Every verb and option, described once for the magics, the shell, help and completion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from resilient_nb.core.model import KEEP_AUTO, Interval
from resilient_nb.core.names import Reference
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook import values
from resilient_nb.notebook.values import Convert, Workers

Parsed = dict[str, Any]


class Expects(Enum):
    """What completion may offer for a value."""

    NOTHING = auto()
    RUN = auto()
    JOB = auto()
    JOBS = auto()
    REFERENCE = auto()
    POINT = auto()
    VARIABLES = auto()


@dataclass(frozen=True)
class Argument:
    """A value that is told by its place."""

    name: str
    metavar: str
    help: str
    convert: Convert = values.text
    required: bool = True
    expects: Expects = Expects.NOTHING


@dataclass(frozen=True)
class Option:
    """A value that is told by its flag; without a metavar it is a switch, False unless given."""

    flag: str
    help: str
    metavar: str | None = None
    convert: Convert = values.text
    default: object = None
    choices: tuple[str, ...] = ()
    expects: Expects = Expects.NOTHING

    @property
    def name(self) -> str:
        """The key under which the parsed value is found."""
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class Verb:
    """One verb. `check` sees all parsed values together; it may refuse or complete them."""

    name: str
    summary: str
    example: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    exclusive: tuple[tuple[str, str], ...] = ()
    check: Callable[[Parsed], None] | None = None

    def option(self, flag: str) -> Option | None:
        """Return the option with this flag."""
        return next((option for option in self.options if option.flag == flag), None)


def _cell_makes_sense(parsed: Parsed) -> None:
    name, resume, fork = parsed["name"], parsed["resume"], parsed["fork"]
    if isinstance(resume, Reference) and isinstance(fork, Reference):
        raise InvalidRequest(
            f"--resume {resume} and --fork {fork} exclude each other: resume goes on with a run, "
            "fork begins a new one. Keep one of them."
        )
    if isinstance(resume, Reference) and name not in (None, resume.run):
        raise InvalidRequest(
            f"--resume {resume} goes on with the run {resume.run}, not {name}. "
            f"Use --fork {resume} to begin {name} from it."
        )
    if isinstance(fork, Reference) and name == fork.run:
        raise InvalidRequest(f"--fork {fork} begins a new run: give it another name than {name}.")
    _queueing_makes_sense(parsed)
    _bound_the_overhead(parsed)


def _queueing_makes_sense(parsed: Parsed) -> None:
    workers: Workers = parsed["workers"]
    rule, after = parsed["scale_lr"], parsed["after"]
    if rule is not None and not workers.most:
        raise InvalidRequest(
            f"--scale-lr {rule} is for gangs that grow and shrink: with --workers {workers} the "
            f"batch stays. Leave it out, or write --workers {workers}:{2 * workers.least}."
        )
    run = parsed["name"] or getattr(parsed["resume"], "run", None)
    if mine := next((job for job in after if job.partition("#")[0] == run), None):
        raise InvalidRequest(
            f"--after {mine}: the jobs of a run follow each other anyway, so {run} can't wait for "
            "itself. Leave it out, or give this cell another name."
        )


def _bound_the_overhead(parsed: Parsed) -> None:
    every, most = parsed["checkpoint_every"], parsed["checkpoint_overhead"]
    if most is None:
        return
    if not every.auto:
        raise InvalidRequest(
            f"--checkpoint-overhead {100 * most:g}% bounds what an interval of auto may cost, and "
            f"--checkpoint-every {_typed(every)} leaves nothing to choose. Keep one of them."
        )
    parsed["checkpoint_every"] = replace(every, overhead=most)


def _typed(every: Interval) -> str:
    return str(every) if every.steps is None else str(every.steps)


def _certificates_fit(parsed: Parsed) -> None:
    given = [f for f in ("--ca-file", "--cert", "--key") if parsed[f[2:].replace("-", "_")]]
    address = parsed["address"]
    if given and not address.startswith(("tls://", "wss://")):
        place = address.rpartition("://")[2]
        raise InvalidRequest(
            f"{given[0]} is for an encrypted address, and {address} is none: connect to "
            f"tls://{place}, or leave it out."
        )
    if parsed["key"] and not parsed["cert"]:
        raise InvalidRequest(f"--key {parsed['key']} is the key of which --cert? Give both.")


def _point_is_of_run(parsed: Parsed) -> None:
    run, point = parsed["run"], parsed["at"]
    if not isinstance(point, Reference):
        return
    if point.run not in ("", run):
        raise InvalidRequest(
            f"--at {point} is a checkpoint of {point.run}, not of {run}. "
            f"Use `fork {point} NEWNAME` to go on from another run."
        )
    parsed["at"] = Reference(str(run), point.step, point.tag)


def _says_what_to_verify(parsed: Parsed) -> None:
    if (parsed["ref"] is None) != parsed["all"]:
        raise InvalidRequest(
            "Say what to verify: a run (verify digits), a checkpoint (verify digits@120), or all "
            "there are (verify --all)."
        )


def _fork_is_new(parsed: Parsed) -> None:
    source, name = parsed["ref"], parsed["newname"]
    if isinstance(source, Reference) and source.run == name:
        raise InvalidRequest(f"A fork is a new run: give it another name than {name}.")


_JSON = Option("--json", "Print JSON with a stable schema.")
_JOB = Argument(
    "job", "JOB|RUN", "A job (digits#2), or a run for its latest job.", values.job_or_run,
    expects=Expects.JOB,
)  # fmt: skip
_RUN = Argument("run", "RUN", "A run.", values.run_name, expects=Expects.RUN)
_REF = Argument(
    "ref", "REF", "A checkpoint: digits (head), digits@120 (step) or digits@best (tag).",
    values.reference, expects=Expects.REFERENCE,
)  # fmt: skip
_POINT = Argument(
    "ref", "REF", "A checkpoint: digits@120 (step) or digits@best (tag).",
    values.checkpoint, expects=Expects.REFERENCE,
)  # fmt: skip

_PLACE = Argument(
    "place", "URL", "A folder, or a URL such as s3://bucket/backup.", values.place,
)  # fmt: skip
_DRY = Option("--dry-run", "Copy nothing; say what there is to do.")

CELL = Verb(
    "cell",
    "Run this cell as a job that can't be lost.",
    "%%resilient digits --workers 2 --checkpoint-every 20 --out model,history",
    (
        Argument(
            "name", "NAME", "The run; the same name again goes on with it.", values.run_name,
            required=False, expects=Expects.RUN,
        ),
    ),
    (
        Option(
            "--workers", "The gang: N (default 1), all or none; or elastic, from MIN to MAX.",
            "N|MIN:MAX", values.workers, default=values.ONE,
        ),
        Option(
            "--scale-lr", "If elastic: let batch and learning rate grow with the workers.",
            "linear|sqrt", values.one_of(*values.SCALINGS), choices=values.SCALINGS,
        ),
        Option(
            "--memory", "What each worker and its ranks need (2GiB); finds it room, no limit yet.",
            "SIZE", values.memory, default=0,
        ),
        Option("--cpus", "CPU cores that each worker needs.", "N", values.cores, default=0.0),
        Option("--gpus", "GPUs that each worker needs.", "N", values.whole(1, 1024), default=0),
        Option(
            "--priority", "low, normal (default), high or urgent.", "LEVEL",
            values.one_of(*values.PRIORITIES), default="normal", choices=values.PRIORITIES,
        ),
        Option("--group", "Whose share it uses (default: your usual group's).", "G", values.group),
        Option(
            "--after", "Wait until these jobs have succeeded: prep,digits#2.", "JOB,JOB",
            values.jobs_or_runs, default=(), expects=Expects.JOBS,
        ),
        Option(
            "--duration", "How long you expect it to run (2h): a hint for the queue, no limit.",
            "TIME", values.span,
        ),
        Option("--admin", "Admin lane, for maintenance: shares and limits don't hold it back."),
        Option(
            "--checkpoint-every",
            "auto (default: by cost and failure rate), 20 (steps), 30s, 2m or never.",
            "EVERY", values.interval, default=values.AUTO, choices=("auto", "never"),
        ),
        Option(
            "--checkpoint-overhead", "With auto: the most that checkpoints may take (default 1%).",
            "N%", values.overhead,
        ),
        Option(
            "--keep", "5 (the last), last=5,every=1000,best=3:loss, all or auto (default).",
            "RULE", values.keep, default=KEEP_AUTO, choices=("auto", "all"),
        ),
        Option(
            "--replicas", "Where second copies of its checkpoints are kept: URL or folder.",
            "URL,URL", values.places, default=(),
        ),
        Option(
            "--memory-copies", "Other hosts that have its newest checkpoint in memory (0 to 2).",
            "N", values.whole(0, 2), default=0,
        ),
        Option(
            "--compress", "Compress checkpoints, a fifth or so smaller: zstd, or zstd:1 to zstd:9.",
            "zstd[:LEVEL]", values.compression, default="", choices=("zstd",),
        ),
        Option(
            "--retries", "How often a failed job is tried again (default 3).", "N",
            values.whole(0, 100), default=3,
        ),
        Option(
            "--out", "Names of the cell that come back: model,history.", "A,B",
            values.variables, default=(), expects=Expects.VARIABLES,
        ),
        Option(
            "--resume", "auto (default: from the run's head, if any), never, or a checkpoint.",
            "auto|never|REF", values.resume, default="auto", choices=("auto", "never"),
            expects=Expects.REFERENCE,
        ),
        Option(
            "--fork", "Begin a new run from this checkpoint of another.", "REF",
            values.reference, expects=Expects.REFERENCE,
        ),
        Option(
            "--seed", "Seed of all random numbers (default 0).", "N",
            values.whole(0, 2**32 - 1), default=0,
        ),
        Option("--wait", "Return when the job has ended; an interrupt only detaches."),
        Option("--detach", "Return at once, even where RESILIENT_NB_WAIT=1 is set."),
        Option("--dry-run", "Show what would be sent; submit nothing."),
    ),
    (("--wait", "--detach"),),
    _cell_makes_sense,
)  # fmt: skip

_VERBS = (
    Verb(
        "up", "Start a local cluster that outlives this kernel.", "up --workers 4",
        options=(Option(
            "--workers", "How many workers (default: what the machine has room for).", "N",
            values.whole(1, 1024),
        ),),
    ),
    Verb("down", "Stop the local cluster; checkpoints and results stay.", "down"),
    Verb(
        "connect", "Use another Dask cluster.", "connect tcp://host:8786",
        (Argument("address", "ADDRESS", "The scheduler's: tcp://host:8786 or tls://host:8786."),),
        (
            Option("--ca-file", "For tls://: whose signature the cluster must have.", "PEM"),
            Option("--cert", "For tls://: your certificate; its name is who you are.", "PEM"),
            Option("--key", "For tls://: its key, if that is a file of its own.", "PEM"),
        ),
        check=_certificates_fit,
    ),
    Verb("status", "Say what the cluster is and does.", "status", options=(_JSON,)),
    Verb("workers", "List workers, their slots and who holds them.", "workers", options=(_JSON,)),
    Verb(
        "jobs", "List jobs, the newest first.", "jobs --run digits",
        options=(
            Option("--run", "Only this run's.", "R", values.run_name, expects=Expects.RUN), _JSON,
        ),
    ),
    Verb(
        "queue", "Show who runs, who waits, for what, and everybody's share.", "queue",
        options=(_JSON,),
    ),
    Verb("show", "Show one job: attempts, ranks, metrics.", "show digits#1", (_JOB,), (_JSON,)),
    Verb("panel", "Show a job's panel with buttons (notebook only).", "panel digits", (_JOB,)),
    Verb(
        "logs", "Print what the ranks printed.", "logs digits --rank 0 --tail 50", (_JOB,),
        (
            Option("--rank", "Only this rank's.", "N", values.whole(0)),
            Option("--attempt", "An earlier attempt's, by its epoch.", "EPOCH", values.whole(0)),
            Option("--tail", "Only the last N lines.", "N", values.whole(0)),
            Option("--follow", "Go on printing until the job ends."),
            _JSON,
        ),
    ),
    Verb("cancel", "Stop a job; its checkpoints stay.", "cancel digits", (_JOB,)),
    Verb(
        "restart", "End a stuck job's ranks at once; it goes on from its last checkpoint.",
        "restart digits", (_JOB,), (_JSON,),
    ),
    Verb(
        "resume", "Go on with a run from its head.", "resume digits --at best", (_RUN,),
        (Option(
            "--at", "From this step or tag instead.", "STEP|TAG", values.point,
            expects=Expects.POINT,
        ),),
        check=_point_is_of_run,
    ),
    Verb("rollback", "Move a run's head back; deletes nothing.", "rollback digits@120", (_POINT,)),
    Verb(
        "checkpoints", "Show checkpoints as a tree of forks and rollbacks, or what one records.",
        "checkpoints digits@best",
        (Argument(
            "ref", "RUN|REF", "Only this run's; or one checkpoint: digits@120, digits@best.",
            values.reference, False, Expects.REFERENCE,
        ),),
        (_JSON,),
    ),
    Verb(
        "diff", "Show what differs between two checkpoints: tensors, metrics, code, config.",
        "diff digits@20 digits@best --only model",
        (replace(_REF, name="a", metavar="A"), replace(_REF, name="b", metavar="B")),
        (
            Option("--only", "Only this part: model, optimizer, …", "PART"),
            Option(
                "--tensors", "How many are shown, the largest change first (default 20).", "N",
                values.whole(0), default=20,
            ),
            _JSON,
        ),
    ),
    Verb(
        "tag", "Give a checkpoint a name.", "tag digits@120 best",
        (_REF, Argument("tag", "TAG", "The name.", values.tag_name)),
    ),
    Verb(
        "fork", "Begin a new run from a checkpoint.", "fork digits@best digits-lr",
        (_REF, Argument("newname", "NEWNAME", "The new run's name.", values.run_name)),
        check=_fork_is_new,
    ),
    Verb(
        "retain", "Drop the checkpoints of a run that a rule doesn't keep, or say which.",
        "retain digits --keep last=5,best=3:loss --dry-run", (_RUN,),
        (
            Option(
                "--keep", "5 (the last), last=5,every=1000,best=3:loss; all (default: the run's).",
                "RULE", values.keep, choices=("auto", "all"),
            ),
            Option("--dry-run", "Drop nothing; show what would be dropped, and why the rest not."),
            _JSON,
        ),
    ),
    Verb(
        "backup", "Copy checkpoints and journal to another place; only what is new, and whole.",
        "backup s3://bucket/backup", (_PLACE,),
        (_DRY, Option("--prune", "Remove from it what has been dropped since."), _JSON),
        exclusive=(("--dry-run", "--prune"),),
    ),
    Verb(
        "restore", "Bring back what was lost from a backup (or a replica).",
        "restore s3://bucket/backup", (_PLACE,), (_DRY, _JSON),
    ),
    Verb(
        "verify", "Read all of some checkpoints and say what is damaged; non-zero exit if any is.",
        "verify digits",
        (Argument(
            "ref", "RUN|REF", "All checkpoints of a run, or one: digits@120, digits@best.",
            values.reference, False, Expects.REFERENCE,
        ),),
        (Option("--all", "Those of all runs."), _JSON),
        check=_says_what_to_verify,
    ),
    Verb(
        "load", "Load a checkpoint's tensors (the shell prints a summary).",
        "load digits@best --only model", (_REF,),
        (Option("--only", "Only this part: model, optimizer, …", "PART"), _JSON),
    ),
    Verb(
        "export", "Write a checkpoint to a file for other programs: .safetensors or .pt.",
        "export digits@best model.safetensors --only model",
        (_REF, Argument("file", "FILE", "Its name says the format: x.safetensors or x.pt.")),
        (
            Option("--only", "Only this part: model, optimizer, …", "PART"),
            Option("--overwrite", "Replace the file if there is one."),
        ),
    ),
    Verb(
        "import", "Begin a new run with a checkpoint that another program saved.",
        "import model.safetensors pretrained --as model",
        (
            Argument("file", "FILE", "A .safetensors or .pt file, or a folder of torch's DCP."),
            Argument("run", "RUN", "The new run's name.", values.run_name),
        ),
        (
            Option("--as", "What cells track it as (default: as the file says, or model).", "NAME"),
            Option("--only", "Only this entry of the file.", "PART"),
            Option("--step", "How many steps it counts as (default 0).", "N",
                   values.whole(0, 10**12), default=0),
            Option(
                "--allow-pickle",
                "Read .pt files and DCP folders, which are pickles; only plain values are read.",
            ),
        ),
    ),
    Verb(
        "why", "Say why a job waits or failed, and what would start it.", "why digits", (_JOB,),
        (_JSON,),
    ),
    Verb("doctor", "Check the installation and the cluster.", "doctor", options=(_JSON,)),
    Verb("schema", "Print the JSON Schema of what --json prints.", "schema"),
)  # fmt: skip

VERBS = {verb.name: verb for verb in _VERBS}

NOT_YET_OPTIONS = frozenset({"--in", "--deadline"})
