"""Options and verbs: what was typed becomes values, or a sentence that says what to type."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.hangs import NEVER
from resilient_nb.core.model import Cell, JobSpec, Keep
from resilient_nb.core.names import Reference
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.cell_options import CELL
from resilient_nb.notebook.completion import Names, complete
from resilient_nb.notebook.options import (
    CellOptions,
    Command,
    Interval,
    Workers,
    help_text,
    parse_arguments,
    parse_cell_line,
    parse_line,
)
from resilient_nb.notebook.verbs import VERBS

# -- the cell magic


def test_an_empty_line_gives_the_defaults() -> None:
    assert parse_cell_line("") == CellOptions()
    assert {f.name for f in dataclasses.fields(CellOptions)} == {
        "name",
        *(option.name for option in CELL.options),
    }


def test_all_options_of_a_cell() -> None:
    line = (
        "digits --workers 2:8 --scale-lr sqrt --memory 2GiB --cpus 0.5 --gpus 1 --priority=high "
        "--group vision --after prep,other#2 --duration 1h30m --admin --checkpoint-every 20 "
        "--deadline 1d --on-nan lower-lr --spike 2.5 --stop-policy stop "
        "--keep 5 --retries 0 --budgets network=10,memory=1 "
        "--out model,history --resume digits@best --seed 7 --wait --dry-run "
        "--replicas s3://bucket/copies,/mnt/copies --memory-copies 2 --compress zstd:3 "
        "--hang-after 2m"
    )
    assert parse_cell_line(line) == CellOptions(
        name="digits",
        workers=Workers(2, 8),
        scale_lr="sqrt",
        memory=2 << 30,
        cpus=0.5,
        gpus=1,
        priority="high",
        group="vision",
        after=("prep", "other#2"),
        duration=5400.0,
        deadline=86400.0,
        on_nan="lower-lr",
        spike=2.5,
        stop_policy="stop",
        admin=True,
        checkpoint_every=Interval(steps=20),
        keep=Keep(last=5),
        compress="zstd:3",
        replicas=("s3://bucket/copies", "/mnt/copies"),
        memory_copies=2,
        hang_after=120.0,
        retries=0,
        budgets=(("network", 10), ("memory", 1)),
        out=("model", "history"),
        resume=Reference("digits", tag="best"),
        seed=7,
        wait=True,
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("--workers 2 digits", CellOptions(name="digits", workers=Workers(2))),
        ("'digits' --detach", CellOptions(name="digits", detach=True)),
        ("new --fork digits@120", CellOptions(name="new", fork=Reference("digits", step=120))),
        ("--resume never", CellOptions(resume="never")),
        ("--resume digits", CellOptions(resume=Reference("digits"))),
        ("a --resume auto --fork b", CellOptions(name="a", fork=Reference("b"))),
        ("--out 'a, b'", CellOptions(out=("a", "b"))),
        ("--seed 4294967295 --workers 1024", CellOptions(seed=2**32 - 1, workers=Workers(1024))),
        ("--workers 3:3", CellOptions(workers=Workers(3))),
        ("b --after a,c#1", CellOptions(name="b", after=("a", "c#1"))),
        ("--after a --resume auto", CellOptions(after=("a",))),
        ("--group my.team-2", CellOptions(group="my.team-2")),
    ],
)
def test_cell_lines(line: str, options: CellOptions) -> None:
    assert parse_cell_line(line) == options


@pytest.mark.parametrize(
    ("typed", "interval", "words"),
    [
        ("20", Interval(steps=20), "20 steps"),
        ("1", Interval(steps=1), "1 step"),
        ("20s", Interval(seconds=20.0), "20s"),
        ("1.5m", Interval(seconds=90.0), "90s"),
        ("1h", Interval(seconds=3600.0), "3600s"),
        ("500ms", Interval(seconds=0.5), "0.5s"),
        ("never", Interval(), "never"),
        ("auto", Interval(auto=True), "auto (at most 1 %)"),
        (
            "auto --checkpoint-overhead 0.5%",
            Interval(auto=True, overhead=0.005),
            "auto (at most 0.5 %)",
        ),
    ],
)
def test_checkpoint_intervals(typed: str, interval: Interval, words: str) -> None:
    options = parse_cell_line(f"--checkpoint-every {typed}")
    assert isinstance(options, CellOptions)
    assert options.checkpoint_every == interval
    assert str(interval) == words


def test_how_often_to_checkpoint_is_left_to_us_unless_it_is_said() -> None:
    assert options_of("").checkpoint_every == JobSpec(Cell("pass")).interval == Interval(auto=True)


@pytest.mark.parametrize(
    ("typed", "part"),
    [("1%", 0.01), ("0.5%", 0.005), ("'1 %'", 0.01), ("0.01", 0.01), ("49.9%", 0.499)],
)
def test_checkpoint_overheads(typed: str, part: float) -> None:
    options = options_of(f"--checkpoint-overhead {typed}")
    assert options.checkpoint_overhead == pytest.approx(part)
    assert options.checkpoint_every == Interval(auto=True, overhead=options.checkpoint_overhead)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--worker 2", "unknown option --worker; did you mean --workers?"),
        ("--worker 2 digits", "unknown option --worker; did you mean --workers?"),
        ("-w 2", "unknown option -w."),
        ("--deadline soon", "--deadline takes a time such as 90m, 2h, 1h30m or 3d, not 'soon'."),
        ("--on-nan retry", "--on-nan takes skip, lower-lr, stop or ignore, not 'retry'."),
        ("--spike 1", "--spike takes a number above 1, such as 10 for ten times the usual, not"),
        ("--spike much", "--spike takes a number above 1, such as 10 for ten times the usual"),
        ("--spike 5 --on-nan ignore", "--spike 5 has losses looked at, and --on-nan ignore has"),
        ("--stop-policy kill", "--stop-policy takes propose or stop, not 'kill'."),
        ("--compress gzip", "--compress takes zstd, or zstd:1 (fast, the default) to zstd:9, not"),
        ("--compress zstd:0", "--compress takes zstd, or zstd:1"),
        ("--compress zstd:10", "--compress takes zstd, or zstd:1"),
        ("--compress zstd:", "--compress takes zstd, or zstd:1"),
        ("--compress", "--compress needs a value: --compress zstd[:LEVEL]."),
        ("--keep some", "--keep: 'some' is no rule of what to keep. Write 5, last=5,every=1000,"),
        ("--keep 0", "--keep: '0' is no rule of what to keep. Write 5, last=5,every=1000,"),
        ("--keep last=5,newest=2", "--keep: 'last=5,newest=2' is no rule of what to keep. Write 5"),
        ("--keep last=5, every=2", "--keep: 'last=5,' is no rule of what to keep. Write 5"),
        ("--keep last=none", "--keep: last takes a whole number of 1 or more, not 'none': last=5."),
        ("--keep every=0", "--keep: every takes a whole number of 1 or more, not '0': every=1000"),
        ("--keep last=1,last=2", "--keep: last is given twice in 'last=1,last=2': keep one."),
        ("--keep every=1,every=2", "--keep: every is given twice in 'every=1,every=2': keep one."),
        ("--keep best=3", "--keep: best=3: the best by what? Write best=3:loss for the least"),
        ("--keep best=3::max", "--keep: best=3::max: the best by what? Write best=3:loss for"),
        ("--keep best=x:loss", "--keep: best takes a whole number of 1 or more, not 'x': best=3:"),
        ("--keep best=1:loss,best=2:loss:max", "--keep: best names loss twice: keep one."),
        ("--keep", "--keep needs a value: --keep RULE."),
        ("--workers", "--workers needs a value: --workers N|MIN:MAX."),
        ("--workers --wait", "--workers needs a value: --workers N|MIN:MAX."),
        (
            "--workers 0",
            "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not '0'.",
        ),
        ("--workers 1025", "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not"),
        (
            "--workers ٢",
            "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not '٢'.",
        ),
        ("--workers 0:4", "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not"),
        ("--workers 2:x", "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not"),
        (
            "--workers 1:2:3",
            "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not",
        ),
        ("--workers=-1:2", "--workers takes a whole number from 1 to 1024, or two as MIN:MAX, not"),
        ("--workers :4", "--workers :4: an end is missing. Write the least and the most, such as"),
        ("--workers 4:", "--workers 4:: an end is missing. Write the least and the most, such as"),
        (
            "--workers 4:2",
            "--workers 4:2: the least, 4, is more than the most, 2. Write --workers 2:4.",
        ),
        (
            "--scale-lr linear",
            "--scale-lr linear is for gangs that grow and shrink: with --workers 1",
        ),
        ("--scale-lr sqrt --workers 4:4", "--scale-lr sqrt is for gangs that grow and shrink"),
        ("--scale-lr log --workers 1:2", "--scale-lr takes linear or sqrt, not 'log'."),
        ("--memory 2", "--memory 2: of what? Write 2MiB or 2GiB."),
        ("--memory 2B", "--memory 2B: of what? Write 2MiB or 2GiB."),
        ("--memory 2G", "--memory 2G: write 2GiB (powers of 1024) or 2GB (powers of 1000)."),
        ("--hang-after 0.5s", "--hang-after 0.5s is too short: no rank is heard of more often."),
        ("--hang-after soon", "--hang-after takes auto, never or a time such as 90m, 2h, 1h"),
        ("--memory much", "--memory takes a size such as 2GiB or 500MB, not 'much'."),
        ("--memory -2GiB", "--memory needs a value: --memory SIZE."),
        ("--memory 0GiB", "--memory 0GiB is no size of a memory; leave it out for any."),
        ("--memory 9999999TiB", "--memory 9999999TiB is no size of a memory"),
        (
            "--cpus 0",
            "--cpus takes a number of cores such as 4 or 0.5, not '0'. Leave it out for any.",
        ),
        ("--cpus many", "--cpus takes a number of cores such as 4 or 0.5, not 'many'."),
        ("--gpus 0", "--gpus takes a whole number from 1 to 1024, not '0'."),
        ("--gpus 0.5", "--gpus takes a whole number from 1 to 1024, not '0.5'."),
        (
            "--duration 2",
            "--duration takes a time such as 90m, 2h, 1h30m or 3d, not '2'. 2 of what?",
        ),
        ("--duration 0h", "--duration takes a time such as 90m, 2h, 1h30m or 3d, not '0h'."),
        ("--duration 30m1h", "--duration takes a time such as 90m, 2h, 1h30m or 3d, not '30m1h'."),
        ("--duration 900d", "--duration 900d is more than a year; leave it out if unknown."),
        ("--group ''", "'' can't be a group name. Use 1 to 64 letters, digits"),
        ("--group 'my team'", "'my team' can't be a group name. Use 1 to 64 letters, digits"),
        ("--after a,,b", "--after a,,b: a job is missing. Write jobs with commas and no spaces"),
        ("--after a,a", "--after names a twice."),
        ("--after a#x", "'a#x' is no job. A job is RUN#NUMBER, for example a#1."),
        ("--after ../a", "'../a' can't be a run name."),
        ("a --after a", "--after a: the jobs of a run follow each other anyway, so a can't wait"),
        ("a --after b,a#2", "--after a#2: the jobs of a run follow each other anyway, so a can't"),
        ("--resume a@1 --after a", "--after a: the jobs of a run follow each other anyway"),
        ("--workers 2 --workers 3", "--workers is given 2 times; keep one."),
        ("--wait --detach", "--wait and --detach exclude each other; keep one."),
        (
            "--priority hihg",
            "--priority takes low, normal, high or urgent, not 'hihg'; did you mean high?",
        ),
        (
            "--budgets gpu=3",
            "--budgets: 'gpu' is no class of failures; there are memory, network, io, starts, "
            "rollbacks, attempts.",
        ),
        ("--budgets memory", "--budgets memory: how often? Write memory=2."),
        ("--budgets io=1,io=2", "--budgets names io twice."),
        ("--retries -1", "--retries takes a whole number from 0 to 100, not '-1'."),
        ("--retries 101", "--retries takes a whole number from 0 to 100, not '101'."),
        ("--seed 4294967296", "--seed takes a whole number from 0 to 4294967295, not '429"),
        ("--checkpoint-every 0", "--checkpoint-every takes auto, steps (20), a duration (500ms,"),
        ("--checkpoint-every 0s", "--checkpoint-every takes auto, steps (20), a duration (500ms,"),
        ("--checkpoint-every 2d", "--checkpoint-every takes auto, steps (20), a duration (500ms,"),
        (
            "--checkpoint-every 20 --checkpoint-overhead 1%",
            "--checkpoint-overhead 1% bounds what an interval of auto may cost, and "
            "--checkpoint-every 20 leaves nothing to choose. Keep one of them.",
        ),
        (
            "--checkpoint-overhead 0.5% --checkpoint-every never",
            "--checkpoint-overhead 0.5% bounds what an interval of auto may cost, and "
            "--checkpoint-every never leaves",
        ),
        (
            "--checkpoint-overhead 1",
            "--checkpoint-overhead takes a part of the time, more than 0 and less than 50 %, such "
            "as 1% or 0.01, not '1'. Did you mean 1%?",
        ),
        *(
            (
                f"--checkpoint-overhead {typed}",
                "--checkpoint-overhead takes a part of the time, more than 0 and less than 50 %, "
                f"such as 1% or 0.01, not '{typed}'.",
            )
            for typed in ("0", "0%", "50%", "0.5", "1%%", "%", "nan", "1e-2", "99", "٢%")
        ),
        (
            "--checkpoint-overhead",
            "--checkpoint-overhead needs a value: --checkpoint-overhead N%.",
        ),
        ("--out a,,b", "--out a,,b: a name is missing. Write names with commas and no spaces"),
        ("--out a, b", "--out a,: a name is missing. Write names with commas and no spaces"),
        ("--out a,a", "--out names a twice."),
        ("--out class", "--out: 'class' can't be the name of a variable."),
        ("--out 2a", "--out: '2a' can't be the name of a variable."),
        ("--out run", "--out: `run` belongs to the runtime; choose another name."),
        ("a b", "%%resilient: unexpected 'b'. Usage: %%resilient [NAME] [options]"),
        ("a --out b c", "--out b c: write names with commas and no spaces, --out b,c."),
        ("a --after b c#2", "--after b c#2: write names with commas and no spaces, --after b,c#2."),
        ("/abs", "'/abs' can't be a run name."),
        ("--wait=1", "%%resilient: --wait: ignored explicit argument '1'."),
        ("a --resume a@1 --fork b", "--resume a@1 and --fork b exclude each other"),
        ("new --resume a@1", "--resume a@1 goes on with the run a, not new. Use --fork a@1 to"),
        ("a --fork a@1", "--fork a@1 begins a new run: give it another name than a."),
        ("--resume 'a b'", "'a b' can't be a run name."),
        ("'a", '"\'a" has a quote or backslash without end.'),
    ],
)
def test_what_is_wrong_with_a_cell_line_is_said(line: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_cell_line(line)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("typed", "seconds"), [("auto", 0.0), ("30s", 30.0), ("2m", 120.0), ("never", NEVER)]
)
def test_how_patient_to_be(typed: str, seconds: float) -> None:
    assert options_of(f"--hang-after {typed}").hang_after == seconds


@pytest.mark.parametrize(
    ("typed", "nbytes"),
    [
        ("2GiB", 2 << 30),
        ("500MB", 500_000_000),
        ("1.5gib", 3 << 29),
        ("1KiB", 1024),
        ("1TB", 10**12),
    ],
)
def test_sizes_of_memory(typed: str, nbytes: int) -> None:
    assert options_of(f"--memory {typed}").memory == nbytes


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("90m", 5400.0), ("2h", 7200.0), ("1h30m", 5400.0), ("3d", 259200.0), ("1.5h", 5400.0),
     ("45s", 45.0), ("1d2h3m4s", 93784.0)],
)  # fmt: skip
def test_durations(typed: str, seconds: float) -> None:
    assert options_of(f"--duration {typed}").duration == seconds


def options_of(line: str) -> CellOptions:
    options = parse_cell_line(line)
    assert isinstance(options, CellOptions)
    return options


@given(st.integers(-2, 1030), st.integers(-2, 1030))
def test_an_elastic_gang_is_what_was_typed_or_refused(least: int, most: int) -> None:
    valid = 1 <= least <= most <= 1024
    with nullcontext() if valid else pytest.raises(InvalidRequest, match="--workers"):
        workers = options_of(f"--workers={least}:{most}").workers
        assert workers == Workers(least, most if most > least else 0)
        assert options_of(f"--workers={workers}").workers == workers


# -- verbs


@pytest.mark.parametrize(
    ("line", "verb", "arguments"),
    [
        ("up", "up", {"workers": None}),
        ("up --workers 4", "up", {"workers": 4}),
        ("down", "down", {}),
        (
            "connect tcp://host:8786",
            "connect",
            {"address": "tcp://host:8786", "ca_file": None, "cert": None, "key": None},
        ),
        (
            "connect tls://h:1 --ca-file ca.pem --cert me.pem --key k.pem",
            "connect",
            {"address": "tls://h:1", "ca_file": "ca.pem", "cert": "me.pem", "key": "k.pem"},
        ),
        ("status --json", "status", {"json": True}),
        ("workers", "workers", {"json": False}),
        ("jobs --run digits", "jobs", {"run": "digits", "json": False}),
        ("show digits#2", "show", {"job": "digits#2", "json": False}),
        (
            "logs digits --rank 0 --attempt 3 --tail 50 --follow",
            "logs",
            {"job": "digits", "rank": 0, "attempt": 3, "tail": 50, "follow": True, "json": False},
        ),
        ("cancel digits", "cancel", {"job": "digits"}),
        ("queue --json", "queue", {"json": True}),
        ("restart digits", "restart", {"job": "digits", "json": False}),
        ("resume digits", "resume", {"run": "digits", "at": None}),
        ("resume digits --at 120", "resume", {"run": "digits", "at": Reference("digits", 120)}),
        (
            "resume digits --at digits@best",
            "resume",
            {"run": "digits", "at": Reference("digits", tag="best")},
        ),
        ("rollback digits@120", "rollback", {"ref": Reference("digits", 120)}),
        ("checkpoints", "checkpoints", {"ref": None, "json": False}),
        ("checkpoints digits", "checkpoints", {"ref": Reference("digits"), "json": False}),
        (
            "checkpoints digits@best",
            "checkpoints",
            {"ref": Reference("digits", tag="best"), "json": False},
        ),
        (
            "diff digits@20 b",
            "diff",
            {
                "a": Reference("digits", 20),
                "b": Reference("b"),
                "only": None,
                "tensors": 20,
                "json": False,
            },
        ),
        (
            "diff a@best b@3 --only model --tensors 5 --json",
            "diff",
            {
                "a": Reference("a", tag="best"),
                "b": Reference("b", 3),
                "only": "model",
                "tensors": 5,
                "json": True,
            },
        ),
        ("tag digits@120 best", "tag", {"ref": Reference("digits", 120), "tag": "best"}),
        ("fork digits new", "fork", {"ref": Reference("digits"), "newname": "new"}),
        (
            "load digits@best --only model",
            "load",
            {"ref": Reference("digits", tag="best"), "only": "model", "json": False},
        ),
        ("why digits#1", "why", {"job": "digits#1", "json": False}),
        (
            "export digits@best model.safetensors --only model",
            "export",
            {
                "ref": Reference("digits", tag="best"),
                "file": "model.safetensors",
                "only": "model",
                "overwrite": False,
            },
        ),
        (
            "import old.pt base --as net --only model --step 500 --allow-pickle",
            "import",
            {
                "file": "old.pt",
                "run": "base",
                "as": "net",
                "only": "model",
                "step": 500,
                "allow_pickle": True,
            },
        ),
        ("doctor", "doctor", {"json": False}),
        ("schema", "schema", {}),
    ],
)
def test_verbs(line: str, verb: str, arguments: dict[str, object]) -> None:
    assert parse_line(line) == Command(verb, arguments)
    assert parse_arguments(line.split()) == Command(verb, arguments)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("jbos", "unknown verb jbos; did you mean jobs?"),
        ("xyzzy", "unknown verb xyzzy."),
        ("export digits", "export: the following arguments are required: FILE. Usage: %resilient"),
        ("import x.pt a/b", "'a/b' can't be a run name."),
        ("import x.pt a --step -1", "--step takes a whole number from 0 to"),
        (
            "diff digits",
            "diff: the following arguments are required: B. Usage: %resilient diff A B",
        ),
        ("diff a b --tensors -1", "--tensors takes a whole number of 0 or more, not '-1'."),
        ("queue digits", "queue: unexpected 'digits'. Usage: %resilient queue [--json]"),
        ("restart", "restart: the following arguments are required: JOB|RUN. Usage: %resilient"),
        ("jobs --jsn", "unknown option --jsn; did you mean --json?"),
        ("down --json", "unknown option --json."),
        ("show", "show: the following arguments are required: JOB|RUN. Usage: %resilient show"),
        ("show digits#x", "'digits#x' is no job. A job is RUN#NUMBER"),
        ("tag digits@1", "tag: the following arguments are required: TAG. Usage: %resilient tag"),
        ("tag digits@1 12", "'12' can't be a tag: @12 means a step. Add a letter."),
        ("rollback digits", "REF digits doesn't say which checkpoint. Write digits@STEP or"),
        ("resume a --at b@1", "--at b@1 is a checkpoint of b, not of a. Use `fork b@1 NEWNAME`"),
        ("fork digits@1 digits", "A fork is a new run: give it another name than digits."),
        ("connect ''", "ADDRESS is empty."),
        ("connect tls://h:1 --key k.pem", "--key k.pem is the key of which --cert? Give both."),
        ("connect tcp://h:1 --cert me.pem", "--cert is for an encrypted address, and tcp://h:1 is"),
        ("logs digits --tail x", "--tail takes a whole number of 0 or more, not 'x'."),
        ("status now", "status: unexpected 'now'. Usage: %resilient status [--json]"),
        ("help jbos", "unknown verb jbos; did you mean jobs?"),
    ],
)
def test_what_is_wrong_with_a_verb_is_said(line: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_line(line)
    assert str(caught.value).startswith(message)


def test_the_shell_is_told_its_own_usage() -> None:
    with pytest.raises(InvalidRequest, match="Usage: resilient show"):
        parse_arguments(["show"])


# -- help


@pytest.mark.parametrize(
    ("line", "topic"),
    [
        ("", None), ("--help", None), ("-h", None), ("help", None), ("help up", "up"),
        ("up --help", "up"), ("logs --tail -h", "logs"), ("help cell", "cell"),
    ],
)  # fmt: skip
def test_help_never_ends_the_process(line: str, topic: str | None) -> None:
    assert parse_line(line) == Command("help", {"topic": topic})


def test_help_of_the_cell_magic() -> None:
    assert parse_cell_line("digits --workers 2 --help") == Command("help", {"topic": "cell"})


def test_every_verb_and_option_is_described() -> None:
    overview = help_text()
    for verb in (CELL, *VERBS.values()):
        text = help_text(verb.name)
        assert verb.summary in overview
        assert verb.summary in text
        assert all(f"  {option.flag}" in text and option.help in text for option in verb.options)
        assert all(argument.help in text for argument in verb.arguments)
        assert max(map(len, text.split("\n"))) <= 100
        assert parse_example(verb.name, verb.example)
    assert "Usage" not in overview
    assert help_text("up", "shell").startswith("resilient up [--workers N]\n")
    assert help_text("up").endswith("Example: %resilient up --workers 4")


def parse_example(name: str, example: str) -> bool:
    if name == "cell":
        return isinstance(parse_cell_line(example.removeprefix("%%resilient")), CellOptions)
    return parse_line(example).verb == name


def test_help_of_an_unknown_topic_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="unknown verb upp; did you mean up"):
        help_text("upp")


# -- laws

_WORDS = st.sampled_from(
    ["digits", "digits@120", "digits#1", "-1", "2", "20s", "a,b", "''", "'", "\\", "=", "--", "-"]
    + [
        "never",
        "#",
        "--workers=",
        "--workers=2:3",
        "--memory=2GiB",
        "--duration=1h",
        "-h",
        "tcp://h:1",
        *VERBS,
    ]
    + [option.flag for verb in (CELL, *VERBS.values()) for option in verb.options]
)
_LINES = st.lists(_WORDS | st.text(max_size=6), max_size=6).map(" ".join)


@given(_LINES)
def test_a_line_gives_a_value_or_an_invalid_request(line: str) -> None:
    for parse in (parse_cell_line, parse_line):
        with suppress(InvalidRequest):  # anything else fails the test
            assert isinstance(parse(line), (CellOptions, Command))


@given(_LINES, st.integers(0, 60))
def test_completion_takes_any_line_and_keeps_what_was_typed(line: str, cursor: int) -> None:
    for head in ("%%resilient ", "%resilient "):
        typed = (head + line)[:cursor]
        word = "" if typed[-1:].isspace() or not typed.split() else typed.split()[-1]
        assert all(found.startswith(word) for found in complete(head + line, cursor, NAMES))


# -- completion

NAMES = Names(
    runs=("digits", "moons"),
    jobs=("digits#1", "digits#2"),
    checkpoints=("digits@20", "digits@best", "moons@5"),
    variables=("model", "history", "momentum"),
)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%%resilient --wor", ["--workers"]),
        ("%%resilient --w", ["--workers", "--wait"]),
        ("%%resilient --workers 2 --w", ["--wait"]),
        ("%%resilient --wait --det", []),
        ("%%resilient --workers=2 --wo", []),
        ("%%resilient di", ["digits"]),
        ("%%resilient x --workers 2 di", []),
        ("%%resilient --priority ", ["low", "normal", "high", "urgent"]),
        ("%%resilient --priority=h", ["--priority=high"]),
        ("%%resilient --resume ", ["auto", "never", *NAMES.checkpoints, *NAMES.runs]),
        ("%%resilient --resume digits@b", ["digits@best"]),
        ("%%resilient --fork m", ["moons@5", "moons"]),
        ("%%resilient --checkpoint-every ", ["auto", "never"]),
        ("%%resilient --ch", ["--checkpoint-every", "--checkpoint-overhead"]),
        ("%%resilient --checkpoint-every auto --ch", ["--checkpoint-overhead"]),
        ("%%resilient --out mo", ["model", "momentum"]),
        ("%%resilient --out model,", ["model,history", "model,momentum"]),
        ("%%resilient --out=model,h", ["--out=model,history"]),
        ("%%resilient --workers ", []),
        ("%%resilient --group ", []),
        ("%%resilient --sc", ["--scale-lr"]),
        ("%%resilient --workers 1:2 --scale-lr ", ["linear", "sqrt"]),
        ("%%resilient x --after m", ["moons"]),
        ("%%resilient x --after digits#1,d", ["digits#1,digits#2", "digits#1,digits"]),
        ("%%resilient x --after=moons,", [f"--after=moons,{n}" for n in (*NAMES.jobs, "digits")]),
        ("%resilient q", ["query", "queue"]),
        ("%resilient why digits#", ["digits#1", "digits#2"]),
        ("%resilient restart m", ["moons"]),
        ("%resilient re", ["restart", "retry", "recap", "resume", "retain", "restore"]),
        ("%%resilient --keep a", ["auto", "all"]),
        ("%resilient retain di", ["digits"]),
        ("%resilient retain digits --keep=al", ["--keep=all"]),
        ("  %resilient st", ["status"]),
        ("%resilient show di", ["digits#1", "digits#2", "digits"]),
        ("%resilient show digits ", ["--json"]),
        ("%resilient checkpoints m", ["moons@5", "moons"]),
        ("%resilient diff digits@20 digits@b", ["digits@best"]),
        ("%resilient resume digits --at ", ["20", "best"]),
        ("%resilient jobs --run m", ["moons"]),
        ("%resilient tag digits@b", ["digits@best"]),
        ("%resilient tag digits@20 ", []),
        ("%resilient help up", ["up"]),
        ("%resilient help c", ["connect", "cancel", "checkpoints", "chaos", "cell"]),
        ("%resilient chaos digits dr", ["drop-network"]),
        ("%resilient xyzzy ", []),
        ("%resilient", []),
        ("%resilientx ", []),
        ("print(", []),
    ],
)
def test_completion(line: str, found: list[str]) -> None:
    assert complete(line, len(line), NAMES) == found


def test_options_behind_the_cursor_are_used_too() -> None:
    line = "%%resilient --w --workers 2"
    assert complete(line, len("%%resilient --w"), NAMES) == ["--wait"]


def test_an_empty_word_offers_all() -> None:
    line = "%%resilient "
    expected = [*NAMES.runs, *(option.flag for option in CELL.options)]
    assert complete(line, len(line), NAMES) == expected
    assert complete("%resilient ", 11, NAMES) == [*VERBS, "help"]
