"""What a job's panel and the reports show, in HTML and in plain text."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resilient_nb.core.model import Cadence, Failure, Frame, JobState, RemoteError
from resilient_nb.core.views import (
    CheckpointView,
    ClusterView,
    HostView,
    JobView,
    LiveRank,
    RunView,
)
from resilient_nb.notebook import words
from resilient_nb.notebook.chart import chart, sparkline, ticks
from resilient_nb.notebook.lineage import lineage
from resilient_nb.notebook.panel import (
    Rich,
    checkpoints_html,
    checkpoints_text,
    cluster_html,
    cluster_text,
    jobs_html,
    jobs_text,
    line_text,
    panel_html,
    panel_text,
    run_html,
    run_text,
    traceback_text,
)
from resilient_nb.notebook.words import WIDTH, Moment

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
MOMENT = Moment(NOW, UTC)


def a_checkpoint(step: int, epoch: int = 1, **changes: object) -> CheckpointView:
    base = CheckpointView(
        ref=f"digits@{step}",
        run="digits",
        step=step,
        at=NOW - 600 + step,
        nbytes=1_534_000_000,
        digest=f"{step:02d}ab34cd56ef{step:04d}" * 4,
        parent=f"digits/{step - 20:08d}-e{epoch}" if step > 20 else None,
        id=f"digits/{step:08d}-e{epoch}",
        path=f"/store/runs/digits/{step:08d}-e{epoch}",
        metrics={"loss": 2.3 / (step + 1)},
        job="digits#1",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def a_rank(rank: int, **changes: object) -> LiveRank:
    base = LiveRank(rank, "running", "node-1", 4100 + rank, 142, 400, 12.4, 913_000_000, 0.97, NOW)
    return replace(base, **changes)  # type: ignore[arg-type]


def a_job(**changes: object) -> JobView:
    loss = tuple((s, 2.3 * math.exp(-s / 60) + 0.1 * math.sin(s) ** 2) for s in range(1, 143))
    base = JobView(
        id="digits#1",
        run="digits",
        state=JobState.RUNNING,
        reason="",
        priority="normal",
        workers=2,
        user="ann",
        submitted_at=NOW - 73,
        started_at=NOW - 62,
        ended_at=None,
        attempts=1,
        epoch=1,
        step=142,
        total_steps=400,
        rate=12.4,
        eta_s=20.8,
        out=("model", "history"),
        returned=(),
        ranks=(a_rank(0), a_rank(1, rate=12.3, cpu=0.94)),
        metrics={"loss": loss[-1][1]},
        series={"accuracy": tuple((s, 1 - v / 2.6) for s, v in loss), "loss": loss},
        checkpoints=tuple(a_checkpoint(s, is_head=s == 140) for s in range(20, 141, 20)),
        failures=(),
        notes=("Tracked: model (Module), optimizer (AdamW).",),
        label="In [5]",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def a_failure(**changes: object) -> Failure:
    base = Failure(
        cause="killed from outside",
        message="rank 1 on node-1 was killed by SIGKILL at step 57.",
        decision="retry",
        reason="Not the job's fault: it goes on at once.",
        at=NOW - 40,
        epoch=1,
        rank=1,
        step=57,
        resumes_from=40,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


AN_ERROR = RemoteError(
    "ValueError",
    "mat1 and mat2 shapes cannot be multiplied (64x784 and 768x10)",
    (
        Frame("/tmp/ipykernel_7/123.py", 12, "<module>", "loss = loss_fn(model(x), y)"),
        Frame("/lib/torch/nn/modules/module.py", 1751, "_call_impl", "return forward_call(*args)"),
        Frame("/tmp/ipykernel_7/123.py", 7, "forward", "return self.out(x.flatten(1))"),
        Frame("/lib/torch/nn/modules/linear.py", 125, "forward", "return F.linear(input, self.w)"),
    ),
)


def a_failed_job() -> JobView:
    fatal = a_failure(
        cause="error in the cell",
        message=f"ValueError: {AN_ERROR.message} (rank 0, step 143)",
        decision="stop",
        reason="ValueError would happen again: not retried.",
        at=NOW - 3,
        rank=0,
        step=143,
        resumes_from=140,
        error=AN_ERROR,
    )
    return a_job(
        state=JobState.FAILED, ended_at=NOW - 3, attempts=2, reason=fatal.message, rate=0.0,
        eta_s=None, failures=(a_failure(), fatal),
        ranks=(a_rank(0, state="failed", rate=0.0, cpu=0.0),
               a_rank(1, state="exited", rate=0.0, cpu=0.0)),
    )  # fmt: skip


class Elements(HTMLParser):
    """Collects the elements, attributes and text of a panel."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.said = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.said += data


