"""A bit of a stopped job's head is flipped: the resumed job goes on from the checkpoint before."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch

from cells import GATED, finish, results, submit, train, wait
from resilient_nb import cli
from resilient_nb.client import Client
from resilient_nb.core.causes import DAMAGED
from resilient_nb.core.model import JobState
from resilient_nb.core.views import CheckpointView
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.wire.requests import Resume

OUT = ("weights", "history", "seen")


def flip_a_bit(checkpoint: CheckpointView) -> str:
    """Damage a tensor that this checkpoint wrote itself; return its name."""
    opened = open_checkpoint(checkpoint.path)
    own = [
        record
        for record in opened.manifest.tensors
        if record.at == checkpoint.id and record.nbytes and record.name.startswith("model/")
    ]
    record = own[0]
    [chunk] = record.sums
    path = Path(checkpoint.path, record.key, chunk)
    data = bytearray(path.read_bytes())
    data[(record.offset or 0) * 4] ^= 0x10
    path.write_bytes(data)
    return record.name


def test_a_job_goes_on_from_the_checkpoint_before_the_damage(
    client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cancelled = tmp_path / "cancelled"
    reference = finish(client, submit(client, "whole", train(epochs=3), 2, OUT))
    source = train(epochs=3, pause=0.1, gates={12: cancelled})
    job = submit(client, "damaged", source, 2, OUT, **GATED)
    wait(client, job, lambda view: len(view.checkpoints) >= 2)
    client.cancel(job)
    cancelled.touch()
    assert finish(client, job).state is JobState.CANCELLED

    [run] = client.runs("damaged")
    head = client.resolve("damaged")
    before = next(c for c in run.checkpoints if c.id == head.parent)
    name = flip_a_bit(head)
    again = client.resume(Resume("damaged", uuid.uuid4().hex)).job
    view = finish(client, again)
    assert view.state is JobState.SUCCEEDED, view.failures
    [failure] = view.failures
    assert (failure.cause, failure.resumes_from) == (DAMAGED, before.step)
    assert f"Checkpoint {head.id} is damaged: {name} " in failure.message
    assert f"goes on from {before.ref}" in failure.reason

    # As if nothing had happened, but for the steps that were made twice.
    ours, theirs = results(client, again), results(client, reference.id)
    assert ours["history"] == theirs["history"]
    assert ours["seen"] == theirs["seen"]
    for key, tensor in theirs["weights"].items():
        assert torch.equal(ours["weights"][key], tensor), key
    assert client.resolve("damaged").digest == client.resolve("whole").digest

    # And the scrubber finds what the job has found.
    assert cli.main(["verify", "damaged"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"{head.ref} is damaged: - {name} doesn't match its checksum" in out
    assert f"newest good one before it is {before.ref}: resilient rollback {before.ref}" in out
    assert cli.main(["verify", "whole"]) == 0
