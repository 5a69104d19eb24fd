"""Numbers, times and states in words: what a person reads, with no markup.

Every text that came from a job goes through `clean`, so that a name or a log line can
neither move a terminal's cursor nor turn the direction of the text around it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from resilient_nb.core.names import reference as reference

#: Symbol and tone of each state of jobs and ranks. The word is always shown beside them.
SIGNS = {
    "queued": ("○", "wait"),
    "starting": ("◐", "run"),
    "running": ("►", "run"),
    "checkpointing": ("▼", "run"),
    "stopping": ("■", "wait"),
    "succeeded": ("✓", "good"),
    "finished": ("✓", "good"),
    "retried": ("↻", "wait"),
    "failed": ("✗", "bad"),
    "exited": ("✗", "bad"),
    "lost": ("✗", "bad"),
    "cancelled": ("⊘", "off"),
    "left": ("■", "off"),
    "ended": ("■", "off"),
}

#: How wide the plain text may be, in columns; and how narrow a column may become before those
#: give way that should be read whole.
WIDTH, _NARROW = 100, 8

_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)


@dataclass(frozen=True)
class Moment:
    """When and where a view is looked at. `zone` None is the machine's own time zone."""

    now: float = field(default_factory=time.time)
    zone: tzinfo | None = None

    def clock(self, at: float) -> str:
        """Return a time of day; with its date unless that is today."""
        here = self._local(at)
        if here.date() == self._local(self.now).date():
            return here.strftime("%H:%M:%S")
        return here.strftime("%Y-%m-%d %H:%M")

    def stamp(self) -> str:
        """Return this moment in full, with its offset from UTC."""
        text = self._local(self.now).strftime("%Y-%m-%d %H:%M:%S %z")
        return f"{text[:-2]}:{text[-2:]}"

    def since(self, begin: float, end: float | None = None) -> str:
        """Return how long it was from `begin` to `end`, or is until now."""
        return duration((self.now if end is None else end) - begin)

    def ahead(self, at: float) -> str:
        """Return an expected time: `14:25, in about 12 min`."""
        seconds = at - self.now
        if seconds < 60:
            return "in less than 1 min" if seconds > 0 else "any moment"
        if not seconds < 366 * 86400:
            return "in more than a year"
        here = self._local(at)
        today = here.date() == self._local(self.now).date()
        clock = here.strftime("%H:%M" if today else "%a %d %b %H:%M")
        return f"{clock}, in about {about(seconds)}"

    def start(self, at: float, guess: str) -> str:
        """Return when a job is expected to start; `guess` names whose end had to be guessed."""
        why = f" (a guess: nobody knows how long {guess} takes)" if guess else ""
        return f"Expected to start: {self.ahead(at)}{why}."

    def _local(self, at: float) -> datetime:
        # Not a number, or out of the calendar: a view must never fail because of a clock.
        try:
            return datetime.fromtimestamp(at, self.zone).astimezone(self.zone)
        except (OverflowError, ValueError, OSError):
            return datetime.fromtimestamp(0, self.zone).astimezone(self.zone)


def clean(text: str) -> str:
    """Return `text` without terminal sequences, control and direction characters.

    Newlines and tabs stay; of a line that was overwritten (a progress bar's carriage
    returns) only what was written last is kept.
    """
    text = _SEQUENCES.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(_last_writing(line) for line in text.split("\n"))
    return _CONTROLS.sub("", text)


def _last_writing(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part), "")


def one_line(text: str) -> str:
    """Return `text` cleaned and on one line."""
    return " ".join(clean(text).split())


def clip(text: str, width: int) -> str:
    """Return `text` with at most `width` characters; … shows that there was more."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def last_lines(text: str, lines: int, width: int | None = None) -> str:
    """Return the last lines of a log, without blank ones at its end."""
    kept = clean(text).rstrip().split("\n")[-lines:]
    kept = [line.expandtabs(4).rstrip() for line in kept]
    return "\n".join(line if width is None else clip(line, width) for line in kept)


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: `3 min 12 s`, `2 h 05 min`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{minutes} min {whole % 60:02d} s"
    if days < 1:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"


def short(seconds: float) -> str:
    """Return a short time with what counts of it: `4 ms`, `0.18 s`, `3 min 12 s`."""
    if not seconds < 1:
        return duration(seconds)
    return f"{seconds:.2f} s" if seconds >= 0.0995 else f"{max(0.0, 1000 * seconds):.0f} ms"


def about(seconds: float) -> str:
    """Return a length of time as one speaks of it: `12 min`, `5 h`, `3 days`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return "< 1 min"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86400)} days"


def gang(workers: int, max_workers: int, held: int) -> str:
    """Return a gang's size: `4`; of an elastic one `2:8`, or `3 of 2:8` while it holds 3."""
    if max_workers <= workers:
        return str(workers)
    return f"{held} of {workers}:{max_workers}" if held else f"{workers}:{max_workers}"


def size(count: float) -> str:
    """Return a number of bytes with three digits: `1.43 GiB`."""
    if abs(count) < 1000:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if abs(count) < 999.5:
            return f"{_three(count)} {unit}"
    return f"{_three(count / 1024)} PiB"


def rate(steps_per_second: float) -> str:
    """Return a speed: steps per second, or seconds per step if that is the larger number."""
    if not math.isfinite(steps_per_second) or steps_per_second <= 0:
        return ""
    if steps_per_second >= 1:
        return f"{_three(steps_per_second)} steps/s"
    return f"{_three(1 / steps_per_second)} s/step"


def number(value: float) -> str:
    """Return a metric's value with four digits."""
    return f"{value:.4g}"


def share(part: float, whole: float) -> str:
    """Return a percentage that says 100 only when all is done."""
    percent = 100 * part / whole if whole > 0 else 0.0
    return f"{min(99, int(percent)) if part < whole else 100} %"


def count(amount: int, noun: str) -> str:
    """Return `1 worker`, `2 workers`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def begins(step: int) -> str:
    """Say where a job begins that was submitted again."""
    return f"goes on from step {step}" if step else "starts at the beginning"


def joined(*parts: str) -> str:
    """Return the parts that aren't empty, with dots between."""
    return " · ".join(part for part in parts if part)


def short_digest(digest: str) -> str:
    """Return enough of a digest to tell two checkpoints apart."""
    return clean(digest).rpartition(":")[2][:10]


def sign(state: str) -> str:
    """Return a state as symbol and word."""
    return f"{SIGNS.get(state, ('•', 'off'))[0]} {one_line(state)}"


def tone(state: str) -> str:
    """Return which accent a state has."""
    return SIGNS.get(state, ("•", "off"))[1]


def columns(
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    width: int = WIDTH,
    firm: Sequence[int] = (),
) -> list[str]:
    """Return rows as aligned lines of at most `width` characters.

    The widest columns give way first, the `firm` ones last; what doesn't fit ends in ….
    """
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(right))]
    spare = width - 2 * (len(widths) - 1)
    soft = [i for i in range(len(widths)) if i not in firm]
    while sum(widths) > spare and max(widths) > 1:
        yielding = [i for i in soft if widths[i] > _NARROW] or range(len(widths))
        widths[max(yielding, key=lambda i: widths[i])] -= 1
    lines = []
    for row in rows:
        cells = (_fitted(*cell) for cell in zip(row, widths, right, strict=True))
        lines.append("  ".join(cells).rstrip())
    return lines


def _fitted(text: str, width: int, right: bool) -> str:
    text = clip(text, width)
    return text.rjust(width) if right else text.ljust(width)


def _three(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
