"""The options of the cell magic."""

from __future__ import annotations

from resilient_nb.core.model import KEEP_AUTO
from resilient_nb.notebook import values
from resilient_nb.notebook.checks import cell_makes_sense
from resilient_nb.notebook.grammar import Argument, Expects, Option, Verb

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
            "--memory", "What each worker needs (2GiB), and the most that its ranks may have.",
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
            "--deadline", "By when it must be done, from now on (2h): you are told if it can't.",
            "TIME", values.span,
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
            "--budgets", "The same of failures not of its own making: network=10,memory=1,io=3.",
            "CLASS=N,…", values.budgets, default=(),
        ),
        Option(
            "--in", "Names that it gets from what the jobs in --after return (--out): a,b.", "A,B",
            values.variables, default=(), key="inputs",
        ),
        Option(
            "--hang-after", "How long a rank may do nothing at all: auto (default), 2m or never.",
            "TIME", values.patience, default=0.0, choices=("auto", "never"),
        ),
        Option(
            "--on-nan", "At a NaN loss: skip its batch (default), lower-lr, stop or ignore.",
            "POLICY", values.one_of(*values.ON_NAN), default="skip", choices=values.ON_NAN,
        ),
        Option(
            "--spike", "A loss so many times the usual is a divergence, too (default: off).",
            "FACTOR", values.factor, default=0.0,
        ),
        Option(
            "--stop-policy", "If it no longer improves, or is hopeless: propose (default) or stop.",
            "POLICY", values.one_of(*values.STOP_POLICIES), default="propose",
            choices=values.STOP_POLICIES,
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
    cell_makes_sense,
)  # fmt: skip
