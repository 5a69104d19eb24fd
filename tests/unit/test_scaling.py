"""`rank.scaling`: the rate is scaled while optimizers step, and nobody else ever sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resilient_nb.core.model import Scaling
from resilient_nb.rank.scaling import (
    Growth,
    Lowered,
    ScaledRates,
    global_batch,
    rate_factor,
    scaled_rates,
)
from resilient_nb.testing.builders import an_attempt

counts = st.integers(1, 64)


@given(st.integers(1, 4096), counts, counts)
def test_the_batch_grows_with_the_workers(size: int, workers: int, base: int) -> None:
    grown = global_batch(size, workers, base)
    assert global_batch(size, base, base) == size
    assert abs(grown - size * workers / base) < 1
    assert global_batch(size, workers + 1, base) >= grown
    if size >= base:
        assert grown >= workers  # every rank gets a sample


@given(counts, counts)
def test_rules(workers: int, base: int) -> None:
    linear, sqrt = (rate_factor(rule, workers, base) for rule in (Scaling.LINEAR, Scaling.SQRT))
    assert linear == workers / base
    assert sqrt == pytest.approx(linear**0.5)
    assert rate_factor(Scaling.NONE, workers, base) == 1.0
    assert rate_factor(Scaling.LINEAR, base, base) == rate_factor(Scaling.SQRT, base, base) == 1.0


@pytest.fixture
def scaled() -> Iterator[Callable[[float], ScaledRates]]:
    made: list[ScaledRates] = []

    def make(factor: float) -> ScaledRates:
        made.append(ScaledRates(factor))
        return made[-1]

    yield make
    for rates in made:
        rates.close()


class Loop:
    """A small training loop with two parameter groups and a schedule."""

    def __init__(self, kind: str = "sgd", rate: float = 0.1) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        groups = [
            {"params": self.model[0].parameters(), "lr": rate},
            {"params": self.model[2].parameters(), "lr": 2 * rate},
        ]
        self.optimizer: torch.optim.Optimizer = {
            "sgd": lambda: torch.optim.SGD(groups, momentum=0.9),
            "adam": lambda: torch.optim.AdamW(groups),
            "lbfgs": lambda: torch.optim.LBFGS(self.model.parameters(), lr=rate, max_iter=3),
        }[kind]()
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)

    def closure(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        loss = (self.model(x) - x.sum(1, keepdim=True)).pow(2).mean()
        loss.backward()
        return loss

    def step(self) -> None:
        self.optimizer.step(self.closure)
        self.schedule.step()

    def rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def weights(self) -> torch.Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()


@pytest.mark.parametrize("kind", ["sgd", "adam", "lbfgs"])
def test_a_scaled_loop_is_one_with_a_larger_rate(kind: str, scaled: Any) -> None:
    """With groups and a schedule; but its rates look as if nothing had happened."""
    larger, plain = Loop(kind, rate=0.1 * 1.5), Loop(kind)
    for _ in range(5):
        larger.step()
    scaled(1.5)
    shown = []
    for _ in range(5):
        plain.step()
        shown.append(plain.rates())
    assert torch.allclose(plain.weights(), larger.weights(), atol=1e-12)
    steps = [0.1 * 0.5 ** ((n + 1) // 2) for n in range(5)]
    wanted = [[r, 2 * r] if kind != "lbfgs" else [r] for r in steps]
    assert shown == [pytest.approx(rates) for rates in wanted]
    assert plain.optimizer.state_dict()["param_groups"][0]["lr"] == pytest.approx(steps[-1])


def test_a_factor_that_changes_follows_the_schedule(scaled: Any) -> None:
    """4 → 2 workers in the middle: the state holds no trace of the first factor."""
    loop, by_hand = Loop(), Loop()
    for factor in (2.0, 1.5):
        rates = scaled(factor)
        loop.step()
        rates.close()
    for factor in (2.0, 1.5):
        own = by_hand.rates()
        for group in by_hand.optimizer.param_groups:
            group["lr"] *= factor
        by_hand.optimizer.step(by_hand.closure)
        for group, rate in zip(by_hand.optimizer.param_groups, own, strict=True):
            group["lr"] = rate
        by_hand.schedule.step()
    assert torch.equal(loop.weights(), by_hand.weights())
    assert loop.rates() == by_hand.rates() == pytest.approx([0.05, 0.1])


def test_a_grad_scaler_steps_with_it(scaled: Any) -> None:
    scaled(3.0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, moved in ((1.0, -1.5), (float("inf"), -1.5)):  # the second is skipped
        optimizer.zero_grad()
        scaler.scale((gradient * parameter).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert parameter.item() == moved
        assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_rate_that_is_a_tensor_stays_the_same_tensor(scaled: Any) -> None:
    scaled(2.0)
    parameter, rate = nn.Parameter(torch.zeros(1)), torch.tensor(0.5)
    optimizer = torch.optim.Adam([parameter], lr=rate, capturable=False, foreach=False)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5
    assert parameter.item() == pytest.approx(-1.0, rel=1e-5)  # Adam's first step is the rate


class Wrapper(torch.optim.SGD):
    """Shares its groups with an inner optimizer, and calls that and its base class."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups[0]["params"], lr=1.0)
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        super().step()


