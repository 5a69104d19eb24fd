"""Parts of reports that are code: a cell's source, and how two cells differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resilient_nb.notebook.markup import Markup, tag, together
from resilient_nb.notebook.words import WIDTH, clean, clip, count, one_line

_TONES = {"+": "good", "-": "bad"}


@dataclass(frozen=True)
class Code:
    """Source under a title. As plain text, at most so many lines of it."""

    title: str
    source: str
    most: int = 100

    def html(self) -> Markup:
        return _titled(self.title, Markup(tag("pre", self.source)))

    def text(self) -> str:
        lines = _lines(self.source.splitlines(), self.most)
        return "\n".join([f"\n{clip(one_line(self.title), WIDTH)}", *lines])


@dataclass(frozen=True)
class Changes:
    """A unified diff under a title. Signs tell the lines apart; in HTML they are coloured, too."""

    title: str
    lines: tuple[str, ...]
    most: int = 200

    def html(self) -> Markup:
        marked = [_marked(n, _line(line)) for n, line in enumerate(self.lines)]
        return _titled(self.title, tag("pre", *marked))

    def text(self) -> str:
        return "\n".join([f"\n{clip(one_line(self.title), WIDTH)}", *_lines(self.lines, self.most)])


def _titled(title: str, body: Markup) -> Markup:
    return together(tag("div", one_line(title), class_="rnb-title"), body)


def _marked(number: int, line: str) -> Markup:
    tone = _TONES.get(line[:1]) if number > 1 else None  # the first two lines name the sides
    if tone is None:
        return together(line, "\n")
    sign = tag("span", line[:1], class_=f"rnb-state rnb-{tone}")
    return together(sign, line[1:], "\n")


def _line(line: str) -> str:
    return clean(line).replace("\n", " ").expandtabs(4).rstrip()


def _lines(lines: Sequence[str], most: int) -> list[str]:
    shown = [f"  {clip(_line(line), WIDTH - 2)}".rstrip() for line in lines[:most]]
    hidden = len(lines) - len(shown)
    return [*shown, f"  … {count(hidden, 'more line')}"] if hidden > 0 else shown
