"""`resilient chaos`, as a user types it: the job gets over it, and the report says what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cells import finish, results, submit, train, wait
from resilient_nb import cli
from resilient_nb.client import Client
from resilient_nb.core.model import Injection, JobState
from resilient_nb.notebook.chaos import Chaos

OUT = ("weights", "history", "seen")


def chaos(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run the verb; return its report."""
    capsys.readouterr()
    assert cli.main(["chaos", *words, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_a_job_that_is_broken_on_purpose_computes_the_same(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = finish(client, submit(client, "left-alone", train(24), 2, OUT))
    job = submit(client, "broken", train(24, pause=0.06), 2, OUT)
    wait(client, job, lambda view: view.step >= 8)
    killed = chaos(capsys, "broken", "kill-rank", "--rank", "1")
    assert killed["failures"] == ["killed from outside"]
    cut = chaos(capsys, "broken", "drop-network")
    assert cut["failures"] == ["killed from outside", "connection lost"]
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    assert all(any("chaos: " in line for line in f.evidence) for f in view.failures)
    ours, theirs = results(client, job), results(client, whole.id)
    assert ours["history"] == theirs["history"]

    report = chaos(capsys, "broken", "report", "--compare", "left-alone")
    assert (report["unchanged"], report["checked"]) == (True, len(whole.checkpoints))
    assert [row["kind"] for row in report["injected"]] == ["kill-rank", "drop-network"]
    goodput = report["goodput"]
    assert goodput["failures"] == 2
    assert goodput["steps"] == 168
    assert goodput["mttr_s"] > 0
    assert 0 < goodput["goodput"] < 1
    assert cli.main(["chaos", "broken", "report"]) == 0
    assert "Causes found" in capsys.readouterr().out
    assert cli.main(["chaos", "broken", "kill-rank"]) == 2  # it is over
    assert "chaos is for jobs that run" in capsys.readouterr().err


def test_what_lasts_is_over_by_itself(client: Client, tmp_path: Path) -> None:
    """Stopped, slow, without a disk: after that it goes on, and nobody needs to be there."""
    broken = tmp_path / "broken"
    job = submit(client, "lasting", train(40, pause=0.03, until=broken), 2, OUT)
    view = wait(client, job, lambda v: v.step >= 6)
    notes: list[str] = []
    round_ = Chaos(client, job, notes.append)
    round_.inject(Injection.FILL_DISK, 0, 0.3)
    round_.inject(Injection.STOP, 1, 0.5)
    round_.inject(Injection.SLOW, 0, 0.5)
    round_.inject(Injection.HANG, 1, 0.3)
    round_.inject(Injection.KILL_WORKER, 0, None)
    broken.touch()
    view = finish(client, job)
    assert (view.state, view.attempts, view.failures) == (JobState.SUCCEEDED, 1, ())
    assert len(notes) == len(view.chaos) == 5
