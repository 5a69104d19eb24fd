"""`query` and `facts`: jobs in numbers, and where the time of one went. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from resilient_nb.core.facts import Facts, thinned
from resilient_nb.core.querying import FactsReport, JobRow, RankFacts
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Note, Table, to_html, to_text
from resilient_nb.notebook.words import Moment

#: Ranks whose rows are shown one by one, and rows of each, if nothing else is said.
_MOST_RANKS, ROWS = 16, 12


def rows_html(rows: Sequence[JobRow], *, moment: Moment | None = None) -> str:
    """Return jobs in numbers as a table."""
    return to_html(_jobs(rows, moment or Moment()))


def rows_text(rows: Sequence[JobRow], *, moment: Moment | None = None) -> str:
    """Return the same as lines of at most 100 characters."""
    return to_text(_jobs(rows, moment or Moment()))


def facts_html(report: FactsReport, rows: int = ROWS, *, moment: Moment | None = None) -> str:
    """Return what a job's ranks did: in all, and in at most so many rows of time each."""
    return to_html(_facts(report, rows, moment or Moment()))


def facts_text(report: FactsReport, rows: int = ROWS, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_facts(report, rows, moment or Moment()))


def _jobs(rows: Sequence[JobRow], moment: Moment) -> list[Block]:
    if not rows:
        return [Note("No such job.", "Leave out a filter, or look further back.", "off")]
    heads = (
        Column("job"), Column("state", "state"), Column("user"), Column("submitted", "right"),
        Column("step", "right"), Column("lost", "right"), Column("compute", "right"),
        Column("memory", "right"), Column("metrics, data, causes", "below"),
    )  # fmt: skip
    return [Table("", heads, tuple(_job(row, moment) for row in rows))]


def _job(row: JobRow, moment: Moment) -> tuple[str, ...]:
    spent = row.data_s + row.compute_s + row.wait_s + row.checkpoint_s
    return (
        row.job,
        row.state.value,
        row.user,
        moment.clock(row.submitted_at),
        f"{row.step:,}",
        f"{row.lost_steps:,}" if row.causes else "",
        words.share(row.compute_s, spent) if spent else "-",
        words.size(row.memory) if row.memory else "-",
        words.joined(
            ", ".join(f"{name} {words.number(value)}" for name, value in row.metrics.items()),
            ", ".join(f"@{tag}" for tag in row.tags),
            ", ".join(row.data),
            ", ".join(_counted(row.causes)),
        ),
    )


def _counted(causes: Sequence[str]) -> list[str]:
    counts = {cause: causes.count(cause) for cause in causes}
    return [cause if n == 1 else f"{n} × {cause}" for cause, n in counts.items()]


def _facts(report: FactsReport, rows: int, moment: Moment) -> list[Block]:
    total = report.total
    if total is None:
        return [
            Head(f"facts of {report.job}"),
            Note("Nothing was recorded.", "Facts are of jobs that have run.", "off"),
        ]
    blocks: list[Block] = [
        Head(
            f"facts of {report.job}",
            facts=(
                f"{words.count(total.steps, 'step')} in {words.duration(total.seconds)}",
                words.count(total.items, "sample") if total.items else "",
            ),
            details=(
                f"since {moment.clock(total.at)}", f"read {words.size(total.read)}",
                f"wrote {words.size(total.written)}", f"{words.duration(total.cpu_s)} of CPU",
            ),
        )
    ]  # fmt: skip
    ranks = report.ranks
    if len(ranks) > 1:
        each = tuple((str(rank.rank), *_numbers(rank.total), _cores(rank.total)) for rank in ranks)
        heads = (Column("rank", "right"), *_HEADS, Column("cores", "right"))
        blocks.append(Table("Ranks", heads, each))
    blocks += [_rank(rank, rows, total.at) for rank in ranks[:_MOST_RANKS]]
    if len(ranks) > _MOST_RANKS:
        hidden = words.count(len(ranks) - _MOST_RANKS, "more rank")
        blocks.append(Note("", f"{hidden}: --rank N shows one, --json has all.", "off"))
    return blocks


def _rank(rank: RankFacts, rows: int, start: int) -> Table:
    shown = thinned(rank.rows, rows)
    tries = len({row.epoch for row in shown}) > 1
    heads = [Column("after", "right"), Column("try", "right"), Column("step", "right"), *_HEADS]
    lines = [
        [_after(row.at - start), str(row.epoch), f"{row.step:,}", *_numbers(row)] for row in shown
    ]
    if not tries:
        del heads[1]
        lines = [[first, *rest] for first, _, *rest in lines]
    return Table(f"Rank {rank.rank}, in time", tuple(heads), tuple(tuple(line) for line in lines))


_HEADS = (
    Column("steps", "right"), Column("data", "right"), Column("compute", "right"),
    Column("wait", "right"), Column("saving", "right"), Column("longest", "right"),
    Column("memory", "right"), Column("read", "right"), Column("written", "right"),
)  # fmt: skip


def _numbers(row: Facts) -> tuple[str, ...]:
    spent = row.data_s + row.compute_s + row.wait_s + row.checkpoint_s

    def share(seconds: float) -> str:
        return f"{100 * seconds / spent:.0f} %" if spent else "-"

    return (
        f"{row.steps:,}", share(row.data_s), share(row.compute_s), share(row.wait_s),
        share(row.checkpoint_s), words.short(row.longest_s) if row.longest_s else "-",
        words.size(row.rss) if row.rss else "-",
        words.size(row.read), words.size(row.written),
    )  # fmt: skip


def _cores(row: Facts) -> str:
    return f"{row.cpu_s / row.seconds:.2f}" if row.seconds else "-"


def _after(seconds: int) -> str:
    minutes, rest = divmod(max(0, seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
