"""Divergence: what is seen of losses, which steps are left out, and what lowers the rate."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median_high
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.divergence import LOWER, first_bad, lowered_since, to_skip
from resilient_nb.core.model import Cell, OnNan, Remedy
from resilient_nb.errors import Diverged
from resilient_nb.rank.divergence import LEAST, WINDOW, LossWatch, Usual
from resilient_nb.rank.failure import pack_error
from resilient_nb.rank.scaling import Lowered, scaled_rates
from resilient_nb.storage.manifest import Manifest
from resilient_nb.testing.builders import Story, a_failure, an_attempt, an_error

numbers = st.floats(-1e9, 1e9)
bads = st.sampled_from([math.nan, math.inf, -math.inf])


# --- seeing it ---


@given(st.sampled_from(["loss", "train_loss", "trainLoss", "total/loss"]), bads, st.integers(0, 99))
def test_a_loss_that_isnt_finite_is_a_divergence(name: str, value: float, step: int) -> None:
    watch = LossWatch(1, OnNan.SKIP)
    watch.look(step, {"accuracy": math.nan, "best_loss": math.inf, "val_loss": math.nan})
    watch.check()
    with pytest.raises(Diverged, match=f"{name} is {value} at step {step} on rank 1.") as caught:
        watch.look(step, {"lr": 1.0, name: value})
    assert (caught.value.metric, caught.value.step) == (name, step)
    for _ in range(2):  # whatever the cell makes of it
        with pytest.raises(Diverged):
            watch.check()
        with pytest.raises(Diverged):
            watch.look(step + 1, {"loss": 0.5})


def test_no_handler_of_errors_swallows_it() -> None:
    assert not issubclass(Diverged, Exception)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (OnNan.SKIP, "leaves this step's batch out (--on-nan skip)."),
        (OnNan.LOWER_LR, "with half the learning rate (--on-nan lower-lr)."),
        (OnNan.STOP, "The run stops here, and its checkpoints are from before it (--on-nan stop)."),
    ],
)
def test_it_says_what_happens_then(policy: OnNan, words: str) -> None:
    with pytest.raises(Diverged) as caught:
        LossWatch(0, policy).look(3, {"loss": math.inf})
    assert str(caught.value).endswith(words)


def test_nobody_looks_if_told_so() -> None:
    assert LossWatch.of(an_attempt(), 0) is None
    assert LossWatch.of(replace(an_attempt(), on_nan=OnNan.SKIP), 0) is not None


@given(st.lists(numbers, max_size=3 * WINDOW))
def test_usual_is_the_median_of_the_last_values(values: list[float]) -> None:
    usual = Usual()
    for value in values:
        usual.add(value)
    assert usual.median == (median_high(values[-WINDOW:]) if len(values) >= LEAST else None)


def test_a_spike_is_a_divergence_if_asked_for() -> None:
    plain, watch = LossWatch(0, OnNan.SKIP), LossWatch(0, OnNan.SKIP, spike=10)
    for step in range(LEAST - 1):
        watch.look(step, {"loss": 2.0, "other": -1.0})
    watch.look(20, {"loss": 19.9})
    for step in range(30):
        plain.look(step, {"loss": 2.0})
    plain.look(31, {"loss": 1e9})
    watch.look(21, {"other": 500.0, "other_loss": 1e9, "loss": 19.9})
    with pytest.raises(Diverged, match=r"loss is 20\.1, more than 10 times its usual 2, at"):
        watch.look(22, {"loss": 20.1})


def test_of_losses_below_zero_none_is_a_spike() -> None:
    watch = LossWatch(0, OnNan.SKIP, spike=2)
    for step in range(100):
        watch.look(step, {"loss": -5.0 + step % 3})


def test_it_is_packed_with_its_metric() -> None:
    error = pack_error(Diverged("loss is nan", "loss", 7), Cell("x"))
    assert (error.type, error.metric) == ("Diverged", "loss")


# --- which steps are left out ---


@given(st.integers(1, 60), st.sets(st.integers(1, 60), max_size=20))
def test_what_diverges_is_left_out_and_what_did_harm_before(bad: int, skipped: set[int]) -> None:
    first, skip = first_bad(bad, skipped), to_skip(bad, skipped)
    assert {bad, *skipped} <= set(skip)
    assert list(skip) == sorted(set(skip))
    assert all(step in skipped for step in range(first, bad))
    assert first - 1 not in skipped
    if first < bad and first > 1:
        assert first - 1 in skip


def test_a_step_whose_gradients_werent_finite_is_found_the_second_time() -> None:
    """Step 6 spoils the parameters; 7 has the loss that tells of it."""
    skip = to_skip(7, ())
    assert skip == (7,)
    assert (first_bad(8, skip), to_skip(8, skip)) == (7, (6, 7, 8))


# --- the learning rate ---


def manifest(job: str, lowered: Any) -> Manifest:
    info = {} if lowered is None else {"lowered": lowered}
    return Manifest(
        run="digits", job=job, epoch=1, step=5, parent=None, world_size=1, created_at=0.0,
        tensors=(), info=info,
    )  # fmt: skip


def lowered(scale: float, start: Manifest | None = None, job: str = "digits#1") -> Lowered:
    return Lowered.of(replace(an_attempt(job), lr_scale=scale), start)


@given(st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.125]), min_size=1, max_size=6), st.booleans())
def test_over_attempts_the_rate_is_lowered_once(scales: list[float], from_fork: bool) -> None:
    """Each attempt goes on from a checkpoint of the one before; the first maybe from a fork's."""
    before = {"factor": 0.5, "own": 0.25}
    start = manifest("parent#1", before) if from_fork else None
    for scale in scales:
        now = lowered(scale, start)
        assert now.factor == scale * (0.5 if from_fork else 1.0)
        assert (now.record() is None) == (now.factor == now.own == 1.0)
        start = manifest("digits#1", now.record())


