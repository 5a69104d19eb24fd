"""The verbs of queue and jobs, from what is typed to what is shown, over the real messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

import resilient_nb
from resilient_nb import cli, connection
from resilient_nb.client import Client, Tls
from resilient_nb.control.commands import Commands
from resilient_nb.core import lookup
from resilient_nb.core.model import (
    Cell,
    JobSpec,
    JobState,
    Outcome,
    Priority,
    Resources,
    Scaling,
)
from resilient_nb.core.views import (
    ClusterView,
    JobView,
    QueueReport,
    QueueRow,
    RunView,
    ShareRow,
    WhyReport,
)
from resilient_nb.errors import (
    ClusterUnreachable,
    InvalidRequest,
    NotAllowed,
    UnknownName,
    from_wire,
)
from resilient_nb.handles import Job
from resilient_nb.notebook.capture import Capture
from resilient_nb.notebook.execute import execute
from resilient_nb.notebook.magic import job_spec
from resilient_nb.notebook.options import (
    CellOptions,
    parse_arguments,
    parse_cell_line,
    parse_line,
)
from resilient_nb.notebook.panel import Rich
from resilient_nb.testing.builders import a_spec
from resilient_nb.testing.fakes import FakeCluster, fake_settings
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import build, plain

T = TypeVar("T")

ROW = QueueRow(
    "digits#2", JobState.QUEUED, "ann", "vision", "high", False, 2, 8, 0, 1, 1e9,
    "Needs 2 slots at once; 1 of 4 is free.", "no slots", None,
)  # fmt: skip
QUEUE = QueueReport(4, 3, (ROW,), (ShareRow("vision", "", 2.0, 4.0, 3, 2, 0.4, 0.5),), ("Mind.",))
WHY = WhyReport(
    "digits#2", JobState.QUEUED, "no slots", "1 of 4 is free.", None,
    ("Start smaller: `%%resilient digits --workers 1`.", "`%resilient cancel other#1`"),
)  # fmt: skip


CLUSTER = ClusterView("tls://h:1", "c0ffee", "1", "/store", 4, 3, None, (), (), ())


def a_job(state: JobState = JobState.QUEUED, **changes: Any) -> JobView:
    base = JobView(
        id="digits#2", run="digits", state=state, reason="", priority="high", workers=2,
        user="ann", submitted_at=0.0, started_at=None, ended_at=None, attempts=1, epoch=7, step=20,
        total_steps=100, rate=0.0, eta_s=None, out=(), returned=(), ranks=(), metrics={},
        series={}, checkpoints=(), failures=(), notes=(), label="In [1]", max_workers=8,
    )  # fmt: skip
    return replace(base, **changes)


class FakePlane(Client):
    """A client whose messages are packed, checked and answered here instead of on a cluster."""

    def __init__(self) -> None:
        super().__init__("tcp://nowhere:1")
        self.asked: list[object] = []
        self.job = a_job()
        self.head: str | None = "digits/00000020-e6"
        self.refuse: Exception | None = None
        self.logs: dict[int, bytes] = {}

    def request(self, message: Any, kind: type[T]) -> T:
        request = rq.REQUESTS.unpack(rq.REQUESTS.pack(message))
        assert request == message
        self.asked.append(request)
        return build(kind, plain(self._answer(request)))

    def identity(self) -> rq.Welcome:
        return rq.Welcome("ann", "certificate")

    def _answer(self, request: object) -> object:
        match request:
            case rq.Watch():
                return rq.Watched(1, self.job)
            case rq.GetCluster():
                return CLUSTER
            case rq.GetQueue():
                return QUEUE
            case rq.Why():
                return WHY
            case rq.ListRuns():
                return [RunView("digits", 0.0, self.head, None, {}, (), ("digits#2",), None)]
            case rq.ReadLog():
                data = self.logs.get(request.rank, b"")
                return rq.LogPiece(data[request.offset :], request.offset, len(data), 7, (7,))
            case rq.Restart():
                if self.refuse is not None:
                    raise self.refuse
                return replace(self.job, state=JobState.STOPPING)
        raise AssertionError(request)


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    plane = FakePlane()
    monkeypatch.setattr(connection, "current", lambda *_: plane)
    return plane


@pytest.fixture(params=["magic", "shell"])
def typed(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Run what is typed after `%resilient`, or after `resilient` in a shell."""
    if request.param == "magic":
        return lambda line: execute(parse_line(line), shell=object())
    return lambda line: execute(parse_arguments(line.split()))


