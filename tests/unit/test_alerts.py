"""Alerts: when they fire, when they are over, and that each is news once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core import alert_facts
from resilient_nb.core import events as ev
from resilient_nb.core.alert_model import Alert, Fact, Kind, Rule, Severity, Stage
from resilient_nb.core.alert_rules import (
    BUILT_IN,
    EVENTS,
    GAUGES,
    Channel,
    Route,
    in_force,
    receivers,
)
from resilient_nb.core.alert_words import amount, span
from resilient_nb.core.alerts import RECENT, Known, fold, time_left
from resilient_nb.testing.builders import START, Story, a_failure

HOT = Rule("hot", "heat", above=10.0, clear=5.0, lasting=3.0, calm=4.0)
BROKE = Rule("broke", "broke", Kind.EVENT, by=("run",), until="mended", calm=50.0)

values = st.lists(
    st.none()
    | st.sampled_from([0.0, 4.0, 7.0, 11.0, 20.0, float("nan"), float("inf"), float("-inf")])
)


def heat(value: float | None, **labels: str) -> list[Fact]:
    return [] if value is None else [Fact("heat", labels or {"job": "a#1"}, value)]


def through(rules: list[Rule], looks: list[list[Fact]], known: Known | None = None) -> list[Alert]:
    """Look once a second; return all news."""
    known, news = known or Known(), []
    for now, facts in enumerate(looks):
        known, more = fold(known, rules, facts, float(now))
        news += more
    return news


def stages(news: list[Alert]) -> list[str]:
    return [alert.stage.value for alert in news]


# --- thresholds -------------------------------------------------------------------------------


@given(values)
def test_what_is_told_of_one_alert_alternates(looks: list[float | None]) -> None:
    found = stages(through([HOT], [heat(value) for value in looks]))
    assert found == (["firing", "resolved"] * len(found))[: len(found)]


@given(values)
def test_it_fires_only_after_it_has_lasted_and_ends_only_after_it_was_calm(
    looks: list[float | None],
) -> None:
    for alert in through([HOT], [heat(value) for value in looks]):
        at = int(alert.at)
        if alert.stage is Stage.FIRING:
            assert all((value or 0) > 10 for value in looks[at - 3 : at + 1])
        else:
            assert not any((value or 0) > 5 for value in looks[at - 4 : at + 1])


@given(values, values)
def test_alerts_are_told_apart_by_their_labels(
    ours: list[float | None], others: list[float | None]
) -> None:
    long = max(len(ours), len(others))
    mine = [heat(v) for v in ours] + [[]] * (long - len(ours))
    theirs = [heat(v, job="b#1") for v in others] + [[]] * (long - len(others))
    together = through([HOT], [a + b for a, b in zip(mine, theirs, strict=True)])
    assert [a for a in together if a.labels["job"] == "a#1"] == through([HOT], mine)


@given(values, st.integers(0, 50))
def test_a_restart_tells_nothing_again_and_forgets_nothing(
    looks: list[float | None], at: int
) -> None:
    facts = [heat(value) for value in looks]
    known, news = Known(), []
    for now, each in enumerate(facts):
        if now == at:  # what is kept of it is JSON
            known = msgspec.json.decode(msgspec.json.encode(known), type=Known)
        known, more = fold(known, [HOT], each, float(now))
        news += more
    assert news == through([HOT], facts)


def test_between_the_two_bounds_nothing_changes() -> None:
    hot = [heat(11.0)] * 5
    assert stages(through([HOT], [heat(7.0)] * 10)) == []
    assert stages(through([HOT], hot + [heat(7.0)] * 20)) == ["firing"]
    assert stages(through([HOT], hot + [heat(4.0)] * 20)) == ["firing", "resolved"]
    assert stages(through([HOT], hot + [[]] * 20)) == ["firing", "resolved"]  # it is gone


def test_below_a_bound() -> None:
    low = Rule("low", "heat", below=10.0, clear=12.0, calm=0.0)
    looks = [heat(value) for value in (11.0, 9.0, 11.0, 13.0)]
    assert [(a.stage.value, a.at) for a in through([low], looks)] == [
        ("firing", 1.0), ("resolved", 3.0),
    ]  # fmt: skip


def test_of_several_facts_the_worst_is_told() -> None:
    rule = Rule("hot", "heat", above=1.0, by=("group",))
    facts = [Fact("heat", {"group": "g", "job": f"{n}"}, float(n)) for n in (2, 5, 3)]
    [alert] = through([rule], [facts])
    assert (alert.value, dict(alert.labels)) == (5.0, {"group": "g"})


def test_only_what_is_asked_for_counts() -> None:
    rule = Rule("hot", "heat", above=1.0, only={"group": ("a", "b")}, labels={"team": "x"})
    facts = [Fact("heat", {"group": group}, 2.0) for group in "abc"]
    assert [a.labels["group"] for a in through([rule], [facts])] == ["a", "b"]
    assert {a.labels["team"] for a in through([rule], [facts])} == {"x"}


def test_a_rule_that_is_gone_ends_its_alerts() -> None:
    known, news = fold(Known(), [Rule("hot", "heat", above=1.0)], heat(2.0), 0.0)
    known, news = fold(known, [], heat(2.0), 1.0)
    assert stages(list(news)) == ["resolved"]
    assert not known.active


def test_what_is_over_is_remembered_within_bounds() -> None:
    known = Known()
    rule = Rule("hot", "heat", above=1.0, calm=0.0)
    for now in range(3 * RECENT):
        known, _ = fold(known, [rule], heat(2.0 if now % 2 else None), float(now))
    assert len(known.recent) == RECENT
    assert known.recent[-1].at > known.recent[0].at


# --- events -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9)))
def test_an_event_counts_once_however_often_it_is_told(times: list[int]) -> None:
    known, news = Known(), []
    for at in sorted(times):
        fact = Fact("broke", {"run": "a", "job": f"a#{at}"}, at=float(at))
        for _ in range(2):
            known, more = fold(known, [BROKE], [fact], 10.0)
            news += more
    assert stages(news) == ["firing"] * bool(times)
    assert [a.count for a in known.firing] == [len(set(times))] * bool(times)
    assert known.seen == max(times, default=0)
    assert [a.labels["job"] for a in known.firing] == [f"a#{max(times, default=0)}"] * bool(times)


def test_an_event_is_over_when_it_is_mended_or_old() -> None:
    broke = [Fact("broke", {"run": "a"}, at=0.0)]
    mended = [Fact("mended", {"run": "a"}, at=1.0)]
    other = [Fact("mended", {"run": "b"}, at=1.0)]
    assert stages(through([BROKE], [broke, other, []])) == ["firing"]
    assert stages(through([BROKE], [broke, mended])) == ["firing", "resolved"]
    assert stages(through([BROKE], [[*broke, *mended]])) == ["firing", "resolved"]
    assert stages(through([BROKE], [broke, *[[]] * 51])) == ["firing", "resolved"]


def test_what_was_mended_before_it_broke_is_broken() -> None:
    facts = [Fact("mended", {"run": "a"}, at=1.0), Fact("broke", {"run": "a"}, at=2.0)]
    assert stages(through([BROKE], [facts])) == ["firing"]


# --- absence and trends -----------------------------------------------------------------------


def test_absence() -> None:
    rule = Rule("silent", "heard", Kind.ABSENCE, lasting=5.0, calm=2.0)
    looks = [[Fact("heard", {"host": "h"}, at=0.0)]] * 8 + [[Fact("heard", {"host": "h"}, at=8.0)]]
    news = through([rule], looks + [looks[-1]] * 3)
    assert [(a.stage.value, a.at) for a in news] == [("firing", 5.0), ("resolved", 10.0)]
    assert news[0].text == "Nothing was heard of heard for 5 s."


def course(*values: float) -> tuple[tuple[float, float], ...]:
    return tuple((10.0 * n, value) for n, value in enumerate(values))


TREND = Rule("fills", "free", Kind.TREND, below=0.0, within=600.0)


def test_a_straight_course_is_continued() -> None:
    left = time_left(TREND, course(*(100.0 - n for n in range(20))))
    assert left == pytest.approx(810.0)


@pytest.mark.parametrize(
    "values",
    [
        [50.0] * 20,
        [50.0, 49.0] * 10,
        [1.0, 0.5, 0.9, 0.3, 1.2, 0.1, 1.1, 0.4, 0.8, 0.2, 0.7, 0.1] * 2,  # noise near the bound
        [50.0 + n for n in range(20)],
        [100.0 - 5 * n for n in range(9)] + [55.0] * 11,  # it has stopped
        [100.0 - n for n in range(5)],  # too little is known
    ],
)
def test_what_stays_or_goes_the_other_way_has_no_end(values: list[float]) -> None:
    assert time_left(TREND, course(*values)) is None


@given(st.floats(0.5, 5.0), st.lists(st.floats(-0.2, 0.2), min_size=20, max_size=20))
def test_noise_doesnt_hide_a_trend(slope: float, noise: list[float]) -> None:
    left = time_left(TREND, course(*(100 - slope * n + e for n, e in enumerate(noise))))
    rest = 10 * (100 - slope * 19) / slope
    assert left is None or left == pytest.approx(rest, rel=0.5, abs=20.0)
    assert left is not None or rest > 1.5 * TREND.within


def test_a_trend_is_told_with_the_time_that_is_left() -> None:
    looks = [[Fact("store_free", {}, (300 - now) * 2.0**30)] for now in range(100)]
    rule = Rule(
        "fills", "store_free", Kind.TREND, below=0.0, within=600.0, text="{value}, {left} left"
    )
    news = through([rule], looks)
    assert stages(news) == ["firing"]
    assert news[0].at == 40.0  # when it has been looked at for a sixteenth of the time
    assert news[0].text == "260 GiB, 4 min left"


# --- words, built-in rules, routes --------------------------------------------------------------


def test_words() -> None:
    assert amount("store_free", 1.5 * 2**30) == "1.5 GiB"
    assert amount("memory_share", 0.934) == "93 %"
    assert amount("metric:loss", 0.123456) == "0.1235"
    assert [span(s) for s in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]


def test_braces_that_name_nothing_stay() -> None:
    rule = Rule("hot", "heat", above=1.0, text="{job} {nonsense} {} {value.real}")
    [alert] = through([rule], [heat(2.0)])
    assert alert.text == "a#1 {nonsense} {} {value.real}"


def test_built_in_rules_look_at_facts_that_there_are() -> None:
    for rule in BUILT_IN:
        known = EVENTS if rule.kind is Kind.EVENT else GAUGES
        assert rule.fact in known, rule
        assert rule.until in EVENTS or not rule.until, rule
        assert (rule.bound is None) == (rule.kind in (Kind.EVENT, Kind.ABSENCE)), rule
        assert rule.text or rule.kind is Kind.EVENT, rule
    assert len({rule.name for rule in BUILT_IN}) == len(BUILT_IN)


def test_the_administrators_rule_replaces_one_of_the_same_name() -> None:
    own = Rule("data waits", "data_wait_share", above=0.9)
    off = Rule("job failed", "job_failed", Kind.EVENT, off=True)
    found = {rule.name: rule for rule in in_force([own, off])}
    assert found["data waits"] is own
    assert "job failed" not in found
    assert len(found) == len(BUILT_IN) - 1


def test_routes() -> None:
    channels = {name: Channel("command", command=("true",)) for name in ("a", "b", "c")}
    bad = Alert("k", "hot", Severity.CRITICAL, {"group": "g"}, Stage.FIRING, 0.0, 0.0)
    mild = Alert("k", "hot", Severity.INFO, {}, Stage.FIRING, 0.0, 0.0)
    assert receivers([], channels, mild) == ("a", "b", "c")
    routes = [
        Route(("a", "b"), severity=Severity.WARNING),
        Route(("b", "gone", "c"), {"group": ("g", "h"), "rule": ("hot",)}),
    ]
    assert receivers(routes, channels, bad) == ("a", "b", "c")
    assert receivers(routes, channels, mild) == ()


# --- facts of jobs ------------------------------------------------------------------------------


def told(story: Story, count: int = 1) -> list[tuple[str, str]]:
    """Return what alerts hear of the last events."""
    facts = alert_facts.happened(story.events[-count:], story.world)
    return [(fact.name, fact.labels["job"]) for fact in facts]


def test_what_events_say() -> None:
    story = Story().submit()
    assert told(story) == [("job_went_on", "digits#1")]
    story.start().stop().requeue(failure=a_failure())
    assert told(story) == [("job_retried", "digits#1")]
    story.start().stop().fail()
    assert ("job_failed", "digits#1") in told(story)
    [missed] = alert_facts.missed(story.world, START - 1)
    assert missed.name == "job_failed"
    assert not list(alert_facts.missed(story.world, missed.at))
    story.submit().start()
    assert not list(alert_facts.missed(story.world, START - 1))  # somebody goes on with it
    story.succeed()
    assert ("job_succeeded", "digits#2") in told(story)


def test_a_spent_budget_is_a_dead_letter() -> None:
    story = Story().submit().start().stop()
    job = story.job()
    failure = a_failure(decision="stop", spent="retries")
    story.then(ev.JobFailed(story.now, job.id, job.epoch, failure))
    assert ("dead_letter", "digits#1") in told(story)


def test_retries_in_a_row_end_with_a_checkpoint() -> None:
    story = Story().submit()
    for step in (None, 5, 5, 5):
        story.start().stop().requeue(failure=a_failure(resumes_from=step))
    assert alert_facts.fruitless(story.job()) == 3
    story.start().stop().requeue(failure=a_failure(resumes_from=9))
    assert alert_facts.fruitless(story.job()) == 1


def test_the_work_that_a_failure_would_cost() -> None:
    story = Story().submit().start()
    began = story.job().started_at
    assert began is not None
    assert alert_facts.checkpoint_age(story.world, story.job(), began + 9) == 9
    story.checkpoint(5)
    saved = story.world.checkpoint(story.world.runs["digits"].head or "").at
    age = alert_facts.checkpoint_age(story.world, story.job(), saved + 3)
    assert age == min(3, saved + 3 - began)
