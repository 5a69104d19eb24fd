"""Alerts: a fold of rules and facts over time into what is news for people. Pure.

`fold` takes what was known, the rules, the facts of this moment and the clock; it returns what is
known now and what is news. The same arguments give the same news, and what is news once is none
again until it was over. (Prometheus and Alertmanager tell these kinds of rules, pending alerts
and resolved ones apart, too.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

from resilient_nb.core.alert_model import Alert, Fact, Kind, Rule, Stage
from resilient_nb.core.alert_words import told
from resilient_nb.core.trends import agreement, slope

#: Alerts that are over are remembered for those who look later, the newest so many.
RECENT = 100
#: Of a value that is watched for its trend, so many points are kept, and so many are needed.
_TRACE, _ENOUGH = 40, 10
#: The part of all pairs of points that must go its way, beyond those that go the other.
_AGREEING = 0.7

#: JSON knows no infinity.
_LARGEST = 1e308
#: Points (time, value), oldest first.
Trace = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Known:
    """All that `fold` remembers. `seen` is when the newest event was."""

    active: Mapping[str, Alert] = field(default_factory=dict)  # pending or firing, by key
    recent: tuple[Alert, ...] = ()  # over, oldest first
    traces: Mapping[str, Trace] = field(default_factory=dict)
    seen: float = 0.0

    @property
    def firing(self) -> tuple[Alert, ...]:
        """The alerts that people were told of and that aren't over, the worst first."""
        found = [a for a in self.active.values() if a.stage is Stage.FIRING]
        return tuple(sorted(found, key=lambda a: (-a.severity.rank, a.at, a.key)))


def fold(
    known: Known, rules: Sequence[Rule], facts: Iterable[Fact], now: float
) -> tuple[Known, tuple[Alert, ...]]:
    """Return what is known after these facts, and what is news: alerts that fire, or are over.

    Args:
        known: what was known before.
        rules: all in force.
        facts: all that is the case now, and what has happened since the last time.
        now: the clock.
    """
    by_name: dict[str, list[Fact]] = {}
    for fact in facts:
        by_name.setdefault(fact.name, []).append(fact)
    moment = _Moment(known, now)
    rules = [rule for rule in rules if not rule.off]
    known_of = {alert.rule for alert in known.active.values()}
    for rule in rules:
        found = by_name.get(rule.fact, ())
        if rule.kind is Kind.THRESHOLD and rule.name not in known_of:
            # Nearly always all is well, and that is to cost little.
            found = [fact for fact in found if rule.beyond(fact.value)]
        for key, group in _groups(rule, found).items():
            moment.look(rule, key, group)
        moment.end(rule, by_name.get(rule.until, ()) if rule.until else ())
    moment.look_at_the_rest({rule.name: rule for rule in rules})
    return moment.known(), tuple(moment.news)


def matches(only: Mapping[str, tuple[str, ...]], labels: Mapping[str, str]) -> bool:
    """Whether labels are what is asked for; one that is missing is ""."""
    return all(labels.get(name, "") in wanted for name, wanted in only.items())


