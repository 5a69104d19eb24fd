"""The parts that reports are built of; each can say itself in HTML and in plain text.

A report is a list of blocks, so that what the notebook shows and what a terminal prints
can't drift apart. Blocks hold raw text: it is escaped or cleaned here and nowhere else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from resilient_nb.notebook.chart import Point, chart, sparkline
from resilient_nb.notebook.markup import Markup, page, tag, together
from resilient_nb.notebook.words import (
    SIGNS,
    WIDTH,
    clean,
    clip,
    columns,
    joined,
    last_lines,
    number,
    one_line,
    share,
    sign,
    tone,
)

#: Lines of stacks that plain text shows.
_MOST_STACKS = 24


class Block(Protocol):
    """A part of a report."""

    def html(self) -> Markup:
        """Return the block as HTML."""

    def text(self) -> str:
        """Return the block as lines of at most `WIDTH` characters."""


def to_html(blocks: Sequence[Block]) -> str:
    """Return a whole report as one HTML panel."""
    return page(*(block.html() for block in blocks))


def to_text(blocks: Sequence[Block]) -> str:
    """Return a whole report as plain text."""
    return "\n".join(text for block in blocks if (text := block.text()))


@dataclass(frozen=True)
class Head:
    """What the report is of: name, state (a badge), what belongs to it, and at what time."""

    name: str
    state: str = ""
    facts: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    at: str = ""

    def html(self) -> Markup:
        badge = [tag("span", sign(self.state), class_=f"rnb-badge rnb-{tone(self.state)}")]
        facts = [tag("span", one_line(fact)) for fact in self.facts if fact]
        top = tag(
            "div",
            *(badge if self.state else []),
            tag("span", one_line(self.name), class_="rnb-name"),
            *_dotted(facts),
            tag("span", self.at, class_="rnb-quiet rnb-at"),
            class_="rnb-head",
        )
        details = one_line(joined(*self.details))
        below = tag("div", details, class_="rnb-facts rnb-quiet") if details else Markup("")
        return together(top, below)

    def text(self) -> str:
        state = f"{sign(self.state)}  " if self.state else ""
        top = f"{state}{one_line(self.name)}  {one_line(joined(*self.facts))}".rstrip()
        details = one_line(joined(*self.details, self.at))
        return "\n".join(line for line in (*wrapped(top), *wrapped(details)) if line)


@dataclass(frozen=True)
class Note:
    """A paragraph that stands out: why it waits, what to do next. `tone` as in `SIGNS`."""

    title: str
    body: str = ""
    tone: str = "wait"

    def html(self) -> Markup:
        parts = [tag("b", one_line(self.title))] if self.title else []
        body = one_line(self.body)
        return tag(
            "div", together(*parts, " " if parts and body else "", body),
            class_=f"rnb-note rnb-{self.tone}",
        )  # fmt: skip

    def text(self) -> str:
        return "\n".join(wrapped(one_line(f"{self.title} {self.body}"), "! "))


@dataclass(frozen=True)
class Progress:
    """How far a job is: `total` may be unknown; then only the words are shown."""

    done: int
    total: int | None
    state: str
    words: tuple[str, ...] = ()

    def html(self) -> Markup:
        bar = []
        if self.total:
            value = min(max(self.done, 0), self.total)
            bar.append(
                tag("progress", share(value, self.total), value=str(value), max=str(self.total),
                    aria_label="steps done")
            )  # fmt: skip
        return tag(
            "div", *bar, tag("span", self.said()), class_=f"rnb-progress rnb-{tone(self.state)}"
        )

    def text(self) -> str:
        if not self.total:
            return clip(self.said(), WIDTH)
        filled = 24 * min(max(self.done, 0), self.total) // self.total
        return clip(f"{'█' * filled}{'░' * (24 - filled)}  {self.said()}", WIDTH)

    def said(self) -> str:
        """Return the words beside the bar."""
        if self.total is None:
            steps = f"step {self.done:,}"
        else:
            steps = f"step {self.done:,} of {self.total:,} ({share(self.done, self.total)})"
        return joined(steps, *self.words)


@dataclass(frozen=True)
class Charts:
    """The first metrics over steps, `loss` before others; the rest by latest value only."""

    series: Mapping[str, Sequence[Point]]
    shown: int = 3

    def chosen(self) -> list[str]:
        """Return the metrics that have points, those of most interest first."""
        named = [name for name, points in self.series.items() if points]
        return sorted(named, key=lambda name: "loss" not in name.lower())

    def html(self) -> Markup:
        names = self.chosen()
        if not names:
            return Markup("")
        drawn = tag(
            "div", *(chart(n, self.series[n]) for n in names[: self.shown]), class_="rnb-charts"
        )
        rest = joined(*self._latest(names[self.shown :]))
        return together(drawn, tag("div", rest, class_="rnb-quiet") if rest else "")

    def text(self) -> str:
        names = self.chosen()
        drawn = [
            (clip(one_line(n), 24), number(self.series[n][-1][1]), sparkline(self.series[n], 48))
            for n in names[: self.shown]
        ]
        lines = columns(drawn, (False, True, False))
        rest = joined(*self._latest(names[self.shown :]))
        return "\n".join([*lines, *wrapped(rest)]) if drawn else ""

    def _latest(self, names: Sequence[str]) -> list[str]:
        return [f"{one_line(n)} {number(self.series[n][-1][1])}" for n in names]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    `kind`: text, right, state, mono, tree (keeps its spaces, and is cut last), or below (a
    sentence, which gets a line of its own under its row).
    """

    title: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows of text under a title. `more` is said below, when rows were left out."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    more: str = ""

    def html(self) -> Markup:
        heads = [
            tag("th", c.title, scope="col", class_="rnb-right" if c.kind == "right" else "")
            for c in self._beside()
        ]
        body = [self._row_html(row) for row in self.rows]
        table = tag(
            "table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="rnb-table"
        )
        return together(
            tag("div", self.title, class_="rnb-title") if self.title else "",
            table if self.rows else "",
            tag("div", self.more, class_="rnb-quiet") if self.more else "",
        )

    def text(self) -> str:
        rows = [[_plain(*cell) for cell in self._cells(row)] for row in self.rows]
        heads = [[c.title for c in self._beside()]] if rows else []
        right = [c.kind == "right" for c in self._beside()]
        firm = [n for n, c in enumerate(self._beside()) if c.kind == "tree"]
        lines = columns(heads + rows, right, WIDTH - 2, firm)
        parts = lines[:1]
        for line, row in zip(lines[1:], self.rows, strict=True):
            parts += [line, *(part for said in self._below(row) for part in wrapped(said, "    "))]
        title = [f"\n{one_line(self.title)}"] if self.title else []
        return "\n".join([*title, *_indented(parts), *wrapped(one_line(self.more), "  ")])

    def _row_html(self, row: tuple[str, ...]) -> Markup:
        wide = str(len(self._beside()))
        below = [
            tag("tr", tag("td", said, colspan=wide, class_="rnb-below"))
            for said in self._below(row)
        ]
        return together(tag("tr", *(_cell(*cell) for cell in self._cells(row))), *below)

    def _beside(self) -> list[Column]:
        return [c for c in self.columns if c.kind != "below"]

    def _cells(self, row: tuple[str, ...]) -> list[tuple[Column, str]]:
        return [(c, t) for c, t in zip(self.columns, row, strict=True) if c.kind != "below"]

    def _below(self, row: tuple[str, ...]) -> list[str]:
        said = [one_line(row[i]) for i, c in enumerate(self.columns) if c.kind == "below"]
        return [text for text in said if text]


