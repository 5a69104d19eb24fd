"""What an alert says: the rule's own words, or those that fit its kind."""

from __future__ import annotations

import re
from collections.abc import Mapping

from resilient_nb.core.alert_model import Fact, Kind, Rule

_FIELD = re.compile(r"\{(\w+)\}")
#: Longer texts are cut: they are to be read on a phone.
_MOST = 500

#: Units of facts; those that aren't here are plain numbers.
UNITS: Mapping[str, str] = {
    "memory_share": "share",
    "data_wait_share": "share",
    "store_free": "bytes",
    "disk_free": "bytes",
    "waiting": "seconds",
    "checkpoint_age": "seconds",
}


def told(rule: Rule, fact: Fact, value: float, left: float) -> str:
    """Return an alert in words.

    Args:
        rule: whose alert it is.
        fact: what it found.
        value: the fact's, or for how many seconds nothing was heard.
        left: in how many seconds a trend will have reached the bound.
    """
    filled = {
        **fact.labels,
        "value": span(value) if rule.kind is Kind.ABSENCE else amount(fact.name, value),
        "bound": amount(fact.name, rule.bound or 0.0),
        "left": span(left),
        "lasting": span(rule.lasting),
        "text": fact.text,
        "fact": fact.name.removeprefix("metric:"),
    }
    text = _FIELD.sub(lambda match: filled.get(match[1], match[0]), rule.text or _usual(rule))
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def subject(labels: Mapping[str, str]) -> str:
    """Return what labels are of, in words: `digits#1, rank 0 on host a`; "" if of everything."""
    who = labels.get("job") or labels.get("run", "")
    rank = f"rank {labels['rank']}" if labels.get("rank") else ""
    host = f"host {labels['host']}" if labels.get("host") else ""
    return ", ".join(part for part in (who, " on ".join(p for p in (rank, host) if p)) if part)


def amount(fact: str, value: float) -> str:
    """Return a fact's value with its unit."""
    unit = UNITS.get(fact, "")
    if unit == "share":
        return f"{100 * value:.0f} %"
    if unit == "seconds":
        return span(value)
    if unit == "bytes":
        for name, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} B"
    return f"{value:.4g}"


def span(seconds: float) -> str:
    """Return a time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _usual(rule: Rule) -> str:
    match rule.kind:
        case Kind.ABSENCE:
            return "Nothing was heard of {fact} for {value}."
        case Kind.TREND:
            return "{fact} is {value} and reaches {bound} in about {left}."
        case Kind.EVENT:
            return "{text}"
    lasting = " for {lasting}" if rule.lasting else ""
    word = "above" if rule.above is not None else "below"
    return f"{{fact}} is {{value}}, {word} {{bound}}{lasting}."