def _groups(rule: Rule, facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Return the rule's facts by the key of their alert."""
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        if matches(rule.only, fact.labels):
            found.setdefault(_key(rule, fact.labels), []).append(fact)
    return found


def _key(rule: Rule, labels: Mapping[str, str]) -> str:
    names = rule.by or sorted(labels)
    return rule.name + "{" + ",".join(f"{n}={labels.get(n, '')}" for n in names) + "}"


def _labels(rule: Rule, fact: Fact) -> dict[str, str]:
    own = {
        name: value
        for name, value in fact.labels.items()
        if not rule.by or name in rule.by or rule.kind is Kind.EVENT
    }
    return {**own, **rule.labels}


def _new(rule: Rule, key: str, fact: Fact, stage: Stage, at: float) -> Alert:
    return Alert(key, rule.name, rule.severity, _labels(rule, fact), stage, at, at, last_at=at)


class _Moment:
    """One call of `fold`: the alerts as they become, and what of that is news."""

    def __init__(self, known: Known, now: float) -> None:
        self._before = known
        self._now = now
        self._active = dict(known.active)
        self._traces: dict[str, Trace] = {}
        self._seen = known.seen
        self._looked: set[str] = set()
        self.news: list[Alert] = []

    def known(self) -> Known:
        """Return what is known now."""
        over = tuple(alert for alert in self.news if alert.stage is Stage.RESOLVED)
        recent = (*self._before.recent, *over)[-RECENT:]
        return Known(self._active, recent, self._traces, self._seen)

    def look(self, rule: Rule, key: str, group: Sequence[Fact]) -> None:
        """See whether it is so, by the facts of one alert."""
        self._looked.add(key)
        before = self._active.get(key)
        if rule.kind is Kind.EVENT:
            self._put(key, self._happened(rule, key, group))
            return
        if rule.kind is Kind.TREND and not self._trace(rule, key, group[0].value):
            return  # nothing new
        looks = [self._look_at(rule, key, fact) for fact in group]
        holds, value, left, fact = max(looks, key=lambda look: (look[0], _badness(rule, look[1])))
        if not holds:
            self._put(key, _fine(rule, before, self._now))
            return
        alert = before or _new(rule, key, fact, Stage.PENDING, self._now)
        alert = replace(
            alert,
            value=max(-_LARGEST, min(_LARGEST, value)),
            text=told(rule, fact, value, left),
            fine_since=None,
            last_at=self._now,
        )
        # An absence has lasted already when it is found.
        wait = 0.0 if rule.kind is Kind.ABSENCE else rule.lasting
        if alert.stage is Stage.PENDING and self._now - alert.since >= wait:
            alert = replace(alert, stage=Stage.FIRING, at=self._now)
        self._put(key, alert)

    def end(self, rule: Rule, facts: Sequence[Fact]) -> None:
        """End the rule's alerts that later facts say are over."""
        for fact in facts:
            self._seen = max(self._seen, fact.at)
            key = _key(rule, fact.labels)
            alert = self._active.get(key)
            if alert is not None and fact.at >= alert.last_at:
                self._put(key, replace(alert, stage=Stage.RESOLVED, at=self._now))

    def look_at_the_rest(self, rules: Mapping[str, Rule]) -> None:
        """Nothing was said of these: what they were of is gone, or the rule is."""
        for key in [key for key in self._active if key not in self._looked]:
            before = self._active[key]
            rule = rules.get(before.rule)
            over = rule is None
            if rule is not None and rule.kind is not Kind.EVENT:
                self._put(key, _fine(rule, before, self._now))
                continue
            if rule is not None:
                over = self._now - before.last_at >= rule.calm
            if over:
                self._put(key, replace(before, stage=Stage.RESOLVED, at=self._now))

    def _put(self, key: str, after: Alert | None) -> None:
        """Take note of what has become of an alert, and whether that is news."""
        before = self._active.get(key)
        was_told = before is not None and before.stage is Stage.FIRING
        if after is None or after.stage is Stage.RESOLVED:
            self._active.pop(key, None)
        else:
            self._active[key] = after
        if after is not None and (after.stage is Stage.FIRING) is not was_told:
            self.news.append(after)

    def _look_at(self, rule: Rule, key: str, fact: Fact) -> tuple[bool, float, float, Fact]:
        """Return whether it is so by one fact, by which value, and how long until it is."""
        if rule.kind is Kind.ABSENCE:
            silent = self._now - fact.at
            return silent >= rule.lasting, silent, 0.0, fact
        if rule.kind is Kind.TREND:
            left = time_left(rule, self._traces[key])
            return left is not None and left <= rule.within, fact.value, left or 0.0, fact
        before = self._active.get(key)
        firing = before is not None and before.stage is Stage.FIRING
        return rule.beyond(fact.value, firing), fact.value, 0.0, fact

    def _happened(self, rule: Rule, key: str, group: Sequence[Fact]) -> Alert | None:
        """Count events, each once: one that isn't newer than the last was counted already."""
        alert = self._active.get(key)
        for fact in sorted(group, key=lambda fact: fact.at):
            self._seen = max(self._seen, fact.at)
            text = told(rule, fact, fact.value, 0.0)
            if alert is None:
                alert = replace(
                    _new(rule, key, fact, Stage.FIRING, fact.at), text=text, value=fact.value
                )
            elif fact.at > alert.last_at:
                alert = replace(
                    alert,
                    text=text,
                    labels=_labels(rule, fact),
                    value=fact.value,
                    count=alert.count + 1,
                    last_at=fact.at,
                )
        return alert

    def _trace(self, rule: Rule, key: str, value: float) -> bool:
        """Keep the last points of a value: of a quarter of the time that is looked ahead.

        Returns whether there is a new one.
        """
        trace, span = self._before.traces.get(key, ()), rule.within / 4
        late = not trace or self._now - trace[-1][0] >= span / _TRACE
        late = late and isfinite(value)
        if late:
            kept = [point for point in trace if self._now - point[0] <= span]
            trace = (*kept, (self._now, value))[-_TRACE:]
        self._traces[key] = trace
        return late


def _badness(rule: Rule, value: float) -> float:
    return value if rule.below is None else -value


def _fine(rule: Rule, before: Alert | None, now: float) -> Alert | None:
    """It isn't so (any more)."""
    if before is None or before.stage is Stage.PENDING:
        return None
    since = now if before.fine_since is None else before.fine_since
    if now - since >= rule.calm:
        return replace(before, stage=Stage.RESOLVED, at=now, fine_since=since)
    return replace(before, fine_since=since)


# --- trends -----------------------------------------------------------------------------------


def time_left(rule: Rule, trace: Trace) -> float | None:
    """Return in how many seconds a value will be beyond the rule's bound, as it moves now.

    None if it doesn't move there, or too little is known: its whole course must go there, and
    the newer half of it, too.
    """
    bound = rule.bound
    if bound is None or len(trace) < _ENOUGH or trace[-1][0] - trace[0][0] < rule.within / 16:
        return None
    if rule.beyond(trace[-1][1]):
        return 0.0
    missing = bound - trace[-1][1]
    rough = (trace[-1][1] - trace[0][1]) / (trace[-1][0] - trace[0][0])
    # Nearly all values just stay where they are: that is told without much ado.
    if rough * missing <= 0 or missing / rough > 2 * rule.within:
        return None
    rates = [slope(trace), slope(trace[len(trace) // 2 :])]
    if any(rate * missing <= 0 for rate in rates):
        return None
    # Noise near the bound would reach it soon, too.
    agreeing = agreement(trace) if missing > 0 else -agreement(trace)
    return max(missing / rate for rate in rates) if agreeing >= _AGREEING else None