ALLOWED_TAGS = {
    *("style", "div", "span", "b", "p", "pre", "details", "summary", "ul", "li", "progress"),
    *("figure", "figcaption", "svg", "line", "text", "polyline", "circle"),
    *("table", "thead", "tbody", "tr", "th", "td", "code"),
}
EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b onclick=x>\x1b[2J\x1b]0;t\x07&amp;"
)


def an_evil_job(evil: str) -> JobView:
    error = RemoteError(evil, evil, (Frame(evil, 1, evil, evil),))
    failure = a_failure(cause=evil, message=evil, decision=evil, reason=evil, error=error)
    return a_job(
        id=evil, run=evil, state=JobState.FAILED, reason=evil, priority=evil, user=evil,
        label=evil, group=evil, after=(evil,), out=(evil,),
        returned=(evil,), notes=(evil,), metrics={evil: 1.0},
        series={evil: ((1, 1.0), (2, 2.0)), "b" + evil: ((1, 1.0),), "c": ((1, 1.0),),
                "d" + evil: ((1, 1.0),)},
        ranks=(a_rank(0, state=evil, host=evil),),
        checkpoints=(a_checkpoint(20, ref=evil, run=evil, digest=evil, tags=(evil,)),),
        failures=(failure, failure),
    )  # fmt: skip


def assert_inert(html: str) -> None:
    page = Elements(html)
    assert set(page.tags) <= ALLOWED_TAGS
    assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
    assert "\x1b" not in html


def assert_plain(text: str) -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert max(map(len, text.split("\n"))) <= WIDTH


def all_reports(evil: str) -> list[tuple[str, str]]:
    job, run = an_evil_job(evil), a_run(evil)
    cluster = ClusterView(evil, evil, evil, evil, 4, 1, 8, (HostView(evil, 4, 1, (evil,), True),),
                          (evil,), (evil,))  # fmt: skip
    at = {"moment": MOMENT}
    return [
        (panel_html(job, evil, notice=evil, **at), panel_text(job, evil, notice=evil, **at)),
        (jobs_html([job], **at), jobs_text([job], **at)),
        (checkpoints_html(run, **at), checkpoints_text(run, **at)),
        (run_html(run, **at), run_text(run, **at)),
        (cluster_html(cluster), cluster_text(cluster)),
    ]


def a_run(name: str = "digits", **changes: object) -> RunView:
    """Two attempts: the first got to 100 (and once more to 80), the second is the head."""
    checkpoints = (
        *(a_checkpoint(step) for step in (20, 40, 60, 80)),
        a_checkpoint(100, parent="digits/00000060-e1", at=NOW - 450),
        a_checkpoint(60, 2, parent="digits/00000040-e1", at=NOW - 440),
        a_checkpoint(80, 2, at=NOW - 430, is_head=True, tags=("best",), metrics={name: 0.1}),
    )
    base = RunView(name, NOW - 9000, "digits/00000080-e2", "mnist/00000400-e1",
                   {name: "digits/00000080-e2"}, checkpoints, (f"{name}#1", f"{name}#2"),
                   f"{name}#2")  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_running_job_shows_state_progress_ranks_metrics_and_checkpoints() -> None:
    text = panel_text(a_job(), "epoch 1 done\n", moment=MOMENT)
    page = Elements(panel_html(a_job(), "epoch 1 done\n", moment=MOMENT)).said
    for said in (text, page):
        for part in (
            "► running", "digits#1", "In [5]", "normal priority", "2 workers", "by ann",
            "submitted 14:12:07", "run time 1 min 02 s", "step 142 of 400 (35 %)",
            "12.4 steps/s", "21 s left", "12.3 steps/s", "871 MiB", "0.97", "node-1",
            "loss", "0.2503", "accuracy", "digits@140", "◀ head", "1.43 GiB", "14:05:40",
            "140ab34cd5", "Tracked: model (Module)", "epoch 1 done",
        ):  # fmt: skip
            assert part in said


