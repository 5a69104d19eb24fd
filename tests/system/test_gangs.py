"""Real ranks under a real supervisor: leaving together, sharing workers, growing batches."""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from gangs import Gang, Make, Supervised, making, returned

from cells import train
from resilient_nb.core.model import Interval, Outcome, Scaling


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Supervised]]:
    """Two supervisors, as of two machines."""
    made = [Supervised(tmp_path_factory.mktemp(f"h{n}") / "place") for n in range(2)]
    yield made
    for host in made:
        host.end()


@pytest.fixture
def gang(hosts: list[Supervised], tmp_path: Path) -> Make:
    """Make a gang with a job of its own."""

    return making(hosts, tmp_path)


def outcomes(gang: Gang) -> list[tuple[str, int]]:
    return [(end.outcome.value, end.step) for end in gang.ended()]


# --- leaving ---

#: Each rank goes at a speed of its own; the state is there, but nothing is ever averaged.
UNCOUPLED = """
import time
done = [0]
run.track(done=done)
for n in run.steps(100_000):
    done[0] += 1
    time.sleep(0.0005 if run.rank else 0.002)
"""


def test_all_leave_at_the_same_step_and_nothing_is_lost(gang: Make) -> None:
    made = gang(train(200))
    made.begin([3])
    made.wait(lambda: any(s.step > 3 for s in made.samples))
    made.leave()
    [(outcome, step)] = set(outcomes(made))
    assert outcome == "left"
    assert step > 3
    assert made.head is not None
    assert made.head.step == step
    for end in made.ended():
        assert 0 < end.vacated_s < 30


def test_ranks_of_different_speed_without_collectives_leave_together(gang: Make) -> None:
    made = gang(UNCOUPLED)
    made.begin([3])
    made.wait(lambda: any(s.rank == 2 and s.step > 9 for s in made.samples))
    made.leave()
    [(outcome, step)] = set(outcomes(made))
    assert (outcome, made.head and made.head.step) == ("left", step)
    assert made.stored().state("done") == [step]


def test_one_sigterm_makes_the_whole_gang_leave(gang: Make) -> None:
    """Also on another host: the store tells it."""
    made = gang(train(200))
    made.begin([1, 1])
    pids = made.pids()
    made.wait(lambda: any(s.step > 3 for s in made.samples))
    os.kill(pids[1], signal.SIGTERM)
    [(outcome, step)] = set(outcomes(made))
    assert (outcome, made.head and made.head.step) == ("left", step)
    assert made.ended()[1].vacated_s > 0  # its own account: the supervisor wasn't asked


ASK = "import os, signal, time\ndef ask():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
ASK += "    while not run.should_stop:\n        time.sleep(0.001)\n"


def test_a_gang_that_was_asked_in_a_turn_that_breaks_leaves_before_the_next_loop(
    gang: Make,
) -> None:
    source = (
        ASK
        + """
import torch
w = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([w], lr=1.0)
run.track(w=w)
for n in run.steps(10):
    run.barrier()
    w.grad = torch.ones(1)
    optimizer.step()
    if n == 4:
        if run.rank == 0:
            ask()
        while not run.should_stop:
            time.sleep(0.001)
        break
for n in run.steps(3):
    w.grad = torch.ones(1)
    optimizer.step()
"""
    )
    made = gang(source)
    made.begin([2])
    assert outcomes(made) == [("left", 5)] * 2
    assert made.info()["position"] == {"loop": 1, "epoch": 0, "batch": 0}
    made.begin([2])
    assert outcomes(made) == [("finished", 8)] * 2


def test_before_the_first_loop_all_leave_at_once(gang: Make) -> None:
    """One rank waits for the other in its first step; that one has not begun any."""
    source = (
        ASK
        + """
import torch
if run.rank == 1:
    time.sleep(0.3)
    ask()
    time.sleep(600)
for n in run.steps(3):
    run.barrier()
"""
    )
    made = gang(source)
    made.begin([2])
    assert outcomes(made) == [("left", 0)] * 2
    assert made.head is None


def test_what_a_rank_forks_is_not_asked_to_leave(gang: Make) -> None:
    source = """
import multiprocessing, time
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
child.start()
for n in run.steps(2):
    if n == 0:
        child.terminate()
        child.join(20)
        code = child.exitcode
"""
    made = gang(source, out=("code",))
    made.begin([1])
    assert outcomes(made) == [("finished", 2)]
    assert returned(made) == {"code": -signal.SIGTERM}


