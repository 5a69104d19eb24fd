"""What ranks record, for real: where the time of steps went, and how it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gangs import Gang, Supervised

from cells import finish, submit, train
from resilient_nb.api import query
from resilient_nb.client import Client
from resilient_nb.core.model import Interval
from resilient_nb.handles import Job

PARTS = ("data_s", "compute_s", "wait_s", "checkpoint_s")

#: Rank 0 waits for its data, rank 1 computes for long, and both meet in each step.
UNEVEN = """
import time, torch
from torch import nn

class Slow(torch.utils.data.Dataset):
    def __len__(self): return 60
    def __getitem__(self, i):
        if run.rank == 0: time.sleep(0.01)
        return torch.ones(4)

model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
run.track(model=model, optimizer=optimizer)
for x in run.batches(Slow(), batch_size=2):
    if run.rank == 1:
        end = time.perf_counter() + 0.03
        while time.perf_counter() < end: pass
    model(x).sum().backward()
    optimizer.step(); optimizer.zero_grad()
    run.log(loss=1.0 / run.step if run.step else 9.0)
    if run.step == 20: open("/dev/zero").close(); open("/proc/self/maps").read()
    if run.step == 28: run.barrier()
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path_factory.mktemp("facts") / "place")
    yield supervised
    supervised.end()


def test_compute_data_and_wait_are_told_apart(host: Supervised, tmp_path: Path) -> None:
    gang = Gang([host], tmp_path, UNEVEN, interval=Interval(steps=10))
    gang.begin([2])
    assert [end.step for end in gang.ended()] == [30, 30]
    for rank in (0, 1):
        mine = [s for s in gang.samples if s.rank == rank]
        assert sum(s.steps for s in mine) == 30
        assert sum(s.items for s in mine) == 60  # of both ranks together
        sums = {part: sum(getattr(s, part) for s in mine) for part in PARTS}
        assert sum(sums.values()) >= 30 * 0.03
        assert sums["checkpoint_s"] > 0
        if rank == 0:
            assert sums["data_s"] >= 30 * 0.01
            # The rest of the other's 30 ms.
            assert sums["wait_s"] > 30 * 0.01
            assert sums["compute_s"] < 30 * 0.02
        else:
            assert sums["compute_s"] >= 30 * 0.03
            assert sums["data_s"] < 30 * 0.01
        assert 0.03 <= max(s.longest_s for s in mine) <= sum(sums.values())
        assert mine[-1].phase == "ended"
        assert {s.phase for s in mine} <= {
            "starting", "data", "compute", "wait", "checkpoint", "ended",
        }  # fmt: skip


#: Says nothing, and does nothing that it could be asked about, for a while.
QUIET = """
import time
for _ in run.steps(1):
    time.sleep(2.5)
"""


def test_a_rank_is_heard_of_though_nothing_is_new(host: Supervised, tmp_path: Path) -> None:
    gang = Gang([host], tmp_path, QUIET, "quiet#1")
    gang.begin([1])
    gang.ended()
    said = {s.phase_s for s in gang.samples if s.phase == "compute"}
    assert len([seconds for seconds in said if seconds > 0.5]) >= 2
    assert max(said) > 1.2


def test_a_job_is_found_by_its_numbers_and_its_facts_are_kept(client: Client) -> None:
    job = submit(client, "recorded", train(epochs=2, pause=0.1), workers=2)
    finish(client, job)
    [row] = query(run="recorded", metric="loss<1e9", state="succeeded", frame=False)
    assert (row["job"], row["step"], row["steps"]) == (job, 14, 14)
    assert row["items"] == 420
    assert row["compute_s"] > 0
    assert row["memory"] > 1 << 20
    assert any("TensorDataset" in name for name in row["data"])
    assert query(run="recorded", metric="loss>1e9", frame=False) == []
    rows = Job(client, job).facts(frame=False)
    assert {rank: sum(r["steps"] for r in rows if r["rank"] == rank) for rank in (0, 1)} == {
        0: 14, 1: 14,
    }  # fmt: skip