@pytest.mark.parametrize(
    ("cadence", "said"),
    [
        (
            Cadence(108.2, 0.18, 32400.0, 0.01),
            "checkpoints every 1 min 48 s (auto: costs 0.18 s, failure expected every 9 h, "
            "at most 1 %)",
        ),
        (
            Cadence(5.0, 0.004, 259200.0, 0.005),
            "checkpoints every 5.0 s (auto: costs 4 ms, failure expected every 3 days, "
            "at most 0.5 %)",
        ),
        (
            Cadence(42.0, 2.1, 3600.0, 0.05),
            "checkpoints every 42 s (auto: costs 2.1 s, failure expected every 60 min, "
            "at most 5 %)",
        ),
    ],
)
def test_how_often_checkpoints_are_taken_is_said_with_its_reason(
    cadence: Cadence, said: str
) -> None:
    text = panel_text(a_job(cadence=cadence), moment=MOMENT)
    assert said in " ".join(text.split())
    assert said in Elements(panel_html(a_job(cadence=cadence), moment=MOMENT)).said
    assert "checkpoints every" not in panel_text(a_job(), moment=MOMENT)


def test_loss_is_drawn_before_other_metrics_and_a_fourth_is_only_named() -> None:
    points = ((1, 1.0), (2, 2.0))
    job = a_job(series={"a": points, "b": points, "c": points, "val_loss": points})
    html = panel_html(job, moment=MOMENT)
    assert html.count("<svg") == 3
    assert html.index("val_loss") < html.index(">a<")
    assert "c 2" in Elements(html).said


def test_progress_without_a_total_is_a_step_count_and_no_bar() -> None:
    html = panel_html(a_job(total_steps=None, eta_s=None), moment=MOMENT)
    assert "<progress" not in html
    assert "step 142 · 12.4 steps/s" in html
    assert "left" not in Elements(html).said.split("Ranks")[0].split("steps/s")[1]


def test_progress_never_says_all_done_too_early() -> None:
    assert "(99 %)" in panel_text(a_job(step=9_999, total_steps=10_000), moment=MOMENT)
    assert "(100 %)" in panel_text(a_job(step=410, total_steps=400), moment=MOMENT)
    assert "step 0 of 0 (100 %)" in panel_text(a_job(step=0, total_steps=0), moment=MOMENT)


def test_a_queued_job_says_why_it_waits() -> None:
    job = a_job(state=JobState.QUEUED, started_at=None, attempts=0, step=0, ranks=(),
                reason="digits#1 needs 4 slots; 3 of 8 are free.")  # fmt: skip
    text = panel_text(job, moment=MOMENT)
    assert "○ queued" in text
    assert "Waiting: digits#1 needs 4 slots; 3 of 8 are free." in text
    assert "(%resilient why digits#1 says more.)" in " ".join(text.split())
    assert "waiting 1 min 13 s" in text
    assert "step 0" not in text


def test_an_expected_start_says_if_it_is_a_guess() -> None:
    waits = a_job(state=JobState.QUEUED, starts_at=NOW + 600)
    known = " ".join(panel_text(waits, moment=MOMENT).split())
    assert "Expected to start: 14:23, in about 10 min. (%resilient" in known
    guessed = panel_html(replace(waits, starts_guess="llm#4"), moment=MOMENT)
    assert "in about 10 min (a guess: nobody knows how long llm#4 takes)." in guessed


