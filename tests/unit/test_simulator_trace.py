"""Reading traces, fitting clusters to them, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient_nb import cli
from resilient_nb.core.model import Priority
from resilient_nb.core.policy import DEFAULT_GROUP
from resilient_nb.errors import InvalidRequest
from resilient_nb.simulator import synthetic
from resilient_nb.simulator.trace import (
    Job,
    Trace,
    fitting_workers,
    make,
    read,
    scaled,
    squeezed,
    usage,
    window,
)

HEADER = "submit_s,user,group,workers,duration_s,priority\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "20,ann,red,2,60,high\n5,,red,1,30.5,\n5,,,1,1,LOW\n")
    (found,) = read(path)
    assert found.name == "some"
    assert found.jobs == (
        Job(0, "user of red", "red", 1, 30.5),
        Job(0, f"user of {DEFAULT_GROUP}", DEFAULT_GROUP, 1, 1, Priority.LOW),
        Job(15, "ann", "red", 2, 60, Priority.HIGH),
    )


def test_more_columns_and_workloads(tmp_path: Path) -> None:
    text = "workload,submit_s,app,workers,est_duration_s,req_s\n0,1,x,2,3,9\n1,5,y,1,7,\n"
    first, second = read(write(tmp_path, text))
    assert (first.name, second.name) == ("some/0", "some/1")
    assert first.jobs[0].declared == 9
    assert second.jobs[0].declared is None
    assert second.jobs[0].duration == 7


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x,u,g,1,1,", "submit_s is 'x'; it must be a number"),
        ("-1,u,g,1,1,", "submit_s is -1; it must be at least 0"),
        ("1,u,g,,1,", "workers is missing"),
        ("1,u,g,0,1,", "workers is 0; it must be at least 1"),
        ("1,u,g,1.5,1,", "workers is 1.5, which isn't a whole number"),
        ("1,u,g,1,0,", "duration_s is 0; it must be more"),
        ("1,u,g,1,nan,", "duration_s is nan"),
        ("1,u,g,1,inf,", "duration_s is inf"),
        ("1,u,g,1,1,soon", "priority is 'soon'; it must be low, normal, high, urgent or empty"),
        ("1,u,g", "workers is missing"),
        ("1,u,g,1,1,,9", "more values than the header"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"some.csv, line 3: .*{words}"):
        read(write(tmp_path, HEADER + "0,u,g,1,1,\n" + line + "\n"))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="line 1: no column submit_s nor duration_s"):
        read(write(tmp_path, "time,workers\n1,1\n"))
    with pytest.raises(InvalidRequest, match="no jobs"):
        read(write(tmp_path, HEADER))
    with pytest.raises(InvalidRequest, match="Can't read"):
        read(tmp_path / "none.csv")


def regular(count: int, gap: float, workers: int, duration: float) -> Trace:
    return make("regular", [Job(n * gap, "u", "g", workers, duration) for n in range(count)])


def test_the_cluster_fits_the_trace() -> None:
    trace = regular(1001, gap=10, workers=2, duration=100)
    # Ten jobs of two at any time, but for the beginning and the end.
    assert usage(trace) == pytest.approx(20, rel=0.01)
    assert fitting_workers(trace, load=0.5) == 40
    assert fitting_workers(regular(11, gap=1000, workers=7, duration=1)) == 7


def test_a_sparse_trace_is_squeezed_to_the_load() -> None:
    trace = regular(1001, gap=100, workers=8, duration=50)
    closer = squeezed(trace, workers=8, load=0.8)
    assert usage(closer) == pytest.approx(6.4, rel=0.01)
    assert closer.jobs[1].duration == 50
    assert squeezed(trace, workers=4, load=0.8) is trace


def test_windows_begin_at_0() -> None:
    trace = regular(10, gap=100, workers=1, duration=50)
    assert [job.submit for job in window(trace, 3, 5).jobs] == [0, 100, 200]
    assert [job.submit for job in scaled(trace, 0.5).jobs[:3]] == [0, 50, 100]


def test_made_up_traces_are_the_seeds() -> None:
    one, two = synthetic.bursty(1, 50), synthetic.bursty(1, 50)
    assert one == two
    assert one != synthetic.bursty(2, 50)


TEXT = HEADER + "0,ann,red,2,600,\n0,bob,red,2,60,\n30,eve,blue,4,60,\n"


def test_the_command_prints_settings_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, TEXT))
    assert cli.main(["simulate", path, "--policy", "fifo,fair", "--workers", "4"]) == 0
    printed = capsys.readouterr().out
    assert "4 identical slots" in printed
    assert "save + restore 40 s" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("f")] == [
        "fifo",
        "fair",
    ]


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, TEXT))
    words = ["simulate", path, path, "--policy", "all", "--json", "--replan-every", "0"]
    assert cli.main([*words, "--workers", "4", "--limit", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["jobs"] for each in found] == [2, 2]
    assert found[0]["settings"]["workers"] == 4
    assert {row["policy"]: row["jct"] for row in found[0]["results"]}["fifo"] == 330
    assert len(found[0]["results"]) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "best"], "No policy 'best'"),
        (["--workers", "3"], "needs 4 workers; the cluster has 3"),
        (["--workers", "0"], "must be more than 0"),
        (["--save-restore", "x"], "'x' isn't a number"),
        (["--first", "9"], "Lower --first"),
        (["--workload", "7"], "has no workload 7"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    path = str(write(tmp_path, TEXT))
    assert cli.main(["simulate", path, *words]) == 2
    assert said in capsys.readouterr().err
    assert cli.main(["simulate", path, *words, "--json"]) == 2
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]