def test_queue_shows_the_report(plane: FakePlane, typed: Callable[[str], Any]) -> None:
    shown = typed("queue")
    assert isinstance(shown, Rich)
    assert shown.data == QUEUE
    assert "! Alert: Mind." in str(shown)
    assert "digits#2" in shown.html
    assert plane.asked == [rq.GetQueue()]


def test_why_shows_rule_and_remedies(plane: FakePlane, typed: Callable[[str], Any]) -> None:
    text = str(typed("why digits"))
    assert "A gang starts whole or not at all: 1 of 4 is free." in text
    assert "1. Start smaller: `%%resilient digits --workers 1`." in text
    assert "cancel other#1`" in text
    assert plane.asked[:2] == [rq.Watch("digits", -1, 0.0), rq.Why("digits#2")]


def test_what_why_offers_can_be_pasted_where_it_was_asked(plane: FakePlane) -> None:
    magic = execute(parse_line("why digits"), shell=object())
    assert "`%resilient cancel other#1`" in str(magic)
    shell = execute(parse_arguments(["why", "digits"]))
    assert "`resilient cancel other#1`" in shell
    assert "`%%resilient digits --workers 1`" in shell  # a cell has no other form


def test_restart_names_the_attempt_that_is_meant(
    plane: FakePlane, typed: Callable[[str], Any]
) -> None:
    plane.job = a_job(JobState.RUNNING)
    shown = typed("restart digits")
    assert str(shown) == "The ranks of digits#2 are ended; it starts again from digits@20."
    assert shown.data.state is JobState.STOPPING
    assert rq.Restart("digits#2", 7) in plane.asked
    plane.head = None
    assert str(typed("restart digits")).endswith("it starts again from the beginning.")


def test_restart_of_what_has_ended_says_what_to_do(plane: FakePlane) -> None:
    plane.job = a_job(JobState.FAILED)
    with pytest.raises(InvalidRequest, match=r"has ended \(failed\).*`resume digits` goes on"):
        execute(parse_line("restart digits"), shell=object())
    assert not any(isinstance(request, rq.Restart) for request in plane.asked)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("queue", QUEUE), ("why digits", WHY), ("restart digits", a_job(JobState.STOPPING))],
)
def test_json_is_the_dataclass_and_fits_the_schema(
    plane: FakePlane, capsys: pytest.CaptureFixture[str], line: str, expected: Any
) -> None:
    plane.job = a_job(JobState.RUNNING)
    assert cli.main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(plain(expected)))
    assert cli.main(["schema"]) == 0
    definition = json.loads(capsys.readouterr().out)["$defs"][type(expected).__name__]
    assert set(found) == set(definition["properties"])