def test_a_job_shows_its_group_what_it_waits_for_and_the_admin_lane() -> None:
    text = panel_text(
        a_job(state=JobState.QUEUED, group="vision", admin=True, after=("prep#1", "data#2")),
        moment=MOMENT,
    )
    for part in ("2 workers · admin lane", "group vision", "after prep#1, data#2"):
        assert part in text
    for none in ("", "everyone"):
        assert "group" not in panel_text(a_job(group=none), moment=MOMENT)


def test_gpus_are_shown_where_there_are_any() -> None:
    assert "GPU" not in panel_text(a_job(ranks=(a_rank(0), a_rank(1))), moment=MOMENT)
    told = replace(a_rank(0), gpu=0.29, gpu_memory=3 << 30)
    quiet = replace(a_rank(1), gpu_memory=5 << 30)  # of a part of a GPU, say
    ranks = (told, quiet, a_rank(2))
    text = panel_text(a_job(ranks=ranks), moment=MOMENT)
    assert "GPU" in text
    assert "29 % 3.00 GiB" in text
    assert "5.00 GiB" in text


def test_an_elastic_gang_shows_workers_held_and_ranks() -> None:
    ranks = tuple(map(a_rank, range(8)))
    running = panel_text(a_job(max_workers=8, held=3, ranks=ranks), moment=MOMENT)
    assert "3 of 2:8 workers · 8 ranks" in running
    whole = panel_text(a_job(max_workers=8, held=8, ranks=ranks), moment=MOMENT)
    assert "8 of 2:8 workers" in whole
    assert "8 ranks" not in whole
    waiting = a_job(max_workers=8, state=JobState.QUEUED)
    assert "· 2:8 workers" in panel_text(waiting, moment=MOMENT)
    assert " 2:8 " in jobs_text([waiting], moment=MOMENT)


def test_a_recovered_failure_says_what_happened_and_what_was_done() -> None:
    text = panel_text(a_job(attempts=2, failures=(a_failure(),)), moment=MOMENT)
    assert "attempt 2" in text
    assert "↻ retried: killed from outside · rank 1 · step 57 · 14:12:40" in text
    assert "rank 1 on node-1 was killed by SIGKILL at step 57." in text
    assert "Decision: retry. Not the job's fault: it goes on at once. Resumed from step 40." in text


def test_a_failed_job_shows_the_cells_own_lines_and_the_way_out() -> None:
    text = panel_text(a_failed_job(), moment=MOMENT)
    assert "✗ failed: error in the cell · rank 0 · step 143" in text
    assert "In [5], line 12\n      --> loss = loss_fn(model(x), y)" in text
    assert 'File "/lib/torch/nn/modules/module.py", line 1751, in _call_impl' in text
    assert "ValueError: mat1 and mat2 shapes cannot be multiplied (64x784 and 768x10)" in text
    assert (
        "To go on: correct the cell and run it again, or %resilient retry digits --anyway." in text
    )
    assert "ipykernel" not in text


def test_like_failures_in_a_row_are_told_once() -> None:
    same = [a_failure(message=f"The process {pid} was killed.") for pid in (7, 8, 9)]
    other = a_failure(cause="out of memory", message="It needed more.")
    text = panel_text(a_job(failures=(*same, other, same[0])), moment=MOMENT)
    assert text.count("3 times in a row") == 1
    assert "The process 9 was killed." in text
    assert "The process 8" not in text
    assert text.count("The process 7 was killed.") == 1
    assert "not shown" not in text


def test_a_traceback_of_a_recovered_failure_is_folded_and_the_fatal_one_open() -> None:
    recovered = a_failure(error=AN_ERROR)
    job = replace(a_failed_job(), failures=(recovered, a_failed_job().failures[-1]))
    html = panel_html(job, moment=MOMENT)
    assert html.count("<details>") == 1
    assert html.count("<pre>Traceback of the job") == 2


def test_a_deep_traceback_keeps_its_ends() -> None:
    frames = tuple(Frame("f.py", n, f"f{n}", "again()") for n in range(200))
    text = traceback_text(RemoteError("RecursionError", "too deep", frames), "In [1]")
    assert "in f0" in text
    assert "in f199" in text
    assert "176 more frames" in text
    assert len(text.split("\n")) < 60


