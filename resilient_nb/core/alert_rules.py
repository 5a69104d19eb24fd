"""The facts that rules may look at, the rules that there are without anybody's doing, and routes.

Facts of jobs have the labels user, group, run and job; those of ranks also rank and host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from resilient_nb.core.alert_model import Alert, Kind, Rule, Severity
from resilient_nb.core.alerts import matches

GiB = 1 << 30

#: What is the case now, by name; `metric:NAME` is the newest value of a job's metric.
GAUGES: Mapping[str, str] = {
    "memory_share": "of a rank: memory used, as a share of its limit",
    "data_wait_share": "of a job: waiting for data, as a share of its time",
    "steps_per_second": "of a job that runs",
    "checkpoint_age": "of a job that runs: seconds since its last checkpoint",
    "retries_in_a_row": "of a job: failures since it last got further",
    "waiting": "of a job: seconds in the queue",
    "host_heard": "of a host with ranks: when it last reported",
    "host_avoided": "of a host: it gets nothing new since too much has failed there",
    "store_free": "free bytes of the store",
    "disk_free": "free bytes of a host's own disk, where its logs are",
    "trouble": "of the cluster: something that an administrator should mend",
}

#: What happens, by name.
EVENTS: Mapping[str, str] = {
    "job_failed": "a job failed for good",
    "dead_letter": "a job failed since its retries are used up",
    "job_retried": "an attempt failed and another follows",
    "job_preempted": "a job had to leave for another",
    "job_succeeded": "",
    "job_cancelled": "",
    "job_went_on": "a job was submitted or succeeded",
    "proposal": "a job may as well be stopped",
    "proposal_withdrawn": "",
}

BUILT_IN: tuple[Rule, ...] = (
    Rule(
        "job failed", "job_failed", Kind.EVENT, Severity.WARNING, by=("run",), until="job_went_on",
        calm=86400.0,
    ),
    Rule(
        "dead letter", "dead_letter", Kind.EVENT, Severity.CRITICAL, by=("run",),
        until="job_went_on", calm=86400.0,
    ),
    Rule(
        "retries in a row", "retries_in_a_row", above=2, calm=10.0,
        text="{job} has failed {value} times without getting any further.",
    ),
    Rule(
        "memory near the limit", "memory_share", above=0.9, clear=0.8, lasting=10.0,
        text="Rank {rank} of {job} on {host} uses {value} of its memory limit.",
    ),
    Rule(
        "memory grows to the limit", "memory_share", Kind.TREND, above=1.0, within=600.0,
        text="Rank {rank} of {job} on {host} reaches its memory limit in about {left}; it uses "
        "{value} of it.",
    ),
    Rule(
        "data waits", "data_wait_share", above=0.5, clear=0.4, lasting=60.0,
        text="{job} waits for its data during {value} of its time.",
    ),
    Rule(
        "host silent", "host_heard", Kind.ABSENCE, lasting=20.0, calm=5.0,
        text="Nothing was heard of host {host}, which has ranks, for {value}.",
    ),
    Rule(
        "store nearly full", "store_free", severity=Severity.CRITICAL, below=GiB, clear=2 * GiB,
        text="The store has {value} left.",
    ),
    Rule(
        "store fills up", "store_free", Kind.TREND, below=0.0, within=3600.0, calm=300.0,
        text="The store has {value} left and is full in about {left}.",
    ),
    Rule(
        "disk nearly full", "disk_free", below=GiB // 2, clear=GiB,
        text="The disk of host {host} has {value} left.",
    ),
    Rule("host avoided", "host_avoided", above=0, calm=0.0, text="{text}"),
    Rule(
        "proposal", "proposal", Kind.EVENT, Severity.INFO, by=("job",), until="proposal_withdrawn",
        calm=86400.0,
    ),
    Rule("cluster trouble", "trouble", above=0, calm=0.0, text="{text}"),
)  # fmt: skip


def in_force(own: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the built-in rules and the administrator's; of the same name the administrator's."""
    rules = {rule.name: rule for rule in (*BUILT_IN, *own)}
    return tuple(rule for rule in rules.values() if not rule.off)


@dataclass(frozen=True)
class Channel:
    """A way to tell people.

    Attributes:
        kind: webhook, email or command.
        url: of a webhook; `url_file` is a file that holds it, if it is a secret.
        to, sender: addresses.
        host, port: of the mail server; `tls` is starttls, tls or none.
        user, password_file: what the mail server asks for, if it does.
        command: a program and its arguments, which gets the message as JSON on its input.
        timeout: seconds that one try may take.
    """

    kind: str
    url: str = ""
    url_file: str = ""
    to: tuple[str, ...] = ()
    sender: str = ""
    host: str = "localhost"
    port: int = 25
    tls: str = "starttls"
    user: str = ""
    password_file: str = ""
    command: tuple[str, ...] = ()
    timeout: float = 10.0

    @property
    def target(self) -> str:
        """Whom it reaches, with no secret in it."""
        if self.kind == "email":
            return ", ".join(self.to)
        if self.kind == "command":
            return self.command[0]
        place = self.url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return place or self.url_file


@dataclass(frozen=True)
class Route:
    """Alerts with these labels, at least so severe, go to these channels."""

    to: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    severity: Severity = Severity.INFO


def receivers(
    routes: Iterable[Route], channels: Mapping[str, Channel], alert: Alert
) -> tuple[str, ...]:
    """Return the channels that an alert goes to, each once: by all routes that fit.

    Without any route each channel gets all alerts.
    """
    routes = tuple(routes)
    if not routes:
        return tuple(channels)
    labels = {**alert.labels, "rule": alert.rule, "severity": alert.severity.value}
    names = [
        name
        for route in routes
        if alert.severity.rank >= route.severity.rank and matches(route.only, labels)
        for name in route.to
    ]
    return tuple(name for name in dict.fromkeys(names) if name in channels)


def with_defaults(rule: Rule) -> Rule:
    """Return a rule of the administrator's with what it leaves to the kind of its fact."""
    if rule.kind is Kind.EVENT and not rule.by:
        return replace(rule, by=("run",) if rule.fact.startswith(("job", "dead")) else ())
    return rule