def test_a_refusal_is_one_line_and_a_status(
    plane: FakePlane, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.job = a_job(JobState.RUNNING)
    plane.refuse = NotAllowed("digits#2 is ann's: only ann or an administrator may restart it.")
    assert cli.main(["restart", "digits"]) == 1
    assert capsys.readouterr().err == f"resilient: {plane.refuse}\n"
    assert cli.main(["restart", "digits", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert isinstance(from_wire(error), NotAllowed)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (JobState.CANCELLED, "digits#2 was cancelled already."),
        (JobState.FAILED, "digits#2 has failed already."),
        (JobState.SUCCEEDED, "digits#2 has succeeded already."),
    ],
)
def test_cancel_of_what_has_ended_says_how(plane: FakePlane, state: JobState, said: str) -> None:
    plane.job = a_job(state)
    assert execute(parse_arguments(["cancel", "digits"])) == said


def test_logs_of_a_rank_or_an_attempt_that_isnt_there_say_which_are(
    plane: FakePlane, typed: Callable[[str], Any]
) -> None:
    plane.job = a_job(JobState.FAILED)
    with pytest.raises(UnknownName, match="digits#2 has no rank 8; it has ranks 0 to 7"):
        typed("logs digits --rank 8")
    with pytest.raises(UnknownName, match="no output of attempt 99; there is of 7"):
        typed("logs digits --attempt 99")
    plane.job = a_job(JobState.FAILED, workers=1, max_workers=0)
    with pytest.raises(UnknownName, match="digits#2 has no rank 1; it has rank 0 only"):
        typed("logs digits --rank 1 --follow")


def test_hints_in_a_shell_are_what_a_shell_takes(
    plane: FakePlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.job = a_job(JobState.RUNNING)
    plane.refuse = InvalidRequest("End it first: %resilient down.")
    assert cli.main(["restart", "digits"]) == 2
    assert capsys.readouterr().err == "resilient: End it first: resilient down.\n"
    plane.logs = {0: b"see %resilient down\n"}  # what a rank prints stays as it is
    assert cli.main(["logs", "digits", "--rank", "0"]) == 0
    assert capsys.readouterr().out == "see %resilient down\n"
    monkeypatch.setattr(cli, "execute", lambda command: "Try %resilient queue.")
    assert cli.main(["jobs"]) == 0
    assert capsys.readouterr().out == "Try resilient queue.\n"


def test_the_shell_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"resilient_nb {resilient_nb.__version__}\n"


def test_logs_of_an_elastic_gang_are_of_all_ranks_that_spoke(plane: FakePlane) -> None:
    plane.logs = {0: b"zero\n", 3: b"three\n"}
    text = execute(parse_arguments(["logs", "digits"]))
    assert text == "--- rank 0\nzero\n--- rank 1\n--- rank 3\nthree"


def test_certificates_reach_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def connect(*how: object) -> ClusterView:
        made.append(how)
        return CLUSTER

    monkeypatch.setattr(connection, "connect", connect)
    execute(parse_arguments(["connect", "tls://h:1", "--ca-file", "ca.pem", "--cert", "me.pem"]))
    execute(parse_arguments(["connect", "tcp://h:1"]))
    assert made == [("tls://h:1", Tls("ca.pem", "me.pem", "")), ("tcp://h:1", Tls())]


def test_doctor_says_who_the_cluster_takes_you_for(plane: FakePlane) -> None:
    text = str(execute(parse_arguments(["doctor"])))
    assert "you         ann, by the TLS certificate" in text
    assert "tls://h:1" in text


def test_doctor_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def current(*_: object) -> Client:
        raise ClusterUnreachable("No cluster is up.")

    monkeypatch.setattr(connection, "current", current)
    text = str(execute(parse_arguments(["doctor"])))
    assert "! No cluster is up." in text
    assert "you         not known without a cluster" in text


def test_the_options_of_a_cell_reach_the_jobs_spec(tmp_path: Path) -> None:
    line = (
        "digits --workers 2:8 --scale-lr sqrt --memory 2GiB --cpus 4 --gpus 1 --priority high "
        "--group vision --after prep,other#2 --duration 90m --admin"
    )
    options = parse_cell_line(line)
    assert isinstance(options, CellOptions)
    nothing = Capture((), b"", {})
    spec, payload = job_spec(options, nothing, "pass", "In [1]", fake_settings(tmp_path))
    assert payload == b""
    assert spec == JobSpec(
        Cell("pass", "In [1]", "In [1]"), workers=2, max_workers=8, scaling=Scaling.SQRT,
        needs=Resources(4.0, 2 << 30, 1), priority=Priority.HIGH, group="vision", admin=True,
        after=("prep", "other#2"), duration=5400.0, user=spec.user,
    )  # fmt: skip
    assert spec.elastic
    plainest, _ = job_spec(CellOptions(), nothing, "pass", "In [1]", fake_settings(tmp_path))
    assert plainest == JobSpec(Cell("pass", "In [1]", "In [1]"), user=spec.user)


def test_the_same_from_python(plane: FakePlane) -> None:
    assert resilient_nb.queue() == QUEUE
    plane.job = a_job(JobState.RUNNING)
    job = Job(plane, "digits#2")
    assert job.why() == WHY
    assert job.restart().state is JobState.STOPPING


# -- with the real control plane, on hosts that are models


class RealPlane(Client):
    """A client of an engine in this process; every request is `user`'s."""

    def __init__(self, home: Path, slots: int) -> None:
        super().__init__("tcp://nowhere:1")
        self.plane = FakeCluster(home, {"h0": slots})
        self._commands = Commands(self.plane.engine, self.address)
        self.user = "ann"
        self.plane.round()

    def request(self, message: Any, kind: type[T]) -> T:
        request = rq.REQUESTS.unpack(rq.REQUESTS.pack(message))
        if isinstance(request, rq.Watch):
            job = lookup.job(self.plane.engine.world, request.job)
            return build(kind, plain(rq.Watched(1, self.plane.engine.view(job))))
        return build(kind, plain(self._commands(request, self.user)))

    def submit_as(self, user: str, run: str, workers: int = 1, **spec: Any) -> None:
        self.user = user
        self.submit(rq.Submit(run, a_spec(workers, **spec), f"{run}-{user}"))

    def rounds(self, seconds: float) -> None:
        """Let time pass; ranks that were asked to leave do, with a checkpoint."""
        self.plane.round(seconds)
        for host in self.plane.hosts.values():
            for rank in [rank for rank in host.ranks.values() if rank.leaving]:
                host.end(rank, Outcome.LEFT)
        self.plane.round()


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealPlane:
    real = RealPlane(tmp_path, 4)
    monkeypatch.setattr(connection, "current", lambda *_: real)
    return real


def shown(line: str) -> str:
    """Return what `%resilient` shows, its lines joined."""
    return " ".join(str(execute(parse_line(line), shell=object())).split())


def test_a_waiting_gang_is_explained_and_what_it_waits_for_restarted(real: RealPlane) -> None:
    real.submit_as("ann", "wide", 4)
    real.submit_as("bob", "small", 2)
    real.submit_as("bob", "later", after=("small",))
    real.rounds(1.0)
    queue = shown("queue")
    assert "4 of 4 slots in use · 1 running · 2 waiting" in queue
    assert "1 small#1 ○ queued bob everyone normal 2" in queue
    assert "Needs 2 workers at once; 0 of 4 slots are free." in queue
    assert "! A gang starts whole or not at all: Needs 2 workers" in shown("why small")
    assert "! It isn't ready to start: Waits for small#1" in shown("why later")
    assert "after small#1" in shown("show later")
    real.user = "ann"
    assert shown("restart wide").startswith("The ranks of wide#1 are ended")
    real.rounds(1.0)
    assert "attempt 2" in shown("show wide")


def test_a_preempted_job_says_by_whom(real: RealPlane) -> None:
    real.submit_as("ann", "calm", 4, priority=Priority.LOW)
    real.rounds(7200.0)
    real.submit_as("bob", "rush", 4, priority=Priority.URGENT, duration=600.0)
    real.rounds(300.0)
    real.rounds(1.0)
    assert "► running rush#1" in shown("show rush")
    assert "Waiting: Preempted by rush#1; goes on from" in shown("show calm")
    assert "Preempted by rush#1" in shown("why calm")


def test_only_the_owner_and_administrators_restart(real: RealPlane) -> None:
    real.submit_as("ann", "digits")
    real.rounds(1.0)
    real.user = "eve"
    with pytest.raises(NotAllowed, match="ann's, and you are eve"):
        shown("restart digits")
