"""What alerts are made of: facts, rules that look at them, and what the rules find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Larger is worse."""
        return list(Severity).index(self)


class Kind(StrEnum):
    """What a rule asks of its facts."""

    THRESHOLD = "threshold"  # their value is beyond a bound
    ABSENCE = "absence"  # they were heard of, and no longer are
    TREND = "trend"  # their value will be beyond the bound before long
    EVENT = "event"  # they happened


class Stage(StrEnum):
    """Where an alert is."""

    PENDING = "pending"  # not for long enough: nobody is told
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class Fact:
    """Something that is the case, or has happened.

    Attributes:
        name: what is said.
        labels: of whom or what it is said.
        value: the number that is said.
        at: when it was last heard of, or happened.
        text: in words, if somebody has put it so.
    """

    name: str
    labels: Mapping[str, str]
    value: float = 0.0
    at: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Rule:
    """What is to be told to people. Times in seconds.

    Attributes:
        fact: the name of the facts that it looks at (`metric:loss` for a metric of jobs).
        above, below: the bound; a trend is one towards it.
        clear: only back at this value it is fine again (None: at the bound itself).
        lasting: for how long it must be so; of an absence, how long nothing was heard.
        calm: for how long it must be fine before it is over; an event is over after so long.
        within: a trend that reaches the bound later than that is none yet.
        only: labels that a fact must have, each one of these.
        by: facts with the same values of these labels are one alert (none: of all labels).
        until: the name of facts that end an event's alert.
        labels: for routes to go by, beside those of the facts.
        text: in words; `{job}`, `{value}`, `{left}`, `{text}`, … are filled in.
        off: nobody is told.
    """

    name: str
    fact: str
    kind: Kind = Kind.THRESHOLD
    severity: Severity = Severity.WARNING
    above: float | None = None
    below: float | None = None
    clear: float | None = None
    lasting: float = 0.0
    calm: float = 60.0
    within: float = 0.0
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by: tuple[str, ...] = ()
    until: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    off: bool = False

    @property
    def bound(self) -> float | None:
        """The value that is too much, or too little."""
        return self.above if self.above is not None else self.below

    def beyond(self, value: float, firing: bool = False) -> bool:
        """Whether a value is beyond the bound, or not yet clear of it if it has been."""
        bound = self.clear if firing and self.clear is not None else self.bound
        if bound is None:
            return False
        return value > bound if self.above is not None else value < bound


@dataclass(frozen=True)
class Alert:
    """What a rule has found. `key` tells it from all others.

    Attributes:
        since: when it began to be so.
        at: when it came to its stage.
        fine_since: since when it is fine again, though not for long enough.
        count: how often it happened (1 if it is no event).
        last_at: when it last happened, or was last seen to be so.
    """

    key: str
    rule: str
    severity: Severity
    labels: Mapping[str, str]
    stage: Stage
    since: float
    at: float
    text: str = ""
    value: float = 0.0
    fine_since: float | None = None
    count: int = 1
    last_at: float = 0.0


@dataclass(frozen=True)
class ChannelView:
    """A way to tell people, and how it does. `trouble` is why the last try failed, if it did."""

    name: str
    kind: str
    to: str
    waiting: int = 0
    sent: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class AlertsReport:
    """What `resilient alerts` shows: what fires, the worst first, and what is over."""

    firing: tuple[Alert, ...]
    recent: tuple[Alert, ...]
    channels: tuple[ChannelView, ...]


@dataclass(frozen=True)
class ChannelTest:
    """What came of a test: `error` is "" if the message was taken."""

    channel: str
    to: str
    error: str = ""