def test_one_that_has_finished_is_not_taken_for_one_that_left(gang: Make) -> None:
    """Asked when the loop is over: there is no step left to leave at."""
    source = ASK + "for n in run.steps(3): run.barrier()\nif run.rank == 0: ask()\nrun.barrier()\n"
    made = gang(source)
    made.begin([2])
    assert outcomes(made) == [("finished", 3)] * 2


# --- ranks that share workers ---


def test_a_gang_on_4_2_1_and_4_workers_computes_the_same_bits(gang: Make, tmp_path: Path) -> None:
    """On one host or two, evenly or not, leaving or killed in between."""
    out = ("history", "seen", "weights")
    every = Interval(steps=5)
    fixed = gang(train(8), interval=every, out=out)
    fixed.begin([4])
    assert {outcome for outcome, _ in outcomes(fixed)} == {"finished"}
    expected = returned(fixed)

    gates = {step: tmp_path / f"open-{step}" for step in (14, 28, 42, 52)}
    elastic = gang(train(8, pause=0.01, gates=gates), interval=every, out=out)
    ways = iter(gates.values())
    turns = [([4], [4], "leave"), ([2, 2], [1, 1], "kill"), ([4], [1], "leave"),
             ([1, 3], [1, 2], "kill"), ([4], [4], "")]  # fmt: skip
    for ranks, slots, how in turns:
        elastic.begin(ranks, slots, workers=sum(slots), base_workers=1, elastic=True)
        if how:
            elastic.checkpoint((elastic.head.step if elastic.head else 0) + 3)
            getattr(elastic, how)()
            next(ways).touch()
        found = {end.outcome for end in elastic.ended()}
        if how == "kill":  # a rank whose peer was killed may say so before it is killed, too
            assert found <= {Outcome.EXITED, Outcome.FAILED}
        else:
            assert found == {Outcome.LEFT if how else Outcome.FINISHED}
    ours = returned(elastic)
    assert (ours["history"], ours["seen"]) == (expected["history"], expected["seen"])
    assert all((ours["weights"][k] == v).all() for k, v in expected["weights"].items())
    assert fixed.head is not None
    assert elastic.head is not None
    assert elastic.head.digest == fixed.head.digest
    assert not any("bit for bit" in note for note in elastic.notes)


def test_the_cell_knows_how_many_workers_it_has(gang: Make) -> None:
    made = gang("found = (run.workers, run.world_size, str(run.device))", out=("found",))
    made.begin([4], [2], workers=2, base_workers=1, elastic=True)
    assert outcomes(made) == [("finished", 0)] * 4
    assert returned(made)["found"][:2] == (2, 4)


# --- batches that grow with the workers ---

GROWING = (
    ASK
    + """
import torch
data = torch.utils.data.TensorDataset(torch.arange(240))
w = torch.nn.Linear(1, 1, bias=False)
first = w.weight.item()
optimizer = torch.optim.SGD(w.parameters(), lr=0.5)
run.track(w=w, optimizer=optimizer)
seen, noise = [], []
for [x] in run.batches(data, batch_size=10, epochs=2, shuffle=True):
    run.barrier()
    seen.append((run.epoch, x.tolist()))
    noise.append(torch.rand(1).item())
    w.weight.grad = torch.ones(1, 1)
    optimizer.step()
    if run.rank == 0 and run.step in (7, 17, 23):
        ask()
total = optimizer.param_groups[0]["lr"], first - w.weight.item()
"""
)


def test_every_sample_is_seen_once_though_workers_come_and_go(gang: Make) -> None:
    made = gang(GROWING, interval=Interval(steps=1000), out=("total",))
    seen: Counter[tuple[int, int]] = Counter()
    moved = 0.0
    for workers in (2, 3, 4, 2):
        before = made.head.step if made.head else 0
        made.begin([workers], workers=workers, base_workers=2, scaling=Scaling.LINEAR,
                   elastic=True)  # fmt: skip
        [(outcome, step)] = set(outcomes(made))
        assert outcome == ("left" if step < 30 else "finished")
        moved += (step - before) * 0.5 * workers / 2
        batch = 5 * workers
        assert made.info()["scaling"] == {
            "rule": "linear", "workers": workers, "factor": workers / 2, "batch": batch
        }  # fmt: skip
        [said] = [note for note in made.notes if note.startswith("On ")]
        assert f"global batch {batch}, learning rate × {workers / 2:g} (linear)" in said
        plain = [made.stored(rank).own()["plain"] for rank in range(workers)]
        assert len({values["noise"][-1] for values in plain}) == workers  # also of new ranks
        for values in plain:
            for epoch, numbers in values["seen"][before - step :]:
                seen.update((epoch, n) for n in numbers)
    assert seen == {(epoch, n): 1 for epoch in range(2) for n in range(240)}
    assert returned(made)["total"] == pytest.approx((0.5, moved), abs=1e-4)
    [total] = {row.total_steps for row in made.samples} - {None}
    assert total == step


