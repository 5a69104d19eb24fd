"""Sweeping: nothing that is live goes, everything else does, whoever is killed when."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient_nb.control import sweeping
from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.shell import Shell
from resilient_nb.control.sweeping import Sweeping
from resilient_nb.core import events as ev
from resilient_nb.core.model import Best, JobState, Keep, Outcome, StopReason
from resilient_nb.core.names import checkpoint_id, split_checkpoint
from resilient_nb.core.retention import superfluous
from resilient_nb.errors import CheckpointError
from resilient_nb.storage.claim import claim
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.objects import Buffer, Entry
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.sweep import (
    Standing,
    Sweeper,
    Swept,
    doomed,
    references,
    standing,
)
from resilient_nb.storage.tree import TensorLeaf
from resilient_nb.storage.writing import commit, write_part
from resilient_nb.testing.builders import Story, a_checkpoint, a_report, a_spec, an_end, killed
from resilient_nb.testing.fakes import (
    ManualClock,
    MemoryJournal,
    RecordingLauncher,
    fake_settings,
)
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq

RUNS = ("a", "b")
Arrays = dict[tuple[str, str], bytes]  # (checkpoint id, key of the array): its values


class Killed(BaseException):
    """The process is gone; nothing after it happens."""


class MemoryStore:
    """Objects in a dict. With `lives`, it is killed when so many more were deleted."""

    url, block, threads = "memory", 1 << 20, 1

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lives: int | None = None

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        self.objects[key] = b"".join(map(bytes, parts))

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(errno.ENOENT, "no such object", key)
        return self.objects[key]

    def list(self, prefix: str = "") -> Iterator[Entry]:
        for key, data in list(self.objects.items()):
            if not prefix or key == prefix or key.startswith(f"{prefix}/"):
                yield Entry(key, len(data))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self.lives is not None:
                if self.lives == 0:
                    raise Killed
                self.lives -= 1
            self.objects.pop(key, None)

    # As checkpoints look from here: a manifest that lists arrays, each with a chunk or two.

    def write(self, identity: str, key: str, value: bytes) -> None:
        self.put(f"{identity}/{key}/zarr.json", [b"{}"])
        self.put(f"{identity}/{key}/c.0", [value])

    def finish(self, identity: str, arrays: Iterable[tuple[str, str]]) -> None:
        text = "\n".join(f"{at} {key}" for at, key in sorted(arrays))
        self.put(f"{identity}/model/zarr.json", [b"group"])
        self.put(f"{identity}/zarr.json", [text.encode()])

    def whole(self, identity: str) -> bool:
        return f"{identity}/zarr.json" in self.objects


def listed(store: Any, identity: str) -> list[tuple[str, str]]:
    lines = store.read(f"{identity}/zarr.json").decode().split("\n")
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line]


def swept(store: MemoryStore, facts: Standing, among: Iterable[str] | None = None) -> Swept:
    places = None if among is None else list(among)
    return Sweeper(store, listed).sweep(facts, places)  # type: ignore[arg-type]


# --- which folders may go ---


def story(*steps: int) -> Story:
    made = Story().submit().start()
    for step in steps:
        made.checkpoint(step)
    return made


def test_of_a_running_attempt_only_what_is_before_its_head_may_go() -> None:
    told = story(20, 40).stop(StopReason.VACATE).end(an_end(0, Outcome.LEFT)).requeue()
    told.start()
    facts = standing(told.world)
    assert facts.settled == {"digits": (2, -1)}
    assert facts.removable("digits/00000060-e1")  # debris of the first attempt
    assert not facts.removable("digits/00000020-e1")  # live
    assert not facts.removable("digits/00000060-e2")
    told.checkpoint(60).checkpoint(80)
    told.then(ev.CheckpointsDropped(told.now, "digits", ("digits/00000060-e2",)))
    facts = standing(told.world)
    assert facts.removable("digits/00000060-e2")
    assert not facts.removable("digits/00000080-e2")
    assert not facts.removable("digits/00000100-e2")
    assert standing(told.world, ["digits/00000100-e2"]).removable("digits/00000100-e2")
    assert not facts.removable("digits/00000100-e3")


def test_while_nobody_runs_all_but_live_and_newer_ones_may_go() -> None:
    facts = standing(story(20).succeed().world, ["digits/00000020-e1"])
    assert not facts.removable("digits/00000020-e1")
    assert facts.removable("digits/00000040-e1")
    assert not facts.removable("digits/00000040-e2")  # begun after this was asked


@pytest.mark.parametrize("folder", [
    "other/00000040-e1", "digits/x", "digits/40-e1", "digits", "", "digits/00000040-e01",
    "digits/00000040", "digits/00000040-e", "../x/00000040-e1",
])  # fmt: skip
def test_what_isnt_known_stays(folder: str) -> None:
    facts = Standing(frozenset(), {"digits": (9, 0), "../x": (9, 0)})
    assert facts.removable("digits/00000040-e1")
    assert not facts.removable(folder)


@pytest.mark.parametrize("identity", ["digits/00000020-e1", "a.b/123456789-e12"])
def test_an_identity_can_be_taken_apart(identity: str) -> None:
    found = split_checkpoint(identity)
    assert found is not None
    assert checkpoint_id(*found) == identity


def test_manifests_go_first_and_held_arrays_stay() -> None:
    old = "digits/00000020-e1"
    keys = ["model/w/c.0", "model/w/zarr.json", "model/w2/c.0", "model/zarr.json", "zarr.json",
            "model/link"]  # fmt: skip
    entries = [Entry(f"{old}/{key}", 1) for key in keys]
    entries.append(Entry("digits/00000040-e1/zarr.json", 1))
    facts = Standing(frozenset({"digits/00000040-e1"}), {"digits": (2, -1)})
    found = [entry.key for entry in doomed(entries, facts, {old: {"model/w"}})]
    assert found[0] == f"{old}/zarr.json"
    assert set(found[1:]) == {f"{old}/model/{k}" for k in ("w2/c.0", "zarr.json", "link")}


# --- killed in the middle ---


def a_store() -> tuple[MemoryStore, Standing]:
    """Two dropped checkpoints, a live one that holds on to an array of each, and debris."""
    store, old, newer = MemoryStore(), "digits/00000020-e1", "digits/00000040-e1"
    live, debris = "digits/00000060-e1", "digits/00000080-e1"
    store.write(old, "model/a", b"a")
    store.write(old, "model/b", b"b")
    store.finish(old, [(old, "model/a"), (old, "model/b")])
    store.write(newer, "model/b", b"b2")
    store.write(newer, "model/c", b"c")
    store.finish(newer, [(old, "model/a"), (newer, "model/b"), (newer, "model/c")])
    store.write(live, "model/c", b"c2")
    store.finish(live, [(old, "model/a"), (newer, "model/b"), (live, "model/c")])
    store.write(debris, "model/c", b"half")
    return store, Standing(frozenset({live}), {"digits": (2, -1)})


def test_whoever_is_killed_at_any_delete_leaves_what_is_live_and_the_next_ends_it() -> None:
    store, facts = a_store()
    total = swept(store, facts)
    expected = dict(store.objects)
    assert total.objects == 10
    assert {key.rpartition("/c.0")[0] for key in expected if key.endswith("c.0")} == {
        "digits/00000020-e1/model/a", "digits/00000040-e1/model/b", "digits/00000060-e1/model/c",
    }  # fmt: skip
    for lives in range(total.objects):
        store, _ = a_store()
        before = dict(store.objects)
        store.lives = lives
        with pytest.raises(Killed):
            swept(store, facts)
        assert len(store.objects) == len(before) - lives
        assert store.objects.items() >= expected.items()
        for identity in ("digits/00000020-e1", "digits/00000040-e1"):
            if store.whole(identity):  # what looks like a checkpoint is all there
                assert all(key in store.objects for key in before if key.startswith(identity))
        store.lives = None
        assert swept(store, facts).objects == total.objects - lives
        assert store.objects == expected
    assert swept(store, facts) == Swept()


def test_only_what_was_dropped_is_looked_at_and_the_holders_of_its_arrays() -> None:
    store, facts = a_store()
    sweeper = Sweeper(store, listed)  # type: ignore[arg-type]
    # The debris isn't asked for; the older one is, since the newer has an array there.
    assert sweeper.measure(facts, ["digits/00000040-e1"]).objects == 8
    assert sweeper.sweep(facts, ["digits/00000040-e1"]).objects == 8
    assert sweeper.measure(facts, ["digits/00000060-e1"]) == Swept()  # live
    assert sweeper.measure(facts, ["digits"]).objects == 2
    gone = facts.without(["digits/00000060-e1"])
    before = len(store.objects)
    assert sweeper.measure(gone, ["digits/00000060-e1"]).objects == before - 2
    assert len(store.objects) == before


def test_a_manifest_that_cant_be_read_stops_everything() -> None:
    store, facts = a_store()
    before = dict(store.objects)
    del store.objects["digits/00000060-e1/zarr.json"]
    with pytest.raises(CheckpointError, match="What checkpoint digits/00000060-e1 refers to isn't"):
        swept(store, facts)
    assert len(store.objects) == len(before) - 1
    store.objects = before
    assert swept(store, facts).objects == 10


def test_what_is_asked_to_stop_does_so_between_batches() -> None:
    store, facts = a_store()
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 1

    done = Sweeper(store, listed).sweep(facts, None, stopped)  # type: ignore[arg-type]
    assert done.objects == 2  # the manifests
    assert not store.whole("digits/00000020-e1")
    assert swept(store, facts).objects == 8


# --- random histories ---


@dataclass
class Writer:
    """An attempt as its ranks see it: what the last checkpoint that was committed consists of."""

    job: str
    run: str
    epoch: int
    base: Arrays
    head: str | None
    step: int
    writing: str = ""
    arrays: Arrays = field(default_factory=dict)
    lost: bool = False  # the journal thinks that it is gone, but it goes on writing


class Sweeps(RuleBasedStateMachine):
    """Attempts write, fail and die; runs fork and drop; sweeps look at the journal of before."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Story()
        self.store = MemoryStore()
        self.sweeper = Sweeper(self.store, listed)  # type: ignore[arg-type]
        self.writers: list[Writer] = []
        self.failed: set[str] = set()
        self.contents: dict[str, Arrays] = {}  # by checkpoint
        self.facts = standing(self.told.world)
        self.serial = 0
        for run in RUNS:
            self.told.submit(run)
            self.begin(run)
            for changed in ("wxyz", "w", "x", "wy"):
                self.write(self.writers[-1], set(changed))
                self.commit(self.writers[-1])

    # --- jobs ---

    @property
    def current(self) -> list[Writer]:
        return [writer for writer in self.writers if not writer.lost]

    def begin(self, run: str) -> None:
        self.told.start(run)
        head = self.told.world.runs[run].head
        step = self.told.world.checkpoint(head).step if head else 0
        base = dict(self.contents[head]) if head else {}
        epoch = self.told.world.runs[run].epoch
        self.writers.append(Writer(self.told.job(run).id, run, epoch, base, head, step))

    @rule(run=st.sampled_from(RUNS), how=st.sampled_from(["lost", "killed", "succeeded"]))
    def end_or_begin(self, run: str, how: str) -> None:
        writer = next((w for w in self.current if w.run == run), None)
        if writer is None:
            self.begin(run)
            return
        if how == "succeeded":
            self.told.succeed(run).submit(run)
        else:
            self.told.stop(run=run).end(killed(), run=run).requeue(run)
        writer.lost = True
        if how != "lost":
            self.writers.remove(writer)
        self.failed = {name for name in self.failed if not name.startswith(f"{run}/")}

    @rule(run=st.sampled_from(RUNS), data=st.data(), how=st.sampled_from(["tag", "move", "over"]))
    def point(self, run: str, data: st.DataObject, how: str) -> None:
        """Tag, go on from another checkpoint (maybe the other run's), or start over."""
        known = [c for r in self.told.world.runs.values() for c in r.checkpoints]
        idle = self.told.job(run).state is JobState.QUEUED
        if not known or not (idle or how == "tag"):
            return
        target = data.draw(st.sampled_from(known))
        if how == "tag":
            self.told.then(ev.CheckpointTagged(self.told.now, run, target, "best"))
        else:
            head = target if how == "move" else None
            self.told.then(ev.HeadMoved(self.told.now, run, head))

    # --- checkpoints, as ranks write them ---

    @precondition(lambda self: self.writers)
    @rule(
        which=st.integers(0, 3), changes=st.lists(st.sets(st.sampled_from("wxyz")), max_size=4),
        fails=st.booleans(),
    )  # fmt: skip
    def checkpoints(self, which: int, changes: list[set[str]], fails: bool) -> None:
        """Commit some checkpoints; then begin another one, which may fail."""
        writer = self.writers[which % len(self.writers)]
        for changed in changes:
            self.write(writer, changed)
            self.commit(writer)
        self.write(writer, {"w"})
        if fails and not writer.lost:
            self.failed.add(writer.writing)
            writer.writing = ""

    def write(self, writer: Writer, changed: set[str]) -> None:
        """What has changed is written, the rest referred to."""
        writer.step += 1
        writer.writing = checkpoint_id(writer.run, writer.step, writer.epoch)
        same = {where[1]: where for where in writer.base if where[1] not in changed}
        writer.arrays = {where: writer.base[where] for where in same.values()}
        for name in {"w", "x", "y", "z"} - set(same):
            self.serial += 1
            writer.arrays[writer.writing, name] = str(self.serial).encode()
            self.store.write(writer.writing, name, str(self.serial).encode())

    def commit(self, writer: Writer) -> None:
        identity, writer.writing = writer.writing, ""
        self.store.finish(identity, writer.arrays)
        if writer.lost:
            return
        new = a_checkpoint(writer.job, writer.step, writer.epoch, writer.head,
                           metrics={"loss": float(self.serial % 7)})  # fmt: skip
        self.told.then(ev.CheckpointCommitted(self.told.now, new))
        writer.base, writer.head = dict(writer.arrays), identity
        self.contents[identity] = dict(writer.arrays)

    # --- dropping and sweeping ---

    @rule(run=st.sampled_from(RUNS), last=st.integers(0, 2), every=st.integers(0, 4),
          best=st.integers(0, 1))  # fmt: skip
    def drop(self, run: str, last: int, every: int, best: int) -> None:
        gone = superfluous(self.told.world, run, Keep(last, every, (Best(best, "loss"),)))
        self.told.then(ev.CheckpointsDropped(self.told.now, run, gone))

    @rule()
    def look(self) -> None:
        """A sweep looks at the journal; what it deletes, it may delete much later."""
        self.facts = standing(self.told.world, self.failed)

    @rule(lives=st.none() | st.integers(0, 6), late=st.integers(0, 3), data=st.data())
    def sweep(self, lives: int | None, late: int, data: st.DataObject) -> None:
        if late:
            self.look()
        folders = sorted({"/".join(key.split("/")[:2]) for key in self.store.objects})
        some = st.lists(st.sampled_from([*RUNS, *folders]), max_size=2)
        among = data.draw(st.none() | some)
        self.store.lives = lives
        try:
            self.sweeper.sweep(self.facts, among)
        except Killed:
            self.sweeper = Sweeper(self.store, listed)  # type: ignore[arg-type]
        finally:
            self.store.lives = None

    def has(self, arrays: Arrays) -> bool:
        return all(
            self.store.objects.get(f"{at}/{key}/c.0") == value
            and f"{at}/{key}/zarr.json" in self.store.objects
            for (at, key), value in arrays.items()
        )

    @invariant()
    def every_live_checkpoint_is_whole(self) -> None:
        for run in self.told.world.runs.values():
            for identity in run.checkpoints:
                assert self.store.whole(identity)
                assert self.has(self.contents[identity]), identity

    @invariant()
    def nothing_that_an_attempt_is_writing_is_gone(self) -> None:
        for writer in self.current:
            assert self.has(writer.base)
            if writer.writing:
                assert self.has(writer.arrays)

    def teardown(self) -> None:
        """When nobody runs, one sweep leaves what is live and what that refers to, and no more."""
        for writer in self.current:
            self.told.succeed(writer.run)
        self.sweeper.sweep(standing(self.told.world))
        live = {c for run in self.told.world.runs.values() for c in run.checkpoints}
        wanted = {array for identity in live for array in self.contents[identity]}
        for key in self.store.objects:
            run, step, rest = key.split("/", 2)
            folder = f"{run}/{step}"
            assert folder in live or (folder, rest.rpartition("/")[0]) in wanted, key
        self.every_live_checkpoint_is_whole()


