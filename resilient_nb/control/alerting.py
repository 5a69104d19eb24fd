"""Alerts in the control plane: what is the case is looked at each second, and people are told.

Nothing here may hold up the scheduler or make it fail: messages are sent by threads, one for each
channel, which try again for a while. What fires, and what somebody was to be told and wasn't yet,
is in a file beside the journal, so that a restart neither tells everything again nor forgets
anything. It is no part of the journal: a full disk must not keep its own alert from being told.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from resilient_nb.control.admission import is_admin
from resilient_nb.control.senders import Sender
from resilient_nb.core import alert_facts
from resilient_nb.core import events as ev
from resilient_nb.core.alert_model import Alert, AlertsReport, ChannelTest, Fact, Severity, Stage
from resilient_nb.core.alert_rules import Channel, in_force, receivers
from resilient_nb.core.alerts import Known, fold
from resilient_nb.core.measures import Measure
from resilient_nb.core.world import World
from resilient_nb.errors import NotAllowed
from resilient_nb.wire.codec import to_json

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

logger = logging.getLogger(__name__)

#: Of an alert that is told in the queue, more are only counted.
_SHOWN = 5
#: Under these keys the engine's own alerts are ours.
_OURS = "alert "


@dataclass(frozen=True)
class _Saved:
    """What the file holds. `waiting` is what channels still are to send."""

    known: Known = field(default_factory=Known)
    waiting: Mapping[str, tuple[Alert, ...]] = field(default_factory=dict)


class Alerting:
    """The alerts of one cluster. `look` once a second; `close` at the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file = engine.settings.home / "alerts.json"
        self._happened: list[Fact] = []
        self._senders: dict[str, Sender] = {}
        self._told: tuple[str, ...] = ()
        saved = _read(self._file)
        now = engine.now()
        self._known = saved.known if saved is not None else Known(seen=now)
        self._saved: object = None
        self._trouble = ""
        if saved is not None:
            # What happened while nobody looked, or as the process before this one ended.
            self._happened += alert_facts.missed(engine.world, self._known.seen)
            self._restore(saved.waiting)
        engine.listeners.append(self.heard)

    def heard(self, events: Sequence[ev.Event], before: World, after: World) -> None:
        """Take note of what has happened; it is looked at with the next second."""
        self._happened += alert_facts.happened(events, after)

    def look(self) -> None:
        """Find out what is the case, tell people, and keep what is known."""
        self._tend_senders()
        policy = self._engine.world.policy
        rules = in_force(policy.alerts)
        facts = [*self._happened, *self._facts({rule.fact for rule in rules})]
        self._known, news = fold(self._known, rules, facts, self._engine.now())
        self._happened = []
        for alert in news:
            for name in receivers(policy.routes, policy.channels, alert):
                self._senders[name].send(alert)
        if news:
            logger.info("resilient_nb: %s", "; ".join(f"{a.stage}: {a.text}" for a in news))
        self._show()
        self._save()

    def report(self) -> AlertsReport:
        """Return what people see."""
        channels = tuple(sender.view() for sender in self._senders.values())
        return AlertsReport(self._known.firing, self._known.recent[::-1], channels)

    def measure(self) -> Measure:
        """Return how many alerts fire, for monitoring."""
        count = Counter(alert.severity for alert in self._known.firing)
        rows = tuple(((s.value,), float(count[s])) for s in Severity)
        return Measure("resilient_alerts_firing", "Alerts that fire.", ("severity",), rows)

    def tester(self, user: str) -> Callable[[], list[ChannelTest]]:
        """Return what sends a test by each channel, and waits for it: call it in a thread.

        Raises:
            NotAllowed: the user is no administrator.
        """
        engine, now = self._engine, self._engine.now()
        if not is_admin(engine.world.policy, engine.settings, user):
            raise NotAllowed(
                f"{user} is no administrator of this cluster, so can't send tests to people."
            )
        text = f"This is a test by {user}: nothing is wrong."
        alert = Alert("test{}", "test", Severity.INFO, {}, Stage.FIRING, now, now, text)
        self._tend_senders()
        senders = list(self._senders.values())
        return lambda: [sender.test(alert) for sender in senders]

    def close(self) -> None:
        """Have the threads end soon; what they haven't sent, the next control plane will."""
        self._save()
        for sender in self._senders.values():
            sender.close()

    # --- what is the case ---------------------------------------------------------------

    def _facts(self, names: set[str]) -> list[Fact]:
        engine, now = self._engine, self._engine.now()
        facts = list(alert_facts.of_jobs(engine.world, engine.live, names, now))
        if "host_heard" in names:
            busy = {s.host for job in engine.world.open.values() for s in job.placement}
            heard = engine.hosts.heard()
            facts += [
                Fact("host_heard", {"host": host}, at=heard[host])
                for host in sorted(busy)
                if host in heard
            ]
        if "host_avoided" in names:
            for host, health in engine.world.health.items():
                if text := health.words(now):
                    text = f"Host {host}: {text}."
                    facts.append(Fact("host_avoided", {"host": host}, 1.0, now, text))
        if "disk_free" in names:
            facts += [
                Fact("disk_free", {"host": host}, float(free), now)
                for host, free in engine.hosts.disks().items()
            ]
        free = engine.hosts.store_free()
        if free is not None and "store_free" in names:
            facts.append(Fact("store_free", {}, float(free), now))
        facts += [
            Fact("trouble", {"what": key}, 1.0, now, text)
            for key, text in engine.alerts.items()
            if not key.startswith(_OURS)
        ]
        return facts

    # --- telling ------------------------------------------------------------------------

    def _tend_senders(self) -> None:
        """Have a sender for each of the policy's channels."""
        channels = self._engine.world.policy.channels
        for name in [n for n, s in self._senders.items() if channels.get(n) != s.channel]:
            old = self._senders.pop(name)
            old.close()
            if name in channels:
                self._add(name, channels[name], old.waiting())
        for name in channels.keys() - self._senders.keys():
            self._add(name, channels[name])

    def _restore(self, waiting: Mapping[str, tuple[Alert, ...]]) -> None:
        for name, channel in self._engine.world.policy.channels.items():
            self._add(name, channel, waiting.get(name, ()))

    def _add(self, name: str, channel: Channel, waiting: Sequence[Alert] = ()) -> None:
        sender = Sender(name, channel, self._engine.world.cluster_id)
        self._senders[name] = sender
        for alert in waiting:
            sender.send(alert)

    def _show(self) -> None:
        """Show in the queue what concerns the cluster, and in their panels what jobs do."""
        engine, firing = self._engine, self._known.firing
        ours = [a for a in firing if "job" not in a.labels and a.rule not in _SHOWN_ANYWAY]
        told = [a.text for a in ours if a.severity is not Severity.INFO]
        texts = [*told[:_SHOWN], *self._more(told, firing)]
        texts += [s.trouble for s in self._senders.values() if s.trouble]
        if tuple(texts) != self._told:
            self._told = tuple(texts)
            for key in [key for key in engine.alerts if key.startswith(_OURS)]:
                engine.set_alert(key, None)
            for n, text in enumerate(texts):
                engine.set_alert(f"{_OURS}{n}", text)
        by_job: dict[str, list[str]] = {}
        for alert in firing:
            # A panel says itself what has happened to its job.
            if alert.labels.get("job") and alert.rule not in _SAID_ANYWAY:
                by_job.setdefault(alert.labels["job"], []).append(alert.text)
        now = {job: tuple(lines) for job, lines in by_job.items()}
        before, engine.job_alerts = engine.job_alerts, now
        for job in before.keys() | now.keys():
            if before.get(job) != now.get(job) and job in engine.world.jobs:
                engine.changed(job)

    def _more(self, told: list[str], firing: Sequence[Alert]) -> list[str]:
        hidden = len(told) - _SHOWN
        jobs = sum("job" in a.labels and a.rule not in _SAID_ANYWAY for a in firing)
        more = [f"{hidden} more alerts of the cluster"] if hidden > 0 else []
        more += [f"{jobs} alert{'s' if jobs > 1 else ''} of jobs"] if jobs else []
        return [f"{' and '.join(more)}: %resilient alerts."] if more else []

    # --- keeping ------------------------------------------------------------------------

    def _save(self) -> None:
        """Keep what is known, if that is news. What can't be kept is tried again next time."""
        waiting = {name: sender.waiting() for name, sender in self._senders.items()}
        essence = (_stages(self._known), self._known.seen, waiting)
        if essence == self._saved:
            return
        try:
            part = self._file.with_suffix(".part")
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as file:
                file.write(to_json(_Saved(self._known, waiting)))
            os.replace(part, self._file)
            self._saved, self._trouble = essence, ""
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.warning("resilient_nb: alerts can't be kept in %s: %s", self._file, error)


#: Rules whose alerts the queue shows itself.
_SHOWN_ANYWAY = frozenset({"cluster trouble", "host avoided"})
#: Rules whose alerts a job's own panel says itself.
_SAID_ANYWAY = frozenset({"job failed", "dead letter", "retries in a row", "proposal"})


def _stages(known: Known) -> dict[str, tuple[str, int, float | None]]:
    """Return of each alert what must not be forgotten; its words and value may be older."""
    return {key: (a.stage.value, a.count, a.fine_since) for key, a in known.active.items()}


def _read(file: Path) -> _Saved | None:
    """Return what an earlier control plane kept; None if there is nothing to go on from."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Saved)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        logger.warning("resilient_nb: %s can't be read, alerts begin anew: %s", file, error)
        return None
