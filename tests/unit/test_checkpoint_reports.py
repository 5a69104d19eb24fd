"""How `checkpoints` and `diff` show what they know, in HTML and in plain text."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.differences import (
    CodeChange,
    DiffReport,
    Kind,
    MetricChange,
    PartChange,
    TensorChange,
)
from resilient_nb.core.plain_values import ValueChange
from resilient_nb.core.recorded import (
    CellRecord,
    CheckpointReport,
    DataRecord,
    HolderSummary,
    PartSummary,
    Recorded,
)
from resilient_nb.core.views import CheckpointView, RunView, run_view
from resilient_nb.notebook import words
from resilient_nb.notebook.checkpoint_reports import (
    checkpoint_html,
    checkpoint_text,
    runs_html,
    runs_text,
)
from resilient_nb.notebook.diff_reports import diff_html, diff_text
from resilient_nb.notebook.lineage import Fork, families, tree
from resilient_nb.notebook.reports import checkpoints_text
from resilient_nb.notebook.words import WIDTH, Moment
from resilient_nb.testing.builders import Story
from tests.unit.compared import RECORD

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
MOMENT = Moment(NOW, UTC)
ALLOWED_TAGS = {
    *("style", "div", "span", "b", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
    *("code", "pre"),
}
EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b onclick=x>\x1b[2J\x1b]0;t\x07&amp;"
    "\n`\u202e\ud800\t"
)


def a_checkpoint(step: int, run: str = "digits", **changes: Any) -> CheckpointView:
    base = CheckpointView(
        ref=f"{run}@{step}", run=run, step=step, at=NOW - 1000 + step, nbytes=1_534_000_000,
        digest=f"{step:02d}ab34cd56ef{step:04d}" * 4,
        parent=f"{run}/{step - 20:08d}-e1" if step > 20 else None, id=f"{run}/{step:08d}-e1",
        path=f"/store/runs/{run}/{step:08d}-e1", metrics={"loss": 2.3 / step}, job=f"{run}#1",
        changed=76_000_000, written=76_000_400,
    )  # fmt: skip
    return replace(base, **changes)


def a_run(name: str, *checkpoints: CheckpointView, **changes: Any) -> RunView:
    head = next((c.id for c in checkpoints if c.is_head), None)
    return replace(RunView(name, NOW, head, None, {}, checkpoints, (), None), **changes)


def two_runs() -> list[RunView]:
    """A run that was rolled back from 60 to 40, and a fork of it at 20, newest first."""
    digits = a_run(
        "digits", a_checkpoint(20), a_checkpoint(40), a_checkpoint(60),
        a_checkpoint(60, id="digits/00000060-e2", at=NOW, is_head=True, tags=("best",)),
        forks={"fork": "digits/00000020-e1"},
    )  # fmt: skip
    fork = a_run(
        "fork", a_checkpoint(40, "fork", parent="digits/00000020-e1", is_head=True),
        forked_from="digits/00000020-e1",
    )  # fmt: skip
    return [fork, digits]


def drawn(text: str) -> list[str]:
    """Return the first column of the checkpoints."""
    return re.findall(r"^  (\S.*?) +\d\d:\d\d:\d\d ", text, re.MULTILINE)


# The trees.


def test_forks_hang_below_the_checkpoint_they_began_at() -> None:
    text = runs_text(two_runs(), moment=MOMENT)
    assert [line for line in text.split("\n") if line.startswith("run ")] == [
        "run digits  head digits@60", "run fork  head fork@40 · forked from digits@20",
    ]  # fmt: skip
    assert drawn(text) == [
        "digits@20", "├─ fork@40  ◀ head", "digits@40", "├─ digits@60", "digits@60  ◀ head",
    ]  # fmt: skip
    assert "Indented: what a rollback left behind, and forks." in text


def test_a_run_alone_shows_where_its_forks_leave() -> None:
    text = checkpoints_text(two_runs()[1], moment=MOMENT)
    assert "├─ fork  (fork)" in text
    assert "fork@40" not in text


def test_a_fork_without_checkpoints_is_shown_and_counted_nowhere() -> None:
    fork, digits = two_runs()
    fork = replace(fork, checkpoints=(), head=fork.forked_from)
    text = runs_text([fork, digits], moment=MOMENT)
    assert "├─ fork  (fork)" in text
    assert "run fork  head digits@20 (of another run) · forked from digits@20" in text


def test_runs_that_are_no_kin_have_trees_of_their_own() -> None:
    other = a_run("other", a_checkpoint(20, "other"))
    text = runs_text([other, *two_runs()], moment=MOMENT)
    assert text.count("Checkpoints\n") == 2
    assert "No runs." in runs_text([], moment=MOMENT)
    lost = replace(two_runs()[0], forked_from="gone/00000020-e1")
    assert [[v.name for v in f] for f in families([lost, other])] == [["fork"], ["other"]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=10))
def test_every_run_is_in_one_family_even_if_the_journal_lies(origins: list[int]) -> None:
    runs = [
        a_run(f"r{n}", forked_from=None if at == n else f"r{at}/00000020-e1")
        for n, at in enumerate(origins)
    ]
    found = families(runs)
    assert sorted(v.name for family in found for v in family) == sorted(v.name for v in runs)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=30),
    st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 29)),
)
def test_a_tree_of_any_shape_has_every_entry_once(
    parents: list[tuple[int, int]], forks: dict[str, int]
) -> None:
    checkpoints = [
        a_checkpoint(20, f"r{run}", id=f"r{run}/{n}", at=float(n),
                     parent=f"r{parents[p][1]}/{p}" if p < n else None)
        for n, (p, run) in enumerate(parents)
    ]  # fmt: skip
    ids = [c.id for c in checkpoints]
    known = {name: ids[n] for name, n in forks.items() if n < len(ids)}
    entries = tree(checkpoints, known)
    order = [e.run if isinstance(e, Fork) else e.id for _, e in entries]
    assert sorted(order) == sorted([*ids, *known])
    at = {entry: n for n, entry in enumerate(order)}
    for c in checkpoints:
        assert c.parent is None or at[c.parent] < at[c.id]
    assert all(at[name] > at[origin] for name, origin in known.items())
    for indent, entry in entries:
        if isinstance(entry, CheckpointView) and entry.parent is not None:
            strange = entry.parent.partition("/")[0] != entry.run
            assert not strange or indent.endswith("├─ ")


def test_what_was_added_and_compressed_is_shown() -> None:
    plain = a_checkpoint(20)
    packed = a_checkpoint(40, changed=76_000_000, written=50_000_000)
    text = checkpoints_text(a_run("digits", plain), moment=MOMENT)
    assert "1.43 GiB  72.5 MiB" in text
    assert "ratio" not in text
    text = checkpoints_text(a_run("digits", plain, packed), moment=MOMENT)
    assert "ratio" in text
    assert "47.7 MiB   1.5×" in text
    assert "2 checkpoints, 2.86 GiB, 120 MiB in the store" in text
    old = a_checkpoint(20, changed=0, written=0)
    assert "0 B" not in checkpoints_text(a_run("digits", old), moment=MOMENT)
    same = a_checkpoint(40, changed=0, written=0)
    assert "1.43 GiB  0 B" in re.sub(" +0 B", "  0 B", checkpoints_text(a_run("d", same)))


def test_a_view_has_what_was_written_and_the_forks() -> None:
    story = Story().submit().start().checkpoint(20).checkpoint(40)
    story.run("fork", "digits/00000020-e1").run("other")
    view = run_view(story.world, story.world.runs["digits"], "/runs")
    assert view.forks == {"fork": "digits/00000020-e1"}
    assert (view.checkpoints[0].written, view.checkpoints[0].changed) == (0, 0)
    assert run_view(story.world, story.world.runs["fork"], "/runs").forks == {}


# One checkpoint.


def a_report(**changes: Any) -> CheckpointReport:
    base = CheckpointReport(
        a_checkpoint(120, is_head=True, tags=("best",)), 3, 2, 5, 2,
        (PartSummary("model", 3, 1 << 30, {"float32": 2, "int64": 1}),
         PartSummary("rank-0", 2, 5056, {"uint8": 2})),
        (HolderSummary("digits@100", "digits/00000100-e2", 3, 1 << 29),), RECORD,
    )  # fmt: skip
    return replace(base, **changes)


def test_a_checkpoint_shows_what_it_records() -> None:
    text = checkpoint_text(a_report(), moment=MOMENT)
    for part in (
        "digits@120  head · best · 1.43 GiB · after digits@100", "by digits#1 · epoch 3 · 2 ranks",
        "2 float32, 1 int64", "digits@100", "512 MiB", "digits@120 itself", "2 (2 ranks)",
        "run.batches(batch_size=30, epochs=6, shuffle=True)", "0123", "torch 2.13", "cpu AVX2",
        "node-1", "Cell In [1] (sha256 aa)", "  a = 1\n  b = 2", "Cell In[3]", "20 steps",
    ):  # fmt: skip
        assert part in text, part


def test_what_isnt_known_is_said() -> None:
    text = checkpoint_text(a_report(recorded=Recorded(numerics={"cpu": "AVX2"})), moment=MOMENT)
    assert "Where it comes from isn't known." in text
    long = replace(RECORD, cell=CellRecord(None, "In [1]", "aa"), data=(
        DataRecord(0, "generator", None, "", "nothing that lies in memory"),
    ))  # fmt: skip
    text = checkpoint_text(a_report(recorded=long), moment=MOMENT)
    assert "Cell In [1] (sha256 aa) is too long to be kept." in text
    assert "none: nothing that lies in memory" in text


def test_of_a_long_cell_the_text_has_the_beginning() -> None:
    cell = CellRecord("\n".join(f"line {n}" for n in range(300)), "In [1]", "aa")
    report = a_report(recorded=replace(RECORD, cell=cell))
    text, html = checkpoint_text(report), checkpoint_html(report)
    assert "line 99\n  … 200 more lines" in text
    assert "line 299" in html


# Differences.


def a_tensor(name: str = "model/0.weight", **changes: Any) -> TensorChange:
    base = TensorChange(
        name, Kind.CHANGED, (64, 12), (64, 12), "float32", "float32", 3072, 3072, 768, 1.25, 0.5,
        0.031,
    )  # fmt: skip
    return replace(base, **changes)


SAME = a_tensor("model/9", kind=Kind.EQUAL, differing=0, norm=0.0, max_abs=0.0, relative=0.0)


def a_diff(*tensors: TensorChange, **changes: Any) -> DiffReport:
    part = PartChange("model", 4, 1, 2, 1, 0, 3072, 6144, 1.25, 0.5, 0.031)
    base = DiffReport(
        a_checkpoint(20), a_checkpoint(120), None, False, 6144, (part,), tensors, (), 0, (),
        CodeChange(True), (), (), (), (), (),
    )  # fmt: skip
    return replace(base, **changes)


def test_a_diff_shows_the_largest_changes_first_and_what_became_of_each() -> None:
    report = a_diff(
        a_tensor("model/a", relative=0.01), a_tensor("model/b", relative=5.5), SAME,
        a_tensor("model/c", relative=None), a_tensor("model/step", shape_a=(), shape_b=()),
        a_tensor("model/new", kind=Kind.ADDED, shape_a=None, dtype_a=None, norm=None,
                 max_abs=None, relative=None),
        a_tensor("model/half", kind=Kind.RETYPED, dtype_b="float16", relative=0.0, norm=0.0,
                 differing=0),
        a_tensor("model/nan", relative=0.1, nan_a=0, nan_b=3, undefined=3, differing=7),
        a_tensor("rank-0/random", relative=0.9),
    )  # fmt: skip
    text = diff_text(report, moment=MOMENT)
    lines = [line.split() for line in text.split("\n") if line.startswith("  model/")]
    assert [line[0][6:] for line in lines] == ["c", "new", "b", "nan", "a", "half", "step"]
    assert "from 0" in text
    assert "550 %" in text
    assert "7 of 768, NaN: 0 → 3, 3 not" in text
    assert "retyped, the same values" in text
    assert "float32 → float16[64, 12]" in text
    assert "rank-0/random" not in text
    assert "rank-0/random" in diff_text(replace(report, only="rank-0"))
    assert "9 of 9" not in text
    assert "8 of 9 tensors differ" in text
    assert "6.00 KiB of tensors read" in text


def test_how_many_tensors_are_shown_is_said() -> None:
    report = a_diff(*(a_tensor(f"m/{n}", relative=float(n)) for n in range(30)))
    assert "… 10 more tensors: --tensors N shows N." in diff_text(report)
    assert "… 28 more tensors" in diff_text(report, 2)
    assert "m/29" in diff_text(report, 2)
    assert "m/27" not in diff_text(report, 2)
    assert "Tensors" not in diff_text(report, 0)


def test_other_differences_have_tables() -> None:
    code = CodeChange(False, ("--- a", "+++ b", "@@ -1 +1 @@", "-x = 1", "+x = 2", " \ty"))
    report = a_diff(
        state=(ValueChange("opt.param_groups[0].lr", "0.1", None),), hidden=7, code=code,
        metrics=(MetricChange("loss", 0.5, 0.25), MetricChange("new", None, math.nan)),
        config=(ValueChange("loops[0].batch_size", "30", "60"),),
        data=(ValueChange("[0].length", "1", "2"),),
        versions=(ValueChange("torch", "'2.12'", "'2.13'"),), notes=("digits@20 is old.",),
    )  # fmt: skip
    text, html = diff_text(report), diff_html(report)
    for part in (
        "opt.param_groups[0].lr  0.1", "… 7 more values differ", "-0.25", "nan",
        "config.loops[0].batch_size", "data[0].length", "versions.torch", "! digits@20 is old.",
        "  -x = 1\n  +x = 2\n      y",
    ):  # fmt: skip
        assert part in text, part
    assert '<span class="rnb-state rnb-good">+</span>x = 2' in html
    assert '<span class="rnb-state rnb-good">+</span>++' not in html
    part = diff_text(replace(report, only="opt"))
    assert "x = 2" not in part
    assert "loss" not in part


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (a_diff(SAME, equal=True), "digits@20 → digits@120  equal state"),
        (a_diff(SAME), "equal tensors, other state differs"),
        (a_diff(SAME, code=CodeChange(False)), "! The cells differ. They are too long"),
        (a_diff(b=a_checkpoint(20, id="digits/00000020-e2")), "digits/00000020-e1 → digits/0000"),
        (a_diff(b=a_checkpoint(20)), "digits@20 → digits@20  "),
    ],
)
def test_the_head_says_how_alike_they_are(report: DiffReport, said: str) -> None:
    assert said in diff_text(report, moment=MOMENT)


# Nothing that came from a job can do anything.


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def all_reports(evil: str) -> list[tuple[str, str]]:
    value = ValueChange(evil, evil, evil)
    diff = a_diff(
        a_tensor(evil, dtype_a=evil), a_tensor(evil, kind=Kind.RESHAPED, shape_b=(1,) * 90),
        a=a_checkpoint(20, evil), state=(value,), metrics=(MetricChange(evil, 1.0, 2.0),),
        code=CodeChange(False, (evil, "+" + evil, "-" + evil, evil, "+" + evil), (value,)),
        parts=(PartChange(evil, 1, 1, 1, 1, 1, 1, 1, 1.0, 1.0, None),), config=(value,),
        versions=(value,), notes=(evil,),
    )  # fmt: skip
    cell = CellRecord(evil, evil, evil, {evil: evil})
    record = replace(RECORD, cell=cell, data=(DataRecord(0, evil, 1, "", evil),),
                     versions={evil: evil}, numerics={evil: evil})  # fmt: skip
    report = a_report(
        checkpoint=a_checkpoint(20, evil, tags=(evil,), metrics={evil: 1.0}, digest=evil),
        parts=(PartSummary(evil, 1, 1, {evil: 1}),), recorded=record,
        holders=(HolderSummary(evil, evil, 1, 1),),
    )  # fmt: skip
    one = a_checkpoint(20, evil, tags=(evil,), metrics={evil: 1.0}, is_head=True)
    runs = [a_run(evil, one, forks={evil: one.id}), a_run("f" + evil, forked_from=one.id)]
    return [
        (diff_html(diff), diff_text(diff)),
        (checkpoint_html(report), checkpoint_text(report)),
        (runs_html(runs), runs_text(runs)),
    ]


def assert_harmless(html: str, text: str) -> None:
    page = Page(html)
    assert page.tags <= ALLOWED_TAGS
    assert page.attributes <= {"class", "colspan", "scope"}
    assert "\x1b" not in html
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert max(map(len, text.split("\n"))) <= WIDTH


@pytest.mark.parametrize("evil", [EVIL, "x" * 500, "", "+" * 40, "\n\n\n", "a\rb"])
def test_hostile_text_is_only_text(evil: str) -> None:
    for html, text in all_reports(evil):
        assert_harmless(html, text)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_only_text(evil: str) -> None:
    for html, text in all_reports(evil):
        assert_harmless(html, text)


def test_names_of_tensors_and_checkpoints_are_the_last_to_be_cut() -> None:
    name = "optimizer/state.147.exp_avg_sq_of_something"
    text = diff_text(a_diff(a_tensor(name, kind=Kind.RETYPED, dtype_b="float8_e4m3fn", nan_b=5)))
    assert name in text
    rows = [["n" * 60, "m" * 60], ["n", "m"]]
    assert words.columns(rows, [False, False], 80, firm=[0])[0] == f"{'n' * 60}  {'m' * 17}…"
    assert len(words.columns(rows, [False, False], 40, firm=[0])[0]) == 40
