"""Every verb and its options."""

from __future__ import annotations

from dataclasses import replace

from resilient_nb.notebook import values
from resilient_nb.notebook.checks import (
    certificates_fit,
    chaos_fits,
    fork_is_new,
    point_is_of_run,
    says_what_to_verify,
    says_which_is_dead,
)
from resilient_nb.notebook.grammar import Argument, Expects, Option, Verb

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

_OVERRIDES = (
    Option("--anyway", "Also if it would fail again by all that is known."),
    Option(
        "--memory", "What each worker gets from now on (4GiB).", "SIZE", values.memory, default=0,
    ),
    Option(
        "--on-nan", "How it goes on if its numbers diverge: skip, lower-lr, stop or ignore.",
        "POLICY", values.one_of(*values.ON_NAN), choices=values.ON_NAN,
    ),
)  # fmt: skip

_PLACE = Argument(
    "place", "URL", "A folder, or a URL such as s3://bucket/backup.", values.place,
)  # fmt: skip
_DRY = Option("--dry-run", "Copy nothing; say what there is to do.")

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
        check=certificates_fit,
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
        "query", "Find jobs, and show them in numbers.",
        'query --state failed --since 2d --metric "loss<0.3"',
        options=(
            Option("--run", "Only this run's.", "R", values.run_name, expects=Expects.RUN),
            Option("--user", "Only this user's.", "NAME"),
            Option("--state", "In one of these states: failed,cancelled.", "S,S", values.states),
            Option(
                "--metric", "What newest values are: loss<0.3,accuracy>=0.9 (quote it in a shell).",
                "COND,COND", values.conditions,
            ),
            Option("--tag", "One of its checkpoints has this tag.", "TAG", values.tag_name),
            Option("--cause", "An attempt failed for a cause with these words.", "TEXT"),
            Option("--data", "It went through data of this name or fingerprint.", "TEXT"),
            Option("--since", "It waited or ran after: 2d (ago), a date.", "WHEN", values.when),
            Option("--until", "It waited or ran before this.", "WHEN", values.when),
            Option(
                "--limit", "No more than so many, the newest (default 100).", "N",
                values.whole(1), default=100,
            ),
            _JSON,
        ),
    ),
    Verb(
        "facts", "Show what a job's ranks did: where their time went, memory, bytes.",
        "facts digits#1 --rank 0", (_JOB,),
        (
            Option("--rank", "Only this rank's.", "N", values.whole(0)),
            Option(
                "--rows", "Rows of each rank (default 12; with --json 500): time is merged.", "N",
                values.whole(1),
            ),
            _JSON,
        ),
    ),
    Verb(
        "queue", "Show who runs, who waits, for what, and everybody's share.", "queue",
        options=(_JSON,),
    ),
    Verb(
        "alerts", "Show what fires now, what is over, and how people are told.", "alerts",
        options=(
            Option("--test", "Send a test by each channel of the policy file (administrators)."),
            _JSON,
        ),
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
        "retry", "Run a failed job again with new budgets, or one that pauses at once.",
        "retry digits --memory 4GiB", (_JOB,), (*_OVERRIDES, _JSON),
    ),
    Verb(
        "dead", "List jobs that were given up for a spent budget, with the evidence.",
        "dead", (replace(_JOB, required=False),),
        (Option("--requeue", "Retry this one."), _JSON), check=says_which_is_dead,
    ),
    Verb(
        "recap", "Say what happened in the last hours, why, what was done, and what it cost.",
        "recap --since 12h",
        options=(
            Option(
                "--since", "How far back (default 12h).", "TIME", values.span, default=43200.0,
            ),
            Option("--user", "Another user's jobs (default: yours).", "NAME"),
            Option("--all", "Everybody's jobs."),
            _JSON,
        ),
        exclusive=(("--user", "--all"),),
    ),
    Verb(
        "resume", "Go on with a run from its head.", "resume digits --at best", (_RUN,),
        (Option(
            "--at", "From this step or tag instead.", "STEP|TAG", values.point,
            expects=Expects.POINT,
        ),),
        check=point_is_of_run,
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
        check=fork_is_new,
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
        check=says_what_to_verify,
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
    Verb(
        "chaos", "Break something of your own running job on purpose; see what it makes of it.",
        "chaos digits random --seed 7 --every 30s --for 5m",
        (
            _JOB,
            Argument(
                "what", "WHAT", "kill-rank, stop, hang, … (Tab lists all), random, or just report.",
                values.one_of(*values.CHAOS), expects=Expects.CHAOS,
            ),
        ),
        (
            Option("--rank", "Whose (default 0).", "N", values.whole(0)),
            Option(
                "--for", "How long it lasts (mostly 10s), or how long random goes on (5m).",
                "TIME", values.span,
            ),
            Option("--seed", "Of random: the same gives the same again (default 0).", "N",
                   values.whole(0, 2**63)),
            Option("--every", "Of random: the mean time between two (default 30s).", "TIME",
                   values.span),
            Option(
                "--compare", "A run that was left alone: are the numbers the same?", "RUN",
                values.run_name, expects=Expects.RUN,
            ),
            _JSON,
        ),
        check=chaos_fits,
    ),
    Verb("doctor", "Check the installation and the cluster.", "doctor", options=(_JSON,)),
    Verb("schema", "Print the JSON Schema of what --json prints.", "schema"),
)  # fmt: skip

VERBS = {verb.name: verb for verb in _VERBS}