def test_an_optimizer_in_an_optimizer_is_scaled_once(scaled: Any) -> None:
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # its step is patched before the subclass's
    scaled(2.0)
    parameter = nn.Parameter(torch.zeros(1))
    inner = torch.optim.SGD([parameter], lr=0.5)
    outer = Wrapper(inner)
    parameter.grad = torch.ones(1)
    outer.step()
    assert parameter.item() == -2.0  # twice 0.5 × 2
    assert inner.param_groups[0]["lr"] == 0.5


def test_a_step_that_raised_leaves_no_scaled_rate_behind(scaled: Any) -> None:
    rates = scaled(2.0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)

    def explode() -> float:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        optimizer.step(explode)
    parameter.grad = torch.ones(1)
    optimizer.step()  # the cell goes on
    assert parameter.item() == -1.0
    rates.settle()
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.step()
    assert (parameter.item(), optimizer.param_groups[0]["lr"]) == (-2.0, 0.5)


class Rateless(torch.optim.Optimizer):
    """Has no rate, as some optimizers that choose it themselves."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1


def test_an_optimizer_without_a_rate_is_left_alone(scaled: Any) -> None:
    scaled(2.0)
    optimizer = Rateless([nn.Parameter(torch.zeros(1))])
    optimizer.step()
    assert optimizer.steps == 1
    assert "lr" not in optimizer.param_groups[0]


# --- what is said of it ---


def growth(workers: int, rule: Scaling = Scaling.LINEAR) -> Growth:
    made = Growth.of(
        an_attempt(world_size=workers, workers=workers, base_workers=2, scaling=rule, elastic=True)
    )
    assert made is not None
    return made


def test_it_is_said_once_and_recorded() -> None:
    made = growth(3)
    assert made.batch(64) == 96
    assert made.news() == (
        "On 3 workers (2 at least): global batch 96, learning rate × 1.5 (linear)."
    )
    assert made.news() == ""
    assert made.record() == {"rule": "linear", "workers": 3, "factor": 1.5, "batch": 96}
    made.batch(32)
    assert "batch 48" in made.news()


def test_a_loop_without_batches_of_ours_says_by_how_much() -> None:
    made = growth(4, Scaling.SQRT)
    assert made.news() == (
        "On 4 workers (2 at least): global batch × 2, learning rate × 1.414 (sqrt)."
    )
    assert made.record()["batch"] is None


def test_a_job_that_keeps_its_numbers_scales_nothing() -> None:
    assert Growth.of(an_attempt(world_size=4, workers=2, base_workers=1, elastic=True)) is None
    assert scaled_rates(growth(2), Lowered()) is None