@dataclass(frozen=True)
class Items:
    """A titled list of sentences. What they have in backticks is code."""

    title: str
    items: tuple[str, ...]
    numbered: bool = False

    def html(self) -> Markup:
        rows = [tag("li", _with_code(one_line(item))) for item in self.items]
        listed = tag("ol" if self.numbered else "ul", *rows)
        return together(tag("div", self.title, class_="rnb-title"), listed)

    def text(self) -> str:
        leads = [f"{n}. " if self.numbered else "- " for n in range(1, len(self.items) + 1)]
        lines = [
            line
            for lead, item in zip(leads, self.items, strict=True)
            for line in wrapped(one_line(item), lead)
        ]
        return "\n".join([f"\n{self.title}", *_indented(lines)])


@dataclass(frozen=True)
class Event:
    """Something that happened: a line in bold, sentences, and what can be unfolded.

    `trace` is unfolded at once if that is wanted, `stacks` of other processes never.
    """

    state: str
    title: str
    lines: tuple[str, ...]
    trace: str = ""
    unfolded: bool = False
    stacks: str = ""

    def html(self) -> Markup:
        parts = [tag("p", tag("b", f"{self._symbol()} {one_line(self.title)}"), class_="rnb-state")]
        parts += [tag("p", one_line(line)) for line in self.lines if line]
        if self.trace:
            trace = tag("pre", self.trace)
            fold = tag("details", tag("summary", "traceback"), trace)
            parts.append(trace if self.unfolded else fold)
        if self.stacks:
            stacks = tag("pre", clean(self.stacks))
            parts.append(tag("details", tag("summary", "stacks of all ranks"), stacks))
        return tag("div", *parts, class_=f"rnb-note rnb-{tone(self.state)}")

    def text(self) -> str:
        lines = [*wrapped(f"{self._symbol()} {one_line(self.title)}")]
        lines += [part for line in self.lines for part in wrapped(one_line(line), "  ")]
        if self.trace and self.unfolded:
            lines += _indented([clip(t, WIDTH - 4) for t in self.trace.split("\n")], 4)
        if self.stacks and self.unfolded:
            shown = clean(self.stacks).split("\n")
            lines += _indented([clip(t, WIDTH - 4) for t in shown[:_MOST_STACKS]], 4)
            if len(shown) > _MOST_STACKS:
                lines.append(f"    … {len(shown) - _MOST_STACKS} more lines; --json has all")
        return "\n".join(lines)

    def _symbol(self) -> str:
        return SIGNS.get(self.state, ("•", "off"))[0]