TestSweeps = Sweeps.TestCase
TestSweeps.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


# --- real checkpoints on a file system ---


def save(store: LocalStore, step: int, values: dict[str, float], base: Manifest | None) -> Manifest:
    """Write a checkpoint of tensors that are each filled with a value."""
    identity = checkpoint_id("digits", step, 1)
    leaves = {
        name: TensorLeaf(np.full((300, 300), value, np.float32), "float32")
        for name, value in values.items()
    }
    digests = {name: digest(leaf.array) for name, leaf in leaves.items()}
    same = {t.name: t for t in base.tensors if digests.get(t.name) == t.digest} if base else {}
    new = {name: leaf for name, leaf in leaves.items() if name not in same}
    records = write_part(store, identity, new, {name: digests[name] for name in new})
    manifest = Manifest(
        run="digits", job="digits#1", epoch=1, step=step, parent=base.id if base else None,
        world_size=1, created_at=0.0, tensors=(*same.values(), *records.values()),
    )  # fmt: skip
    commit(store, manifest)
    return manifest


def test_real_checkpoints_stay_readable_when_what_they_build_on_is_dropped(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = save(store, 20, {"model/a": 1.0, "model/b": 1.0}, None)
    second = save(store, 40, {"model/a": 1.0, "model/b": 2.0}, first)
    third = save(store, 60, {"model/a": 1.0, "model/b": 3.0}, second)
    assert set(references(store, third.id)) == {(first.id, "model/a"), (third.id, "model/b")}
    told = story(20, 40, 60)
    told.then(ev.CheckpointsDropped(told.now, "digits", (first.id, second.id)))
    sweeper = Sweeper(store)
    expected = sweeper.measure(standing(told.world), [first.id, second.id])
    assert 2 * 360_000 < expected.nbytes < 2 * 360_000 + 20_000
    assert sweeper.sweep(standing(told.world), [first.id, second.id]) == expected
    assert not (tmp_path / second.id).exists()
    assert not (tmp_path / first.id / "zarr.json").exists()
    read = open_at(store, third.id).read_many(["model/a", "model/b"])
    assert [float(leaf.array[0, 0]) for leaf in read.values()] == [1.0, 3.0]
    group = zarr.open_group(str(tmp_path / third.id), mode="r")
    assert float(group["model/a"][0, 0]) == 1.0  # type: ignore[index, arg-type]
    told.succeed().then(ev.HeadMoved(told.now, "digits", None))
    world = told.world
    everything = Standing(frozenset(), standing(world).settled)
    assert sweeper.sweep(everything).objects > 0
    assert list(store.list()) == []
    assert list(tmp_path.iterdir()) == []  # links and empty folders, too


# --- beside the scheduler's loop ---


class Desk:
    """An engine, its store, and the sweeping of it."""

    def __init__(self, home: Path, **changes: Any) -> None:
        self.clock = ManualClock()
        shell = Shell(MemoryJournal(), RecordingLauncher(), self.clock, lambda job: None)
        self.settings = fake_settings(home, **changes)
        self.engine = Engine(self.settings, shell)
        self.engine.record(ev.ClusterCreated(self.clock(), "mine"))
        self.sweeping = Sweeping(self.engine)
        self.commands = Commands(self.engine, "tcp://here")
        self.store = LocalStore(self.settings.runs)
        self.manifest: Manifest | None = None
        self.clock.advance(60)

    def begin(self, keep: Keep) -> None:
        self.commands(rq.Submit("digits", a_spec(keep=keep), "r1"), "ada")
        self.engine.report(a_report("h0"))
        self.engine.report(a_report("h0", orders.Prepared("digits#1", 1, 4000)))
        self.engine.report(a_report("h0", orders.RankStarted("digits#1", 1, 0, 77)))

    def checkpoint(self, step: int) -> str:
        values = {"model/a": 1.0, "model/b": float(step)}
        self.manifest = save(self.store, step, values, self.manifest)
        new = a_checkpoint(step=step, parent=self.engine.world.runs["digits"].head)
        self.engine.report(a_report("h0", orders.CheckpointWritten(new)))
        return new.id

    def work(self) -> None:
        asyncio.run(self.sweeping.work())

    def there(self, identity: str) -> bool:
        return (Path(self.settings.runs) / identity / "zarr.json").exists()

    @property
    def alert(self) -> str:
        return self.engine.alerts.get("sweep", "")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_a_rule_drops_is_swept(desk: Desk) -> None:
    desk.begin(Keep(last=2))
    ids = [desk.checkpoint(step) for step in (20, 40, 60, 80)]
    assert all(map(desk.there, ids))
    desk.work()
    assert [desk.there(identity) for identity in ids] == [False, False, True, True]
    assert open_at(desk.store, ids[3]).read("model/a").array[0, 0] == 1.0
    assert desk.engine.keeping.take() is None
    assert desk.alert == ""


def test_a_start_collects_what_attempts_before_it_left(desk: Desk) -> None:
    desk.begin(Keep(last=9))
    kept = desk.checkpoint(20)
    desk.engine.report(a_report("h0", orders.RankDone("digits#1", 1, killed())))
    half = LocalStore(desk.settings.runs)
    half.put("digits/00000040-e1/model/w/c.0", [b"half"])
    half.put("other/00000040-e1/model/w/c.0", [b"not ours to judge"])
    desk.clock.advance(10)
    desk.work()
    left = {entry.key for entry in half.list()}
    assert "digits/00000040-e1/model/w/c.0" not in left
    assert "other/00000040-e1/model/w/c.0" in left
    assert desk.there(kept)


def test_a_failure_is_shown_and_tried_again_later(desk: Desk) -> None:
    desk.begin(Keep(last=1))
    first = desk.checkpoint(20)
    head = desk.checkpoint(40)
    manifest = Path(desk.settings.runs, head, "zarr.json")
    good = manifest.read_bytes()
    manifest.write_bytes(good.replace(b'"digits#1"', b'"digits#2"'))
    desk.work()
    assert desk.alert.startswith(
        f"The space of dropped checkpoints can't be freed: What checkpoint {head} refers to isn't"
    )
    assert desk.there(first)
    manifest.write_bytes(good)
    desk.work()
    assert desk.there(first)  # not at once
    desk.clock.advance(sweeping._AGAIN + 1)
    desk.work()
    assert not desk.there(first)
    assert desk.alert == ""


def test_what_a_damaged_manifest_says_is_read_from_a_second_copy(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replicas=(str(tmp_path / "copy"),))
    desk.begin(Keep(last=1))
    first, head = desk.checkpoint(20), desk.checkpoint(40)
    shutil.copytree(desk.settings.runs, tmp_path / "copy" / "runs", symlinks=True)
    Path(desk.settings.runs, head, "zarr.json").write_bytes(b"{")
    desk.work()
    assert desk.alert == ""
    assert not desk.there(first)
    assert Path(desk.settings.runs, first, "model/a/zarr.json").exists()
    assert not Path(desk.settings.runs, first, "model/b").exists()


def test_a_fault_of_ours_isnt_hidden_and_the_errand_not_forgotten(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.begin(Keep(last=1))
    first = desk.checkpoint(20)
    desk.checkpoint(40)
    with monkeypatch.context() as patch:
        patch.setattr(Sweeper, "sweep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.work()
    desk.clock.advance(sweeping._AGAIN + 1)
    desk.work()
    assert not desk.there(first)


def test_nothing_is_swept_from_another_clusters_store(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.begin(Keep(last=1))
    first = desk.checkpoint(20)
    desk.checkpoint(40)
    Path(desk.settings.store, "cluster").write_text("theirs")
    desk.work()
    assert desk.there(first)


def test_an_unclaimed_store_is_left_alone(desk: Desk) -> None:
    desk.store.put("digits/00000040-e1/model/w/c.0", [b"of an older journal"])
    desk.work()
    assert len(list(desk.store.list())) == 1
    claim(open_store(desk.settings.store), "mine")
    desk.engine.keeping.give_back(desk.engine.keeping.take() or sweeping_errand())
    desk.work()
    assert len(list(desk.store.list())) == 1  # a run that the journal doesn't know


def sweeping_errand() -> Any:
    from resilient_nb.control.keeping import Errand

    return Errand(None)


def test_the_first_sweep_waits_for_the_start_to_be_over(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.clock.now -= 60
    desk.work()
    assert desk.engine.keeping.take() is not None


def test_a_full_store_is_told_what_was_freed(desk: Desk) -> None:
    desk.begin(Keep(last=1, thinning=a_spec().keep.thinning))
    for step in (20, 40, 60):
        desk.checkpoint(step)
    desk.store.put("digits/00000080-e1/model/w/c.0", [b"half" * (1 << 20)])
    failed = orders.CheckpointFailed(
        "digits#1", 1, 80, errno.ENOSPC, "The checkpoint at step 80 failed: No space left."
    )
    desk.engine.report(a_report("h0", failed))
    desk.work()
    notes = desk.engine.live.of("digits#1").notes
    assert notes[0] == "The checkpoint at step 80 failed: No space left."
    assert "The store is full: dropped 2 checkpoints of digits" in notes[1]
    assert notes[2].startswith("Freed 4.7 MiB")
    assert {entry.key.split("/")[1] for entry in desk.store.list()} == {
        "00000020-e1", "00000060-e1",
    }  # fmt: skip


def test_retain_says_how_much_it_frees(desk: Desk) -> None:
    desk.begin(Keep(last=9))
    ids = [desk.checkpoint(step) for step in (20, 40, 60)]

    def ask(dry_run: bool) -> Any:
        request = rq.Retain("digits", Keep(last=1), dry_run)
        return asyncio.run(desk.sweeping.retain(lambda: desk.commands(request, "ada")))

    dry = ask(True)
    # model/a is still needed; documents aren't counted, as little as in a list of checkpoints.
    assert 2 * 360_000 <= dry.freed < 2 * 360_000 + 100
    assert all(map(desk.there, ids))
    done = ask(False)
    assert (done.freed, done.note) == (dry.freed, "")
    desk.work()
    assert [desk.there(identity) for identity in ids] == [False, False, True]
    assert ask(False).freed == 0


def test_retain_says_why_it_doesnt_know(desk: Desk) -> None:
    desk.begin(Keep(last=9))
    desk.checkpoint(20)
    head = desk.checkpoint(40)
    Path(desk.settings.runs, head, "zarr.json").unlink()
    request = rq.Retain("digits", Keep(last=1))
    report = asyncio.run(desk.sweeping.retain(lambda: desk.commands(request, "ada")))
    assert report.freed is None
    assert f"What checkpoint {head} refers to isn't known" in report.note
    assert list(desk.engine.world.runs["digits"].checkpoints) == [head]


def test_a_closed_one_stops(desk: Desk) -> None:
    desk.begin(Keep(last=1))
    first = desk.checkpoint(20)
    desk.checkpoint(40)
    desk.sweeping.close()
    desk.work()
    assert desk.there(first)