def test_a_run_that_is_resumed_or_forked_keeps_the_rate_it_had() -> None:
    start = manifest("digits#1", lowered(0.5).record())
    assert lowered(1.0, start, "digits#2").factor == 0.5
    assert lowered(0.5, start, "other#1").factor == 0.25
    assert "multiplied by 0.5" in lowered(1.0, start, "digits#2").news()
    assert lowered(1.0).news() == ""


def test_it_is_one_factor_with_that_of_a_batch_that_grows() -> None:
    assert scaled_rates(None, Lowered()) is None
    rates = scaled_rates(None, Lowered(0.5, 0.5))
    assert rates is not None
    assert rates.factor == 0.5
    rates.close()


def test_a_retry_lowers_by_what_the_head_lacks() -> None:
    """Lowered twice: after the first attempt, and after the second, of which the head is."""
    story = Story().submit()
    job, error = story.job(), an_error("Diverged", metric="loss")
    assert lowered_since(job, None) == 1.0
    failures = tuple(
        a_failure(epoch=epoch, step=9, error=error, remedy=Remedy(lr_scale=LOWER**epoch))
        for epoch in (1, 2)
    )
    job = replace(job, failures=failures, remedy=Remedy(lr_scale=LOWER**2))
    heads = [story.start().checkpoint(5).world.runs["digits"].checkpoints]
    [head] = heads[0].values()
    assert lowered_since(job, replace(head, epoch=1)) == LOWER**2
    assert lowered_since(job, replace(head, epoch=2)) == LOWER
    assert lowered_since(job, replace(head, epoch=3)) == 1.0
    assert lowered_since(job, replace(head, job="parent#1")) == LOWER**2
    skipped = replace(failures[1], remedy=Remedy(skip=(10,)))
    job = replace(job, failures=(failures[0], skipped))
    assert lowered_since(job, replace(head, epoch=2)) == 1.0
