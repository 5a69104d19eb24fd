"""A metric over steps: an inline SVG line chart, and a line of blocks for plain text.

Each metric has its own chart and scale, so one colour serves all and nothing depends on
telling colours apart. Values that aren't finite break the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from resilient_nb.notebook.markup import Markup, tag
from resilient_nb.notebook.words import number, one_line

Point = tuple[int, float]

_WIDTH, _HEIGHT = 296, 120
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 20
_BLOCKS = "▁▂▃▄▅▆▇█"
#: Beyond this a range could overflow; nobody reads such an axis.
_LARGEST = 1e300


def chart(name: str, points: Sequence[Point]) -> Markup:
    """Return a figure: the metric's name and latest value above its curve."""
    latest = number(points[-1][1]) if points else "no value yet"
    return tag(
        "figure",
        tag("figcaption", tag("span", one_line(name)), tag("b", latest)),
        _curve(name, points),
    )


def sparkline(points: Sequence[Point], width: int = 40) -> str:
    """Return the curve as at most `width` block characters; `·` where there is no number."""
    if not points:
        return ""
    cells = min(width, len(points))
    chosen = [points[(i + 1) * len(points) // cells - 1][1] for i in range(cells)]
    values = [v for v in chosen if _drawable(v)]
    if not values:
        return "·" * cells
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high - low > 0 else 0.0
    if not math.isfinite(scale):
        scale = 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if _drawable(v) else "·" for v in chosen)


def ticks(low: float, high: float, wanted: int = 3) -> list[float]:
    """Return round numbers that cover low to high, about `wanted` steps of 1, 2 or 5 times 10^n."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < _LARGEST


def _curve(name: str, points: Sequence[Point]) -> Markup:
    shown = [p for p in points if _drawable(p[1])]
    label = f"{one_line(name)} over steps"
    if not shown:
        return _svg(label, [_text(_WIDTH / 2, _HEIGHT / 2, "no finite value", "middle")])
    marks = _value_ticks([value for _, value in shown])
    low, high = marks[0], marks[-1]
    first, last = min(step for step, _ in shown), max(step for step, _ in shown)

    def x(step: int) -> float:
        part = (step - first) / (last - first) if last > first else 0.5
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_rows([(mark, y(mark)) for mark in marks]), *_step_labels(first, last)]
    for stretch in _stretches(points):
        path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in stretch)
        if len(stretch) > 1:
            parts.append(_line(path))
    end = shown[-1]
    parts.append(_dot(x(end[0]), y(end[1])))
    return _svg(label, parts)


def _value_ticks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    # A flat line, or one whose range is below what floats of its size resolve.
    if high - low <= max(abs(high), abs(low)) * 1e-9 or high - low < 1e-290:
        pad = max(abs(high), abs(low)) * 0.5 or 1.0
        low, high = low - pad, high + pad
        if high - low < 1e-290:
            low, high = -1.0, 1.0
    return ticks(low, high)


def _stretches(points: Iterable[Point]) -> list[list[Point]]:
    """Split the points where a value isn't finite."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if _drawable(point[1]):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return stretches


def _rows(marks: Sequence[tuple[float, float]]) -> list[Markup]:
    parts = []
    for value, height in marks:
        at = f"{height:.1f}"
        parts.append(
            tag("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=at, y2=at,
                stroke="currentColor", stroke_opacity="0.18")
        )  # fmt: skip
        parts.append(_text(_LEFT - 6, height + 4, number(value + 0.0), "end"))
    return parts


def _step_labels(first: int, last: int) -> list[Markup]:
    bottom, middle = _HEIGHT - _BOTTOM + 15.0, (_LEFT + _WIDTH - _RIGHT) / 2
    if first == last:
        return [_text(middle, bottom, f"step {first}", "middle")]
    return [
        _text(_LEFT, bottom, str(first), "start"),
        _text(middle, bottom, "step", "middle"),
        _text(_WIDTH - _RIGHT, bottom, str(last), "end"),
    ]


def _line(path: str) -> Markup:
    return tag("polyline", points=path, fill="none", stroke="var(--rnb-run,#3b82f6)",
               stroke_width="1.75", stroke_linejoin="round")  # fmt: skip


def _dot(x: float, y: float) -> Markup:
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", fill="var(--rnb-run,#3b82f6)")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _svg(label: str, parts: Sequence[Markup]) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)