def test_a_cancelled_job_says_by_whom_and_how_to_go_on() -> None:
    job = a_job(state=JobState.CANCELLED, ended_at=NOW - 1, reason="Cancelled by ben.")
    text = panel_text(job, moment=MOMENT)
    assert "⊘ cancelled" in text
    assert "Cancelled by ben." in text
    assert "%resilient resume digits. It goes on from step 140." in text


def test_only_the_last_checkpoints_ranks_failures_and_notes_are_shown() -> None:
    job = a_job(
        checkpoints=tuple(a_checkpoint(s) for s in range(20, 401, 20)),
        ranks=tuple(a_rank(n, step=100 + n) for n in range(40)),
        failures=tuple(a_failure(step=n) for n in range(9)),
        notes=tuple(f"note {n}" for n in range(20)),
    )
    text = panel_text(job, moment=MOMENT)
    assert "… 12 older checkpoints: %resilient checkpoints digits" in text
    assert "digits@260" in text
    assert "digits@240" not in text
    assert "… 24 more ranks, at steps 116 to 139" in text
    assert "4 earlier failures not shown" in text
    assert "… 12 earlier" in text


def test_the_output_shows_what_a_terminal_would() -> None:
    tail = "a\n" * 50 + "\x1b[31mred\x1b[0m\n10%|#   |\r100%|####|\r\n\n\n"
    text = panel_text(a_job(), tail, moment=MOMENT)
    assert text.endswith("red\n  100%|####|")
    assert text.count("\n  a") == 13


def test_a_panel_says_of_when_it_is_also_at_the_end() -> None:
    for job in (a_job(), a_failed_job()):
        assert "as of 2026-09-21 14:13:20 +00:00" in panel_html(job, moment=MOMENT)


def test_times_are_in_the_viewers_zone() -> None:
    east = Moment(NOW, timezone(timedelta(hours=5, minutes=30)))
    assert east.clock(NOW) == "19:43:20"
    assert east.clock(NOW - 86_400) == "2026-09-20 19:43"
    assert east.stamp().endswith("+05:30")


def test_nothing_of_a_job_becomes_markup_or_moves_the_cursor() -> None:
    for html, text in all_reports(EVIL):
        assert_inert(html)
        assert "&lt;script&gt;" in html
        assert_plain(text)


@given(st.text(max_size=120))
@settings(max_examples=40, deadline=None)
def test_whatever_a_job_is_called_reports_stay_inert_and_narrow(evil: str) -> None:
    for html, text in all_reports(evil):
        assert_inert(html)
        assert_plain(text)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats()), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_series_can_be_drawn_inside_its_frame(points: list[tuple[int, float]]) -> None:
    points.sort()
    html = chart("loss", points)
    assert "nan," not in html
    assert "inf" not in html.replace("finite", "").split("<svg")[1]
    for place in " ".join(re.findall(r'points="([^"]*)"', html)).split():
        x, y = map(float, place.split(","))
        assert 0 <= x <= 296
        assert 0 <= y <= 120
    assert len(sparkline(points)) == min(40, len(points))


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
def test_ticks_are_few_and_cover_the_range(low: float, span: float) -> None:
    high = low + span
    assume(high - low > max(abs(high), abs(low)) * 1e-9)
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8
    slack = (marks[-1] - marks[0]) * 1e-6
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack


def test_values_that_are_not_finite_break_the_curve() -> None:
    html = chart("loss", [(1, 1.0), (2, 2.0), (3, math.nan), (4, 2.0), (5, 1.0)])
    assert html.count("<polyline") == 2
    assert sparkline([(1, 1.0), (2, math.nan), (3, 3.0)]) == "▁·█"


def test_a_rollback_leaves_a_side_line_and_the_head_is_on_the_straight_one() -> None:
    assert [(indent, c.id[7:]) for indent, c in lineage(a_run().checkpoints)] == [
        ("", "00000020-e1"),
        ("", "00000040-e1"),
        ("├─ ", "00000060-e1"),
        ("│  ├─ ", "00000080-e1"),
        ("│  ", "00000100-e1"),
        ("", "00000060-e2"),
        ("", "00000080-e2"),
    ]


