"""`core.scheduling.plan`: laws over random histories of a whole cluster, and single decisions.

A history is a list of things that happen (arrivals, ends, hosts that come, close and go,
cancels, victims that leave or don't); after each the plan is made, checked and carried out.
`HISTORIES=5000 pytest` runs that many of them for each law.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from resilient_nb.core import forecast, ranking, shares
from resilient_nb.core.model import Priority, Resources, Share
from resilient_nb.core.placement import Room, per_rank, ranks_of
from resilient_nb.core.policy import DAY, GroupRule, Policy
from resilient_nb.core.queue import Gang, Host, Plan, Preempt, QueueView, Start, Waiting
from resilient_nb.core.scheduling import deciding, plan, planning
from resilient_nb.core.standing import Standing

GIB = 1 << 30
USERS = {"ada": "g", "bob": "g", "eve": "h"}

histories = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.builds(
                dict,
                user=st.sampled_from(sorted(USERS)),
                workers=st.sampled_from([1, 1, 1, 2, 3, 4, 6, 9]),
                most=st.sampled_from([0, 0, 0, 2, 5]),
                priority=st.sampled_from(Priority),
                admin=st.integers(0, 9).map(lambda n: n == 0),
                big=st.integers(0, 5).map(lambda n: n == 0),
                length=st.sampled_from([30.0, 300.0, 4000.0, 50_000.0]),
                declared=st.sampled_from([False, False, True]),
                preemptible=st.sampled_from([True, True, True, False]),
            ),
        ),
        st.tuples(st.just("pass"), st.sampled_from([1.0, 70.0, 700.0, 9000.0])),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("lose"), st.integers(0, 3)),
        st.tuples(st.just("close"), st.integers(0, 3)),
        st.tuples(st.just("join"), st.integers(0, 3)),
        st.tuples(st.just("stay"), st.integers(0, 30)),  # a victim fails instead of leaving
    ),
    min_size=1,
    max_size=30,
)
policies = st.builds(
    Policy,
    preemption=st.sampled_from([True, True, False]),
    admin_reserve=st.sampled_from([0, 0, 1]),
    high_budget=st.sampled_from([0.25, 100.0]),
    groups=st.just({"g": GroupRule(2.0, ("ada", "bob")), "h": GroupRule(1.0, ("eve",))}),
)
laws = settings(
    deadline=None,
    max_examples=int(os.environ.get("HISTORIES", "40")),
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # histories are short as they are
)
slow = settings(laws, max_examples=max(4, laws.max_examples // 15))
#: Seconds that leaving takes in a history, and between two looks where nothing happens.
LEAVING, STEP = 20.0, 300.0


@dataclass
class Job:
    """What the harness knows of a job: `left` in seconds at `workers` workers."""

    gang: Gang
    left: float
    declared: bool
    leaves_at: float = 0.0


@dataclass
class Moment:
    """One plan with what it saw."""

    view: QueueView
    plan: Plan
    now: float


@dataclass
class Cluster:
    """Carries out plans; what it checks by itself is that they can be carried out."""

    policy: Policy
    slots: dict[str, int] = field(default_factory=lambda: {"h0": 4, "h1": 4, "h2": 2})
    closing: set[str] = field(default_factory=set)
    jobs: dict[str, Job] = field(default_factory=dict)
    ledger: shares.Ledger = field(default_factory=shares.Ledger)
    now: float = 0.0
    count: int = 0
    started: list[tuple[float, str]] = field(default_factory=list)
    served: dict[str, float] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._resize()

    def _resize(self) -> None:
        self.ledger = shares.resize(self.ledger, self.now, self.policy, sum(self.slots.values()))

    def _account(self, gang: Gang, wanted: int = 0, held: int = 0) -> None:
        high = held if gang.priority.rank >= Priority.HIGH.rank else 0
        self.ledger = shares.change(
            self.ledger, self.now, self.policy, gang.user, gang.group, wanted, held, high
        )

    def submit(
        self, user: str, workers: int, most: int, priority: Priority, admin: bool, big: bool,
        length: float, declared: bool, preemptible: bool,
    ) -> None:  # fmt: skip
        self.count += 1
        gang = Gang(
            f"j{self.count:03}", user, USERS[user], workers, self.now, queued_at=self.now,
            max_workers=most if most > workers else 0, priority=priority, admin=admin,
            needs=Resources(cpus=2) if big else Resources(), preemptible=preemptible,
            remaining=length if declared else None,
        )  # fmt: skip
        self.jobs[gang.job] = Job(gang, length, declared)
        self._account(gang, wanted=max(workers, most) * (2 if big else 1))

    def view(self) -> QueueView:
        used = dict.fromkeys(self.slots, 0)
        for job in self.jobs.values():
            for share in job.gang.placement:
                if share.host in used:
                    used[share.host] += share.leased
        hosts = tuple(
            Host(h, n, used[h], Resources(cpus=1, memory=GIB), h in self.closing)
            for h, n in self.slots.items()
        )
        gangs = tuple(job.gang for job in self.jobs.values())
        return QueueView(gangs, hosts, self.ledger, self.policy)

    def happen(self, what: str, value: object) -> None:
        if what == "submit":
            self.submit(**value)  # type: ignore[arg-type]
        elif what == "pass":
            self.let_pass(float(value))  # type: ignore[arg-type]
        elif what in ("cancel", "stay"):
            self._pick(what, int(value))  # type: ignore[call-overload]
        else:
            self._host(what, f"h{value}")

    def _pick(self, what: str, number: int) -> None:
        names = [n for n, j in self.jobs.items() if what == "cancel" or j.gang.leaving]
        if names:
            name = names[number % len(names)]
            if what == "cancel":
                self._end(name)
            else:  # it died instead of leaving: no claim, no promise is lost by that
                self._requeue(name, 0)

    def _host(self, what: str, host: str) -> None:
        if what == "join":
            self.slots[host] = 3
            self.closing.discard(host)
        elif what == "close" and host in self.slots:
            self.closing.add(host)
        elif what == "lose" and self.slots.pop(host, None) is not None:
            self.closing.discard(host)
            for name, job in list(self.jobs.items()):
                if any(share.host == host for share in job.gang.placement):
                    self._requeue(name, job.gang.claim)
        self._resize()

    def let_pass(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            ends = [(self._end_of(j), n) for n, j in self.jobs.items() if j.gang.held]
            at, name = min(ends, default=(until, ""))
            if at >= until:
                break
            self._progress(at)
            gang = self.jobs[name].gang
            if gang.leaving and self.jobs[name].leaves_at <= at:
                self._requeue(name, gang.claim)
            else:
                self._end(name)
            self.step()
        self._progress(until)

    def _speed(self, gang: Gang) -> float:
        return float((gang.held / gang.workers) ** 0.8) if gang.held else 0.0

    def _end_of(self, job: Job) -> float:
        end = self.now + job.left / self._speed(job.gang)
        return min(end, job.leaves_at) if job.gang.leaving else end

    def _progress(self, at: float) -> None:
        passed, self.now = at - self.now, at
        for job in self.jobs.values():
            gang = job.gang
            if gang.held:
                job.left = max(0.0, job.left - passed * self._speed(gang))
                served = self.served.get(gang.user, 0.0)
                self.served[gang.user] = served + passed * gang.slots
                known = at - gang.since > 60 or gang.exact
                job.gang = replace(
                    gang,
                    attained=gang.attained + passed * gang.slots,
                    remaining=job.left if known or job.declared else None,
                    exact=known,
                )

    def _end(self, name: str) -> None:
        gang = self.jobs.pop(name).gang
        per = 2 if gang.needs.cpus else 1
        self._account(gang, -max(gang.workers, gang.max_workers) * per, -gang.slots)

    def _requeue(self, name: str, claim: int) -> None:
        job = self.jobs[name]
        self._account(job.gang, held=-job.gang.slots)
        job.gang = replace(
            job.gang, held=0, slots=0, placement=(), leaving=False, leaving_for="",
            queued_at=self.now, claim=claim,
        )  # fmt: skip

    def step(self) -> Moment:
        """Plan, and carry it out."""
        moment = Moment(self.view(), plan(self.view(), self.now), self.now)
        self.moments.append(moment)
        for preempt in moment.plan.preempts:
            self._leave(preempt.job, preempt.by, 0)
        for resize in moment.plan.resizes:
            self._leave(resize.job, resize.by, resize.workers)
        for start in moment.plan.starts:
            self._start(start)
        return moment

    def _leave(self, name: str, by: str, claim: int) -> None:
        job = self.jobs[name]
        assert job.gang.held > 0
        assert not job.gang.leaving
        job.gang = replace(job.gang, leaving=True, leaving_for=by, claim=claim)
        job.leaves_at = self.now + LEAVING
        if by:
            self.jobs[by].gang = replace(self.jobs[by].gang, promised=True)

    def _start(self, start: Start) -> None:
        gang = self.jobs[start.job].gang
        leased = sum(share.leased for share in start.placement)
        assert gang.held == 0
        self.started.append((self.now, start.job))
        self._account(gang, held=leased)
        self.jobs[start.job].gang = replace(
            gang, held=start.workers, slots=leased, placement=start.placement, since=self.now,
            saved_at=self.now, claim=0, promised=False,
        )  # fmt: skip


def live(policy: Policy, history: list[tuple[str, object]]) -> list[Moment]:
    """Let a history happen; return every plan made."""
    cluster = Cluster(policy)
    for what, value in history:
        cluster.happen(what, value)
        cluster.step()
    return cluster.moments


def slots_of(gang: Gang, view: QueueView) -> int:
    found = [per for h in view.hosts if (per := per_rank(gang.needs, h))]
    return gang.workers * min(found, default=1)


def room_after(moment: Moment) -> Room:
    room = Room(moment.view.hosts)
    for start in moment.plan.starts:
        room.take(start.placement)
    return room


def by_name(moment: Moment) -> dict[str, Gang]:
    return {g.job: g for g in moment.view.gangs}


# --- laws ---------------------------------------------------------------------------------


@laws
@given(policies, histories)
def test_gangs_are_whole_and_leases_disjoint(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    for moment in live(policy, history):
        gangs, hosts = by_name(moment), {h.id: h for h in moment.view.hosts}
        left = {h.id: h.free for h in moment.view.hosts}
        for start in moment.plan.starts:
            gang = gangs[start.job]
            assert gang.workers <= start.workers <= gang.most
            ranks = [n for s in start.placement for n in range(s.first, s.first + s.count)]
            assert ranks == list(range(ranks_of(gang, start.workers)))
            workers = 0
            for share in start.placement:
                per = per_rank(gang.needs, hosts[share.host])
                assert per is not None
                workers += share.leased // per
                left[share.host] -= share.leased
                assert left[share.host] >= 0
            assert workers == start.workers


@laws
@given(policies, histories)
def test_each_gang_that_holds_nothing_starts_or_is_told_why_not(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    for moment in live(policy, history):
        told = [w.job for w in moment.plan.waiting] + [s.job for s in moment.plan.starts]
        assert sorted(told) == sorted(g.job for g in moment.view.gangs if not g.held)


@laws
@given(policies, histories)
def test_no_slot_idles_that_a_waiting_gang_could_use(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    """Unless the gang is not allowed, or a reservation or a promise keeps the slots."""
    for moment in live(policy, history):
        vacating = any(g.leaving for g in moment.view.gangs) or moment.plan.preempts
        if vacating or moment.plan.resizes or any(g.promised for g in moment.view.gangs):
            continue  # slots are set aside: the law of promises
        gangs, room = by_name(moment), room_after(moment)
        reserved = moment.plan.reservations
        for waiting in moment.plan.waiting:
            gang = gangs[waiting.job]
            if waiting.rule in ("hold", "backoff", "too wide", "reserve"):
                continue
            fits = room.place(gang.needs, gang.workers, gang.workers) is not None
            if not reserved or reserved[0].job == gang.job:
                assert not fits
            elif fits:
                assert waiting == Waiting(gang.job, "behind", reserved[0].job)
                length = forecast.seconds_left(gang, 1, gang.workers)
                shadow = reserved[0].at
                if forecast.known(gang):
                    assert moment.now + length > shadow


@laws
@given(policies, histories)
def test_no_gang_starts_before_one_of_a_higher_class_that_needs_no_more(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    """Classes in force, so with budgets and starving taken into account; and unless the higher
    one would delay a reservation and the lower one, which is short, doesn't."""
    for moment in live(policy, history):
        slots = sum(h.slots for h in moment.view.hosts if not h.closing)
        users = ranking.claims(moment.view, slots, moment.now)
        gangs = by_name(moment)

        def level(gang: Gang) -> int:
            found = users.get((gang.group, gang.user), ranking.Claim())  # noqa: B023
            return ranking.effective_class(gang, found)

        waits = [
            gangs[w.job] for w in moment.plan.waiting
            if w.rule == "no slots" and not gangs[w.job].needs.cpus
        ]  # fmt: skip
        for start in moment.plan.starts:
            gang = gangs[start.job]
            if gang.promised or gang.claim or moment.now - gang.submitted_at >= 54 * 3600:
                continue
            for other in waits:
                needed = slots_of(gang, moment.view)
                assert not (level(other) < level(gang) and other.workers <= needed)


