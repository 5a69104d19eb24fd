"""Alerts in the control plane: found at each tick, told once, and kept over a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient_nb.control.alerting import Alerting
from resilient_nb.core.alert_model import Kind, Rule, Severity
from resilient_nb.core.alert_rules import Channel, Route
from resilient_nb.core.model import Outcome
from resilient_nb.core.policy import Policy
from resilient_nb.errors import NotAllowed
from resilient_nb.testing.builders import a_spec, an_error
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import requests as rq
from resilient_nb.wire.orders import Sample


class Site(FakeCluster):
    """A cluster of one host with alerts, and a command that keeps what it is told."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, {"h0": 2})
        self.out = home / "told"
        self.out.mkdir()
        program = home / "tell"
        program.write_text(f"#!/bin/sh\ncd {self.out}\ncat > $$.part && mv $$.part $$.json\n")
        program.chmod(0o755)
        self.tell = Channel("command", command=(str(program),))
        self.alerting = Alerting(self.engine)

    def restart(self) -> None:
        """Kill the scheduler, and start another."""
        for sender in self.alerting._senders.values():
            sender.close()
        self.restart_engine()
        self.alerting = Alerting(self.engine)

    def second(self, count: int = 1) -> None:
        """Let seconds pass as the plugin does."""
        for _ in range(count):
            self.round()
            self.alerting.look()

    def told(self) -> list[str]:
        """Return what the command was told so far."""
        bodies = [json.loads(path.read_text()) for path in self.out.glob("*.json")]
        rows = [row for body in bodies for row in body["alerts"]]
        return sorted(f"{row['labels']['alertname']}: {row['status']}" for row in rows)

    def firing(self) -> list[str]:
        """Return the rules that fire."""
        return [alert.rule for alert in self.alerting.report().firing]

    def submit(self, run: str = "digits", **spec: object) -> None:
        """Have a job run."""
        from resilient_nb.control.commands import Commands

        request = rq.Submit(run, a_spec(**spec), f"{run} {self.clock()}")
        Commands(self.engine, "here")(request, "ada")
        self.second(2)

    def fail(self, kind: str = "ValueError") -> None:
        """Have the ranks of all jobs fail."""
        for rank in list(self.hosts["h0"].ranks.values()):
            self.hosts["h0"].end(rank, Outcome.FAILED, error=an_error(kind))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.second(2)
    yield made
    made.alerting.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; pytest-timeout bounds it."""
    while not condition():
        time.sleep(0.005)


def test_a_job_that_fails_is_told_once_and_over_when_it_goes_on(site: Site) -> None:
    site.engine.set_policy(Policy(channels={"tell": site.tell}))
    site.submit()
    site.fail()
    site.second(3)
    assert site.firing() == ["job failed"]
    [alert] = site.alerting.report().firing
    assert alert.text.startswith("digits#1 failed: error in the cell. ValueError: boom")
    until(lambda: site.told() == ["job failed: firing"])
    site.second(3)
    site.submit()
    assert site.firing() == []
    until(lambda: site.told() == ["job failed: firing", "job failed: resolved"])
    [over] = site.alerting.report().recent
    assert over.labels["user"] == "ada"


def test_a_restart_tells_nothing_again(site: Site) -> None:
    site.engine.set_policy(Policy(channels={"tell": site.tell}))
    site.submit()
    site.fail()
    site.second(2)
    until(lambda: site.told() == ["job failed: firing"])
    until(lambda: not site.alerting.report().channels[0].waiting)
    site.second()  # which notes that it was sent
    for _ in range(2):
        site.restart()
        site.second(3)
        assert site.firing() == ["job failed"]
    assert site.told() == ["job failed: firing"]
    assert not any(sender.waiting() for sender in site.alerting._senders.values())


def test_what_happened_as_nobody_looked_is_told_after_the_restart(site: Site) -> None:
    site.submit()
    site.fail()
    site.round()  # the engine has it in its journal, and then it is killed
    assert site.firing() == []
    site.restart()
    site.second()
    assert site.firing() == ["job failed"]


def test_what_wasnt_sent_is_sent_after_a_restart(site: Site, tmp_path: Path) -> None:
    broken = Channel("command", command=(str(tmp_path / "nothing"),))
    site.engine.set_policy(Policy(channels={"tell": broken}))
    site.submit()
    site.fail()
    site.second(2)
    until(lambda: site.alerting.report().channels[0].trouble)
    site.second()
    assert any("Alerts can't be sent by tell" in text for text in site.engine.alerts.values())
    site.restart()
    site.engine.set_policy(Policy(channels={"tell": site.tell}))
    site.second()
    until(lambda: site.told() == ["job failed: firing"])


def test_the_first_start_tells_nothing_of_the_past(site: Site, tmp_path: Path) -> None:
    site.submit()
    site.fail()
    site.second(2)
    (tmp_path / "alerts.json").unlink()
    site.restart()
    site.second(2)
    assert site.firing() == []


def test_a_file_that_cant_be_read_begins_anew(site: Site, tmp_path: Path) -> None:
    site.submit()
    site.second()
    (tmp_path / "alerts.json").write_text('{"known": 3}')
    site.restart()
    site.second(2)
    assert site.firing() == []


def test_a_full_disk_stops_no_alert(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resilient_nb.control.alerting.os.replace", full)
    site.engine.set_policy(Policy(channels={"tell": site.tell}))
    site.submit()
    site.fail()
    site.second(2)
    until(lambda: site.told() == ["job failed: firing"])


def test_a_metric_and_a_panel(site: Site) -> None:
    rule = Rule("loss is high", "metric:loss", above=5.0, calm=2.0, text="Loss {value} of {job}.")
    site.engine.set_policy(Policy(alerts=(rule,)))
    site.submit()
    sample = Sample("digits#1", 1, 0, step=3, state="running", points=((3, {"loss": 7.5}),))
    site.engine.live.sample(sample, "h0", site.clock())
    site.second()
    assert site.firing() == ["loss is high"]
    view = site.engine.view(site.engine.world.jobs["digits#1"])
    assert view.alerts == ("Loss 7.5 of digits#1.",)
    assert site.engine.queue.report().alerts == ("1 alert of jobs: %resilient alerts.",)
    low = Sample("digits#1", 1, 0, step=4, state="running", points=((4, {"loss": 1.0}),))
    site.engine.live.sample(low, "h0", site.clock())
    site.second(4)
    assert site.firing() == []
    assert site.engine.view(site.engine.world.jobs["digits#1"]).alerts == ()
    assert site.engine.queue.report().alerts == ()


def test_a_metric_that_is_no_longer_logged(site: Site) -> None:
    rule = Rule("no new loss", "metric:loss", Kind.ABSENCE, lasting=5.0)
    site.engine.set_policy(Policy(alerts=(rule,)))
    site.submit()
    sample = Sample("digits#1", 1, 0, step=3, state="running", points=((3, {"loss": 7.5}),))
    site.engine.live.sample(sample, "h0", site.clock())
    site.second(4)
    assert site.firing() == []
    site.second(2)
    assert site.firing() == ["no new loss"]


def test_memory_near_the_limit(site: Site) -> None:
    site.submit()
    for _ in range(12):
        sample = Sample("digits#1", 1, 0, step=3, state="running", rss=95, limit=100)
        site.engine.live.sample(sample, "h0", site.clock())
        site.second()
    assert site.firing() == ["memory near the limit"]
    [alert] = site.alerting.report().firing
    assert alert.text == "Rank 0 of digits#1 on h0 uses 95 % of its memory limit."


def test_a_silent_host_with_ranks(site: Site) -> None:
    site.submit()
    site.agent_leaves("h0")
    site.second(25)
    assert site.firing() == ["host silent"]
    site.hosts["h0"].agent = True
    site.second(8)
    assert site.firing() == []


def test_trouble_of_the_cluster_is_told_to_people_and_shown_once(site: Site) -> None:
    site.engine.set_policy(Policy(channels={"tell": site.tell}))
    site.engine.set_alert("policy", "The policy is broken.")
    site.second(2)
    assert site.firing() == ["cluster trouble"]
    assert site.engine.queue.report().alerts == ("The policy is broken.",)
    until(lambda: site.told() == ["cluster trouble: firing"])
    site.engine.set_alert("policy", None)
    site.second(2)
    assert site.firing() == []


def test_routes_and_a_rule_that_is_off(site: Site) -> None:
    policy = Policy(
        channels={"tell": site.tell},
        routes=(Route(("tell",), {"user": ("eve",)}), Route(("tell",), severity=Severity.WARNING)),
        alerts=(Rule("cluster trouble", "trouble", above=0, off=True),),
    )
    site.engine.set_policy(policy)
    site.engine.set_alert("policy", "The policy is broken.")
    site.second(2)
    assert site.firing() == []
    site.submit()
    site.fail()
    site.second(2)
    until(lambda: site.told() == ["job failed: firing"])


def test_a_test_is_for_administrators(site: Site) -> None:
    site.engine.set_policy(Policy(channels={"tell": site.tell}))
    with pytest.raises(NotAllowed, match="eve is no administrator"):
        site.alerting.tester("eve")
    [found] = site.alerting.tester("ada")()
    assert (found.channel, found.error) == ("tell", "")
    assert site.told() == ["test: firing"]


def test_a_listener_that_fails_undoes_nothing(site: Site) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("oh")

    site.engine.listeners.insert(0, broken)
    site.submit()
    site.fail()
    site.second(2)
    assert site.firing() == ["job failed"]