@dataclass(frozen=True)
class Output:
    """The end of what a job printed."""

    title: str
    log: str
    lines: int = 15

    def html(self) -> Markup:
        log = last_lines(self.log, self.lines, 400)
        if not log:
            return Markup("")
        return together(tag("div", self.title, class_="rnb-title"), tag("pre", log))

    def text(self) -> str:
        log = last_lines(self.log, self.lines, WIDTH - 2)
        return "\n".join([f"\n{self.title}", *_indented(log.split("\n"))]) if log else ""


def wrapped(text: str, lead: str = "") -> list[str]:
    """Return a paragraph as lines; those after the first are indented as far as `lead`."""
    return textwrap.wrap(
        text, WIDTH - 4, initial_indent=lead, subsequent_indent=" " * len(lead),
        break_on_hyphens=False,
    )  # fmt: skip


def _with_code(text: str) -> Markup:
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its fellow means itself
        return together(text)
    return together(*(tag("code", p) if n % 2 else p for n, p in enumerate(parts)))


def _indented(lines: Sequence[str], by: int = 2) -> list[str]:
    return [(" " * by + line).rstrip() for line in lines]


def _dotted(parts: Sequence[Markup]) -> list[Markup]:
    dot = tag("span", "·", class_="rnb-quiet")
    return [piece for part in parts for piece in (dot, part)][1:]


def _plain(column: Column, text: str) -> str:
    if column.kind == "tree":
        return clean(text).replace("\n", " ")
    return sign(text) if column.kind == "state" else one_line(text)


def _cell(column: Column, text: str) -> Markup:
    shown = _plain(column, text)
    match column.kind:
        case "right":
            return tag("td", shown, class_="rnb-right rnb-tight")
        case "state":
            state = tag("span", shown, class_=f"rnb-state rnb-{tone(text)}")
            return tag("td", state, class_="rnb-tight")
        case "mono":
            return tag("td", tag("span", shown, class_="rnb-mono"))
        case "tree":
            return tag("td", tag("span", shown, class_="rnb-mono rnb-tree"), class_="rnb-tight")
    return tag("td", shown)