@laws
@given(policies, histories)
def test_nobody_leaves_for_a_gang_that_then_cant_start(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    for moment in live(policy, history):
        gangs = by_name(moment)
        made = {p.by for p in moment.plan.preempts} | {r.by for r in moment.plan.resizes} - {""}
        rules = {w.job: w.rule for w in moment.plan.waiting}
        leaves = [p.job for p in moment.plan.preempts] + [r.job for r in moment.plan.resizes]
        assert len(leaves) == len(set(leaves))
        room = room_after(moment)
        for preempt in moment.plan.preempts:
            assert gangs[preempt.job].preemptible
            assert preempt.by != preempt.job
            room.give(gangs[preempt.job].placement)
        for resize in moment.plan.resizes:
            victim = gangs[resize.job]
            assert victim.workers <= resize.workers <= victim.most
            room.give(victim.placement)
        back = [(gangs[r.job], r.workers) for r in moment.plan.resizes]
        for gang, workers in [*back, *((gangs[name], gangs[name].workers) for name in made)]:
            assert gang.job not in made or rules[gang.job] == "vacating"
            placement = room.place(gang.needs, workers, workers)
            assert placement is not None, "they leave for nothing"
            room.take(placement)


@laws
@given(policies, histories)
def test_who_others_left_for_starts_when_they_have_left(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    quiet = [h for h in history if h[0] in ("submit", "pass")]
    moments = live(policy, quiet)
    for number, moment in enumerate(moments):
        for by in {p.by for p in moment.plan.preempts}:
            for later in moments[number + 1 :]:
                if by in [s.job for s in later.plan.starts]:
                    break
                left = [g for g in later.view.gangs if g.leaving and g.leaving_for == by]
                assert left, f"{by} doesn't start, though all have left for it"


@laws
@given(policies, histories)
def test_who_leaves_to_be_resized_gets_its_workers_back(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    quiet = [h for h in history if h[0] in ("submit", "pass")]
    for moment in live(policy, quiet):
        started = {s.job: s.workers for s in moment.plan.starts}
        for gang in moment.view.gangs:
            if gang.claim and not gang.held:
                assert started[gang.job] >= gang.claim


@laws
@given(policies, histories, st.randoms(use_true_random=False))
def test_the_order_of_the_input_doesnt_matter(
    policy: Policy, history: list[tuple[str, object]], rng: random.Random
) -> None:
    for moment in live(policy, history)[-3:]:
        view = moment.view
        gangs, hosts = list(view.gangs), list(view.hosts)
        accounts = list(view.ledger.accounts.items())
        for part in (gangs, hosts, accounts):
            rng.shuffle(part)
        ledger = replace(view.ledger, accounts=dict(accounts))
        shuffled = QueueView(tuple(gangs), tuple(hosts), ledger, policy)
        assert plan(shuffled, moment.now) == moment.plan


@laws
@given(policies, histories)
def test_without_preemption_only_elastic_gangs_are_touched(
    policy: Policy, history: list[tuple[str, object]]
) -> None:
    for moment in live(replace(policy, preemption=False), history):
        assert not moment.plan.preempts
        for resize in moment.plan.resizes:
            assert by_name(moment)[resize.job].most > by_name(moment)[resize.job].workers


@slow
@given(
    st.lists(
        st.tuples(
            st.integers(1, 10),
            st.sampled_from([5000.0, 90_000.0]),
            st.sampled_from([Priority.NORMAL, Priority.LOW]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([50.0, 900.0])), min_size=1, max_size=4),
)
def test_every_gang_starts_within_the_bound(
    first: list[tuple[int, float, Priority]], short: list[tuple[int, float]]
) -> None:
    """Short work keeps coming, more than the cluster can do; see `plan` for the bound."""
    cluster = Cluster(Policy())
    for workers, length, priority in first:
        cluster.submit("ada", workers, 0, priority, False, False, length, False, True)
    turn = forecast.quantum(Gang("", "", "", 1, 0.0), cluster.policy) + LEAVING + 2 * STEP
    bound = ranking.STARVING * ranking.STRETCH_BASE + len(first) * turn
    number = 0
    while cluster.now <= bound:
        while len(cluster.jobs) < 14:
            workers, length = short[number % len(short)]
            cluster.submit("bob", workers, 0, Priority.NORMAL, False, False, length, False, True)
            number += 1
        cluster.step()
        cluster.let_pass(STEP)
    began = {job for _, job in cluster.started}
    assert {f"j{n + 1:03}" for n in range(len(first))} <= began


@slow
@given(
    st.fixed_dictionaries(
        {
            user: st.tuples(st.integers(1, 4), st.sampled_from([900.0, 3000.0, 9000.0]))
            for user in USERS
        }
    )
)
def test_shares_converge_to_entitlement(kinds: dict[str, tuple[int, float]]) -> None:
    """Where everybody always wants more than there is, whatever the jobs are like."""
    policy = Policy(groups={"g": GroupRule(2.0, ("ada", "bob")), "h": GroupRule(1.0, ("eve",))})
    cluster = Cluster(policy)
    while cluster.now < 3 * DAY:
        for user, (workers, length) in kinds.items():
            mine = sum(job.gang.user == user for job in cluster.jobs.values())
            for _ in range(12 - mine):
                normal = Priority.NORMAL
                cluster.submit(user, workers, 0, normal, False, False, length, False, True)
        cluster.step()
        if cluster.now < DAY:
            cluster.served.clear()
        cluster.let_pass(STEP)
    served = cluster.served
    total = sum(served.values())
    for user in USERS:
        # A third each, give or take the tolerance and half a slot of the cluster's ten: gangs of
        # three and four slots leave holes that only others fit in.
        assert served[user] / total == pytest.approx(1 / 3, abs=ranking.TOLERANCE / 3 + 0.05)


@laws
@given(
    policies,
    histories,
    st.lists(
        st.one_of(
            st.tuples(st.just("end"), st.integers(0, 20)),
            st.tuples(st.just("lose"), st.integers(0, 3)),
            st.tuples(st.just("arrive"), st.sampled_from([1, 1, 2, 3, 5])),
            st.tuples(st.just("withdraw"), st.integers(0, 20)),
        ),
        max_size=8,
    ),
)
def test_events_between_plans_take_nothing_that_isnt_theirs(
    policy: Policy, history: list[tuple[str, object]], later: list[tuple[str, int]]
) -> None:
    """Whole gangs on free slots; who others leave for still finds its slots; no overtaking."""
    moment = live(policy, history)[-1]
    made, standing = decided(moment.view, moment.now)
    assert made == moment.plan
    room, gangs = room_after(moment), by_name(moment)
    running = [g for g in moment.view.gangs if g.held and not g.leaving]
    running = [g for g in running if g.job not in {p.job for p in made.preempts}]
    running = [g for g in running if g.job not in {r.job for r in made.resizes}]
    waiting = {w.job for w in made.waiting if w.rule in ("no slots", "behind", "reserve")}
    now, number = moment.now, 0
    for what, value in later:
        now += 1.0
        starts: list[Start] = []
        if what == "end" and running:
            ended = running.pop(value % len(running))
            room.give(ended.placement)
            starts = standing.ended(ended, now)
        elif what == "lose":
            room.drop(f"h{value}")
            standing.lost(f"h{value}")
        elif what == "arrive":
            number += 1
            new = Gang(f"n{number}", "ada", "g", value, now, queued_at=now)
            gangs[new.job] = new
            waiting.add(new.job)
            starts = [s for s in [standing.arrived(new, now)] if s is not None]
        elif what == "withdraw" and waiting:
            gone = sorted(waiting)[value % len(waiting)]
            waiting.discard(gone)
            standing.withdrawn(gone)
        for start in starts:
            assert start.job in waiting
            waiting.discard(start.job)
            assert start.workers == gangs[start.job].workers
            room.take(start.placement)
            assert min(room.free[share.host] for share in start.placement) >= 0
        assert standing.free <= room.total
    if any(what == "lose" for what, _ in later):
        return
    for by in {p.by for p in made.preempts}:
        for victim in [p.job for p in made.preempts if p.by == by]:
            room.give(gangs[victim].placement)
        needs = gangs[by].needs
        placement = room.place(needs, gangs[by].workers, gangs[by].workers)
        assert placement is not None or made.resizes
        room.take(placement or ())


def decided(view: QueueView, now: float) -> tuple[Plan, Standing]:
    *_, found = list_until_returned(deciding(view, now))
    assert isinstance(found, tuple)
    return found


# --- single decisions ---------------------------------------------------------------------

NOW = 10_000.0
PLAIN = Policy()


def gang(number: int, workers: int = 1, **changes: object) -> Gang:
    base = Gang(f"r#{number}", "ada", "g", workers, NOW - 1000 + number, queued_at=NOW - 1000)
    return replace(base, **changes)  # type: ignore[arg-type]


def running(number: int, workers: int, host: str, ago: float = 5000.0, **more: object) -> Gang:
    begun = NOW - ago
    base = gang(
        number, workers, held=workers, slots=workers, placement=(Share(host, 0, workers, workers),),
        since=begun, saved_at=NOW - 60, submitted_at=begun, attained=workers * ago,
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def decide(*gangs: Gang, slots: dict[str, int] | None = None, policy: Policy = PLAIN) -> Plan:
    slots = slots or {"a": 4}
    used: dict[str, int] = dict.fromkeys(slots, 0)
    for each in gangs:
        for share in each.placement:
            used[share.host] += share.leased
    hosts = tuple(Host(h, n, used[h]) for h, n in slots.items())
    return plan(QueueView(gangs, hosts, policy=policy), NOW)


def started(found: Plan) -> list[str]:
    return [s.job for s in found.starts]


def rules(found: Plan) -> dict[str, str]:
    return {w.job: w.rule for w in found.waiting}


def test_class_comes_before_age_and_age_before_name() -> None:
    # Urgent and high count as normal for who is entitled to nothing: so give a share.
    gangs = (
        gang(1, priority=Priority.LOW), gang(2), gang(3), gang(4, priority=Priority.URGENT),
        gang(5, priority=Priority.HIGH), gang(0, submitted_at=NOW - 997.0), gang(6, admin=True),
    )  # fmt: skip
    found = decide(*gangs, slots={"a": 7})
    assert started(found) == ["r#6", "r#4", "r#5", "r#2", "r#0", "r#3", "r#1"]


def test_a_gang_wider_than_the_cluster_is_passed_over() -> None:
    found = decide(gang(1, 5), gang(2))
    assert rules(found) == {"r#1": "too wide"}
    assert started(found) == ["r#2"]
    assert found.wanted == 6


def test_without_hosts_everything_is_too_wide() -> None:
    assert plan(QueueView((gang(1),), ()), NOW).waiting == (Waiting("r#1", "too wide"),)


def test_who_may_not_start_lets_others_pass() -> None:
    found = decide(
        gang(1, hold="waits for x"), gang(2, not_before=NOW + 1), gang(3), slots={"a": 1}
    )
    assert rules(found) == {"r#1": "hold", "r#2": "backoff"}
    assert started(found) == ["r#3"]


def test_a_wide_gang_reserves_and_only_what_ends_in_time_passes() -> None:
    held = running(1, 2, "a", remaining=600.0, exact=True)
    late = gang(3, remaining=50_000.0, submitted_at=NOW - 10)
    soon = gang(4, remaining=500.0, submitted_at=NOW - 5)
    found = decide(
        held, gang(2, 4, remaining=100.0, submitted_at=NOW - 2000), late, soon,
        policy=Policy(preemption=False),
    )  # fmt: skip
    assert started(found) == ["r#4"]
    assert found.reservations[0].job == "r#2"
    assert found.reservations[0].at == NOW + 600
    assert found.waiting == (Waiting("r#2", "no slots"), Waiting("r#3", "behind", "r#2"))


def test_who_is_withdrawn_and_comes_again_is_last_in_line() -> None:
    held = [running(n, 1, "a") for n in (1, 2, 3)]
    waiting = [gang(n, remaining=9e4) for n in (4, 5, 6)]
    view = QueueView((*held, *waiting), (Host("a", 3, 3),), policy=Policy(preemption=False))
    _, left = decided(view, NOW)
    left.withdrawn("r#4")
    left.withdrawn("r#5")
    assert left.arrived(waiting[0], NOW) is None
    assert left.arrived(waiting[0], NOW) is None  # and twice is once
    freed = [left.ended(each, NOW) for each in held]
    assert [[start.job for start in each] for each in freed] == [["r#6"], ["r#4"], []]
    assert left.free == 1


def test_the_admin_lane_ends_the_deadlock_of_a_used_up_cluster() -> None:
    """All slots are taken by jobs that only the maintenance job could unblock."""
    stuck = [running(n, 2, host) for n, host in ((1, "a"), (2, "b"))]
    fix = gang(9, 1, admin=True, user="root", submitted_at=NOW, queued_at=NOW)
    urgent = gang(8, 1, priority=Priority.URGENT)
    found = decide(*stuck, fix, urgent, slots={"a": 2, "b": 2})
    assert found.preempts[0].by == "r#9"
    assert rules(found)["r#9"] == "vacating"


def test_the_admin_reserve_is_for_the_admin_lane_only() -> None:
    reserve = Policy(admin_reserve=1, preemption=False)
    held = running(1, 2, "a")
    found = decide(held, gang(2, 1), gang(3, 1), policy=reserve)
    assert started(found) == ["r#2"]
    assert rules(found) == {"r#3": "reserve"}
    fix = gang(9, 1, admin=True)
    assert started(decide(held, gang(2, 1), fix, policy=reserve)) == ["r#9", "r#2"]
    # As wide as everything but the reserve is as wide as it gets.
    assert rules(decide(gang(1, 4), policy=reserve)) == {"r#1": "too wide"}


def test_the_cheapest_victims_and_none_too_many() -> None:
    high = Policy(high_budget=1.0)
    found = decide(
        running(1, 1, "a", priority=Priority.LOW, saved_at=NOW - 900),
        running(2, 1, "a", priority=Priority.LOW, saved_at=NOW - 10),
        running(3, 2, "a", priority=Priority.LOW, saved_at=NOW - 20),
        gang(4, 2), policy=high,
    )  # fmt: skip
    assert [(p.job, p.by) for p in found.preempts] == [("r#3", "r#4")]
    assert found.preempts[0].cost == pytest.approx(60.0)


def test_nobody_leaves_for_a_gang_that_still_couldnt_start() -> None:
    fixed = running(1, 3, "a", priority=Priority.LOW, preemptible=False)
    found = decide(fixed, running(2, 1, "a", priority=Priority.LOW), gang(3, 2))
    assert not found.preempts


def test_who_has_just_started_stays() -> None:
    fresh = running(1, 4, "a", ago=300.0, remaining=9e6, exact=True)
    brief = gang(2, 1, remaining=1000.0)
    assert not decide(fresh, brief).preempts
    old = running(1, 4, "a", ago=5000.0, remaining=9e6, exact=True)
    assert decide(old, brief).preempts == (Preempt("r#1", "r#2", pytest.approx(100.0)),)
    assert not decide(old, brief, policy=Policy(preemption=False)).preempts


def test_slots_are_kept_for_whom_they_are_vacated() -> None:
    leaving = running(1, 2, "a", leaving=True, leaving_for="r#2")
    found = decide(leaving, gang(2, 4, promised=True), gang(3, 1))
    assert rules(found) == {"r#2": "vacating", "r#3": "no slots"}
    # It is gone: the slots are anybody's.
    assert started(decide(leaving, gang(3, 1))) == ["r#3"]
    # It has left: who it left for is first, whatever else has come.
    left = gang(1, 2, attained=9.0)
    rush = gang(4, 4, priority=Priority.URGENT)
    assert started(decide(left, gang(2, 4, promised=True), rush)) == ["r#2"]


def test_elastic_gangs_start_with_all_there_is_and_shrink_for_others() -> None:
    elastic = gang(1, 1, max_workers=8)
    found = decide(elastic)
    assert found.starts[0].workers == 4
    assert [s.count for s in found.starts[0].placement] == [8]
    alone = decide(elastic, gang(2, 2, submitted_at=NOW))
    assert {s.job: s.workers for s in alone.starts} == {"r#1": 2, "r#2": 2}
    held = replace(running(1, 4, "a"), workers=1, max_workers=8)
    shrunk = decide(held, gang(2, 2, remaining=100.0))
    # By no more than the other needs.
    assert [(r.job, r.workers, r.by) for r in shrunk.resizes] == [("r#1", 2, "r#2")]
    assert rules(shrunk) == {"r#2": "vacating"}


def test_an_elastic_gang_grows_only_when_that_pays() -> None:
    def held(left: float) -> Gang:
        return replace(running(1, 2, "a"), workers=1, max_workers=4, remaining=left, exact=True)

    assert decide(held(50_000.0)).resizes[0].workers == 4
    assert not decide(held(100.0)).resizes
    # Others come first.
    found = decide(held(50_000.0), gang(2, 2))
    assert started(found) == ["r#2"]
    assert not found.resizes


def test_a_plan_can_be_made_in_small_steps() -> None:
    gangs = tuple(gang(n, 1 + n % 3) for n in range(3000))
    view = QueueView(gangs, (Host("a", 4),))
    steps = list_until_returned(planning(view, NOW))
    assert steps[-1] == plan(view, NOW)
    assert len(steps) > 20


def list_until_returned(steps: Iterator[object]) -> list[object]:
    seen: list[object] = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return [*seen, end.value]


def test_what_a_plan_leaves_serves_the_next_events() -> None:
    held, other = running(1, 2, "a"), running(2, 2, "b", remaining=9e5, exact=True)
    wide, narrow = gang(3, 4, remaining=10.0), gang(4, 1, remaining=600.0)
    hosts = (Host("a", 2, 2), Host("b", 2, 2))
    view = QueueView((held, other, wide, narrow), hosts, policy=Policy(preemption=False))
    made, standing = decided(view, NOW)
    assert not made.starts
    assert made.reservations[0].job == "r#3"
    # The slots of one that ends go to who may have them without delaying the first in line.
    starts = standing.ended(held, NOW + 1)
    assert [s.job for s in starts] == ["r#4"]
    assert standing.free == 1
    # What comes and would last too long waits; what is known to be short goes ahead.
    assert standing.arrived(gang(5, remaining=9e6), NOW + 2) is None
    assert standing.arrived(gang(6, remaining=60.0), NOW + 2) is not None
    assert standing.free == 0
    assert standing.arrived(gang(7, remaining=60.0), NOW + 2) is None