def test_a_lineage_of_any_shape_is_drawn_once_each_parents_first() -> None:
    chain = [a_checkpoint(step) for step in range(20, 100_000, 20)]
    assert [c.step for _, c in lineage(chain)] == [c.step for c in chain]

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(0, 29))
    def drawn_once(parents: list[int], head: int) -> None:
        tree = [
            a_checkpoint(n, id=f"r/{n}", parent=f"r/{p}" if p < n else "other/1", is_head=n == head)
            for n, p in enumerate(parents)
        ]
        order = [c.id for _, c in lineage(tree)]
        assert sorted(order) == sorted(c.id for c in tree)
        for c in tree:
            if c.parent in order:
                assert order.index(c.parent) < order.index(c.id)
        assert all(not indent for indent, c in lineage(tree) if c.is_head)

    drawn_once()


def test_a_long_run_lists_the_newest_the_tagged_and_the_head() -> None:
    many = [a_checkpoint(step) for step in range(20, 10_001, 20)]
    many[3] = replace(many[3], tags=("best",))
    many[5] = replace(many[5], is_head=True)
    text = checkpoints_text(a_run(checkpoints=tuple(many)), moment=MOMENT)
    assert "digits@80 " in text
    assert "digits@120  ◀ head" in text
    assert "digits@100 " not in text
    assert "… 298 older checkpoints without a tag" in text


def test_a_run_says_where_it_comes_from_and_what_is_in_it() -> None:
    text = run_text(a_run(), moment=MOMENT)
    for part in ("head digits@80", "forked from mnist@400", "digits#2 (active)", "7 checkpoints"):
        assert part in text
    fresh = a_run(checkpoints=(), head="mnist/00000400-e1")
    assert "head mnist@400 (of another run)" in run_text(fresh, moment=MOMENT)
    assert "No checkpoints of its own." in run_text(fresh, moment=MOMENT)


def test_no_jobs_says_how_to_begin() -> None:
    assert "%%resilient NAME" in jobs_text([], moment=MOMENT)


def test_the_cluster_shows_slots_hosts_and_queue() -> None:
    host = HostView("node-1", 4, 3, ("tcp://10.0.0.1:4001",), True)
    view = ClusterView("tcp://127.0.0.1:8786", "c0ffee", "0.1", "/store", 4, 3, 16, (host,),
                       ("digits#1",), ("llm#4",))  # fmt: skip
    text = cluster_text(view)
    for part in ("3 of 4 slots in use", "grows to 16", "node-1", "digits#1", "llm#4", "/store"):
        assert part in text
    assert "No workers." in cluster_text(replace(view, hosts=()))


def test_rich_has_both_forms_and_the_data() -> None:
    rich = Rich("words", "<b>words</b>", [1])
    assert rich._repr_mimebundle_() == {"text/plain": "words", "text/html": "<b>words</b>"}
    assert (str(rich), repr(rich), rich.data) == ("words", "words", [1])


def test_one_line_says_how_far_a_job_is() -> None:
    assert line_text(a_job()) == (
        "digits#1 ► running · step 142 of 400 (35 %) · 12.4 steps/s · 21 s left · loss 0.2503"
    )
    waiting = a_job(state=JobState.QUEUED, reason="3 of 4 slots are taken.")
    assert line_text(waiting) == "digits#1 ○ queued · 3 of 4 slots are taken."


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"),
     (7500, "2 h 05 min"), (90_000, "1 d 1 h"), (-3, "0.0 s"), (math.inf, "?")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1024, "1.00 KiB"),
     (1_534_000_000, "1.43 GiB"), (1023.9 * 1024**2, "1.00 GiB"), (2**60, "1024 PiB")],
)  # fmt: skip
def test_sizes(amount: float, said: str) -> None:
    assert words.size(amount) == said


@pytest.mark.parametrize(
    ("rate", "said"), [(0, ""), (math.nan, ""), (0.25, "4.00 s/step"), (1234.5, "1234 steps/s")]
)
def test_rates(rate: float, said: str) -> None:
    assert words.rate(rate) == said