ITS_CHILD_EXITS = """
import os, signal, sys
import numpy as np
if os.fork() == 0:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.wait()[1]) != 0
for i in run.steps(np.int64(3)):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_fork_that_exits_doesnt_speak_for_the_rank(gang: Make) -> None:
    job = gang(ITS_CHILD_EXITS)
    job.begin([1])
    [end] = job.ended()
    assert (end.outcome, end.step, end.error) == (Outcome.EXITED, 3, None)


CLOSES_ITS_OUTPUT = """
import sys
for i in run.steps(2):
    pass
sys.stdout.close()
sys.stderr = None
"""


def test_a_cell_that_closes_its_output_has_finished_all_the_same(gang: Make) -> None:
    job = gang(CLOSES_ITS_OUTPUT)
    job.begin([1])
    [end] = job.ended()
    assert (end.outcome, end.step) == (Outcome.FINISHED, 2)


COUNTS_WITH_NUMPY = """
import numpy as np
import torch
model = torch.nn.Linear(1, 1)
run.track(model=model)
for x in run.batches(np.arange(8), np.int64(4), epochs=np.int64(1)):
    run.log(loss=np.float32(x.sum()))
for i in run.steps(np.int64(3)):
    pass
"""


def test_a_cell_may_count_with_numpys_numbers(gang: Make) -> None:
    job = gang(COUNTS_WITH_NUMPY, interval=Interval(steps=1))
    job.begin([1])
    [end] = job.ended()
    assert (end.outcome, end.step) == (Outcome.FINISHED, 5)
    assert job.checkpoints[-1].step == 5
    assert job.samples[-1].total_steps == 5
    assert not [note for note in job.notes if "failed" in note]


COUNTS_IN_COLLECTIONS = """
import os, signal
from collections import Counter, defaultdict, deque
import numpy as np
counts, rows, last, total = Counter(), defaultdict(lambda: [0]), deque(maxlen=3), np.zeros(2)
class Meter:
    sum = 0
meter = Meter()
for x in run.batches(np.arange(120), 4, epochs=1):
    if run.step == {at}: os.kill(os.getpid(), signal.SIGKILL)
    counts["seen"] += len(x)
    rows[int(x[0]) % 3][0] += 1
    last.append(int(x[0]))
    total += float(x.sum())
    meter.sum += 1
rows = dict(rows)
"""


def test_containers_of_a_killed_rank_go_on(gang: Make) -> None:
    made = gang(COUNTS_IN_COLLECTIONS.format(at=18), interval=Interval(steps=5),
                out=("counts", "rows", "last", "total"))  # fmt: skip
    made.begin([1])
    [end] = made.ended()
    assert (end.signal, end.step) == (signal.SIGKILL, 18), end
    assert len([note for note in made.notes if "'meter' (Meter) changes" in note]) == 1
    made.source = COUNTS_IN_COLLECTIONS.format(at=-1)
    made.begin([1])
    assert outcomes(made) == [("finished", 30)]
    found = returned(made)
    assert found["total"].tolist() == [sum(range(120))] * 2
    del found["total"]
    assert found == {"counts": {"seen": 120}, "rows": {0: [10], 1: [10], 2: [10]},
                     "last": deque([108, 112, 116])}  # fmt: skip


TENSORS_MADE_ANEW = """
import os, signal, torch
best, ema, bare, n, huge = torch.tensor(0.0), torch.zeros(3), torch.zeros(2), 0, 10**5000
for _ in run.steps(60):
    if run.step == {at}: os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3):                 # where the first was is free by the second turn
        ema = 0.9 * ema + 0.1
        best = best + 1
    bare.data.add_(1)
    n, huge = n + 1, huge + 1
huge -= 10**5000
"""


def test_tensors_that_a_killed_rank_had_made_anew_go_on(gang: Make) -> None:
    """A tensor's place is used again by the next: each may look like the cell's own."""
    out = ("best", "ema", "bare", "n", "huge")
    whole, made = (
        gang(TENSORS_MADE_ANEW.format(at=at), interval=Interval(steps=10), out=out)
        for at in (-1, 48)
    )
    whole.begin([1])
    assert outcomes(whole) == [("finished", 60)]
    made.begin([1])
    [end] = made.ended()
    assert (end.signal, end.step) == (signal.SIGKILL, 48), end
    made.source = whole.source
    made.begin([1])
    assert outcomes(made) == [("finished", 60)]
    assert repr(returned(made)) == repr(returned(whole))
    assert (returned(made)["best"], returned(made)["huge"]) == (180, 60)
