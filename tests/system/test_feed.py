"""The feed through a real cluster: a client that is told only what changes sees a job through."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cells import finish, submit, train
from resilient_nb.client import Client
from resilient_nb.wire.feed import Follow, Followed


def delta(answer: Followed, job: str) -> dict[str, Any] | None:
    found = (json.loads(text) for text in answer.jobs)
    return next((told for told in found if told["job"] == job), None)


@pytest.mark.timeout(120)
def test_a_follower_sees_a_job_through(client: Client) -> None:
    first = client.request(Follow(), Followed)
    assert first.cluster_id == client.cluster().cluster_id
    assert json.loads(first.board)["full"]
    job = submit(client, "followed", train(epochs=3, pause=0.02), workers=2)
    cursor, states, steps = first.cursor, [], []
    known: dict[str, Any] = {}
    points: list[Any] = []
    jobs: tuple[str, ...] = ()
    while not states or states[-1] not in ("succeeded", "failed", "cancelled"):
        answer = client.follow(Follow(cursor, jobs, wait=5.0))
        cursor = answer.cursor
        for row in json.loads(answer.board)["rows"] if answer.board else ():
            if row["id"] == job:
                states.append(row["state"])
                steps.append(row["step"])
        if not jobs and states:
            jobs = (job,)
            answer = client.follow(Follow(0, jobs, board=False))
        if (told := delta(answer, job)) is not None:
            known.update({name: value for name, value in told.items() if value is not None})
            for new in filter(None, [told["points"].get("loss")]):
                points = [p for p in points if p[0] < new[0][0]] + new
    last = client.follow(Follow(0, jobs, board=False))
    view = finish(client, job)
    assert states[-1] == view.state == "succeeded"
    assert steps == sorted(steps)
    told = delta(last, job)
    assert told is not None
    assert told["head"]["step"] == view.step == 21
    assert [row[1] for row in told["ranks"]] == [row.state for row in view.ranks]
    assert [c["step"] for c in told["run"]["checkpoints"]] == [c.step for c in view.checkpoints]
    assert [tuple(p) for p in told["points"]["loss"]] == list(view.series["loss"])
    # What was told bit by bit is a beginning of the whole.
    assert points == told["points"]["loss"][: len(points)]
    assert client.follow(Follow(last.cursor, ("nobody#1",), False, 0.1)).unknown == ("nobody#1",)
