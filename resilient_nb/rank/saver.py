"""Taking checkpoints beside training: one at a time, by all ranks together.

Each rank's writer process gives the digests of what it holds, and the ranks show them to each
other through the group's store. What is equal on all of them (with averaged gradients, nearly
everything) is divided over them by size; what differs (say BatchNorm's running statistics) each
rank writes for itself; what is as it was in the checkpoint before is not written again. Rank 0
then has the manifest written and reports; the journal's commit makes it a checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from resilient_nb.core.model import Checkpoint
from resilient_nb.core.names import checkpoint_id
from resilient_nb.core.places import is_url, sub_folder
from resilient_nb.errors import CheckpointError
from resilient_nb.rank.around import Course
from resilient_nb.rank.origin import Origin
from resilient_nb.rank.sharing import Share, View, divide
from resilient_nb.rank.snapshot import CHANGED, Slot, Snapshot
from resilient_nb.rank.writer import Writer, WriterGone, WriterHere
from resilient_nb.storage.encoding import codecs_of, key_of
from resilient_nb.storage.keys import encrypting_key, same_key
from resilient_nb.storage.manifest import Manifest, TensorRecord, checkpoint_of
from resilient_nb.storage.tree import Json
from resilient_nb.storage.writing import Options, merge
from resilient_nb.wire.codec import build, from_json, to_json
from resilient_nb.wire.orders import Attempt, CheckpointFailed, CheckpointWritten

T = TypeVar("T")

#: What passes once somebody has made room, or mended the disk.
_PASSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
#: How long the writers of one checkpoint wait for each other.
_PATIENCE = timedelta(seconds=120)


@dataclass(frozen=True)
class Request:
    """One checkpoint to write."""

    step: int
    position: dict[str, int]
    snapshot: Snapshot
    metrics: dict[str, float]
    tag: str | None
    scaling: dict[str, Json] | None = None  # how the batch has grown, if it does
    lowered: dict[str, Json] | None = None  # the learning rate, since the run diverged
    around: Course = field(default_factory=list)
    last: bool = False  # of its job: while the disk can't take it, it is tried again


@dataclass(frozen=True)
class Written:
    """What one rank has done for a checkpoint.

    `tied` has stored names of tensors that are other ones, whose stored names they lead to.
    """

    records: tuple[TensorRecord, ...] = ()
    reused: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    error: tuple[int, str] | None = None


class Saver:
    """Writes one checkpoint at a time, in its own thread.

    Args:
        attempt: what it belongs to.
        rank: this process's number in the gang.
        store: of the gang's group.
        send: takes facts for the control plane.
        note: takes lines for the user.
        writer: does the work.
        start: the checkpoint that the attempt goes on from.

    Attributes:
        failed: why the last one couldn't be written, None if it was.
        errno: what the system said of it, 0 if nothing.
    """

    def __init__(
        self,
        attempt: Attempt,
        rank: int,
        store: Store,
        send: Callable[[object], None],
        note: Callable[[str], None],
        writer: Writer,
        start: Manifest | None = None,
    ) -> None:
        self._attempt = attempt
        self._rank = rank
        self._world = attempt.world_size
        self._send = send
        self._note = note
        self._writer = writer
        # A connection of its own: waiting on one blocks every other use of it.
        self._store = store.clone() if self._world > 1 else store  # type: ignore[attr-defined]
        self._runs = sub_folder(attempt.store, "runs")
        # A disk is as fast with one thread, and training feels every other one; a bucket isn't.
        self._options = Options(
            codecs=codecs_of(attempt.compress, encrypting_key()),
            threads=0 if is_url(attempt.store) else 1,
        )
        self.origin = Origin(attempt)
        self._base = start
        self._parent = attempt.start_id
        self._last: Checkpoint | None = None
        self._segment: object = None
        self._thread: threading.Thread | None = None
        self._answered = threading.Condition()
        self._answers: dict[int, bool] = {}
        self._told: set[str] = set()  # what the others have been shown of this checkpoint
        self.failed: str | None = None
        self.errno = 0

    def write(self, request: Request) -> None:
        """Begin to write; waits for the one before."""
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(request,), name="resilient_nb checkpoint", daemon=True
        )
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, patience: float | None = None) -> None:
        """Wait until nothing is being written, or for so many seconds."""
        if self._thread is not None:
            self._thread.join(patience)
            self._thread = self._thread if self.busy else None

    def tag_last(self, step: int, tag: str) -> None:
        """Tag the checkpoint of `step`, which was the last to be written."""
        self.wait()
        if self._last is not None and self._last.step == step:
            self._send(CheckpointWritten(self._last, tag))

    def answered(self, step: int, accepted: bool) -> None:
        """The journal has accepted or refused a checkpoint."""
        with self._answered:
            self._answers[step] = accepted
            self._answered.notify_all()

    def wait_for_commit(self, step: int) -> None:
        """Wait until the journal has answered for `step` (however long it is away)."""
        self.wait()
        if self.failed is not None:
            return
        with self._answered:
            self._answered.wait_for(lambda: step in self._answers)

    # --- in the thread ------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        self._told = set()
        try:
            self._write(request)
            self.failed, self.errno = None, 0
        except Exception as error:
            # Training goes on: the last committed checkpoint still stands.
            self.failed = f"The checkpoint at step {request.step} failed: {error}"
            self.errno = getattr(error, "errno", None) or 0
            self._give_up(request, error)
        finally:
            self._segment = self._segment if self.failed is None else None

    @property
    def passes(self) -> bool:
        """Whether the last one failed by what somebody can mend, by making room, say."""
        return self.errno in _PASSES

    def _give_up(self, request: Request, error: Exception) -> None:
        """Tell the other ranks at once, and the user."""
        step, why = request.step, (self.errno, str(error))
        if self._world > 1 and not isinstance(error, _OthersFailed):
            for name, message in (("view", View(error=why)), ("part", Written(error=why))):
                if name in self._told:
                    continue  # some have read it already: others must not read something else
                self._store.set(self._key(step, name, self._rank), to_json(message).decode())
        if isinstance(error, WriterGone):
            self._writer = WriterHere()
            self._note(f"Rank {self._rank} writes its next checkpoints by itself: {error}.")
        if self._rank == 0 and self.failed is not None:
            attempt = self._attempt
            again = request.last and self.passes
            fact = CheckpointFailed(attempt.job, attempt.epoch, step, why[0], self.failed, again)
            self._send(fact)

    def _write(self, request: Request) -> None:
        attempt, snapshot = self._attempt, request.snapshot
        identity = checkpoint_id(attempt.run, request.step, attempt.epoch)
        if not snapshot.wait():
            raise RuntimeError(CHANGED)
        share = self._share(request.step, snapshot)
        slots = {**snapshot.slots, **snapshot.own_slots}
        wanted = {stored: slots[name] for stored, name in share.write.items()}
        records = self._writer(
            "write", self._runs, identity, wanted, share.digests, self._rank, self._options,
            self._kept(share),
        )  # fmt: skip
        part = self._written(snapshot, share, records)
        parts = self._gather(request.step, "part", part, Written, to_all=False)
        if self._rank != 0:
            return
        self._forget(request.step)
        documents: dict[str, Json] = {"shared": dict(snapshot.documents)}
        documents.update({f"rank-{n}": dict(parts[n].own) for n in range(self._world)})
        manifest = self._manifest(request, self._merged(parts))
        stored = self._writer("commit", self._runs, manifest, documents)
        self._committed(replace(manifest, documents=stored), request.tag)

    def _share(self, step: int, snapshot: Snapshot) -> Share:
        """Compare what the ranks hold; return what this one writes."""
        if snapshot.segment is not self._segment:
            self._writer("attach", snapshot.segment.fd, snapshot.segment.size)
            self._segment = snapshot.segment
        shared = {name: slot for name, slot in snapshot.slots.items() if slot.tied is None}
        own = {name: slot for name, slot in snapshot.own_slots.items() if slot.tied is None}
        # With other ranks most of it will be theirs to write.
        options = self._options if self._world == 1 else None
        found = self._writer("digests", {**shared, **own}, options)
        marks = {name: f"{found[name]} {slot.kind}" for name, slot in {**shared, **own}.items()}
        view = View(
            {name: marks[name] for name in shared},
            {name: slot.nbytes for name, slot in shared.items()},
            {name: slot.shard.index for name, slot in shared.items() if slot.shard is not None},
            _ties(snapshot.slots),
            {name: _sha256(document) for name, document in snapshot.documents.items()},
            {name: marks[name] for name in own},
            self._reusable(),
            key_of(self._options.codecs),
        )
        views = self._gather(step, "view", view, View, to_all=True)
        _check_keys(views)
        return divide(views, self._rank)

    def _kept(self, share: Share) -> tuple[TensorRecord, ...]:
        """Return what is stored already; only rank 0 knows where."""
        if self._rank != 0 or self._base is None:
            return ()
        names = set(share.reuse)
        return tuple(t for t in self._base.tensors if t.name in names)

    def _reusable(self) -> dict[str, str]:
        """Return what the checkpoint before has, as far as it is stored as it would be now.

        A checkpoint that is encrypted refers to no plain tensor, and needs no key but its own.
        """
        before = self._base.tensors if self._base else ()
        kept = (t for t in before if t.codecs == self._options.codecs)
        return {t.name: f"{t.digest} {t.kind}" for t in kept}

    def _written(
        self, snapshot: Snapshot, share: Share, records: Mapping[str, TensorRecord]
    ) -> Written:
        own: dict[str, Any] = dict(snapshot.own_document)
        if self._rank:
            own["tensors"] = list(share.apart)
            own["documents"] = {name: snapshot.documents[name] for name in share.documents}
        tied = {**_ties(snapshot.own_slots), **share.tied}
        return Written(tuple(records.values()), share.reuse, tied, own)

    def _merged(self, parts: list[Written]) -> tuple[TensorRecord, ...]:
        """Return the records of all tensors: written now, unchanged, and tied ones."""
        found: dict[str, list[TensorRecord]] = {}
        for part in parts:
            for record in part.records:
                found.setdefault(record.name, []).append(record)
        records = {name: merge(several) for name, several in found.items()}
        before = {t.name: t for t in self._base.tensors} if self._base else {}
        # What was another tensor may have become one of its own, with the same values.
        again = [name for part in parts for name in part.reused]
        records.update({name: replace(before[name], tied=None) for name in again})
        for part in parts:
            for name, first in part.tied.items():
                records[name] = replace(records[first], name=name, tied=first)
        return tuple(sorted(records.values(), key=lambda t: t.name))

    def _committed(self, manifest: Manifest, tag: str | None) -> None:
        checkpoint = checkpoint_of(manifest)
        self._parent, self._last, self._base = checkpoint.id, checkpoint, manifest
        self._send(CheckpointWritten(checkpoint, tag))

    # --- with the other ranks -------------------------------------------------------------

    def _gather(self, step: int, name: str, value: T, kind: type[T], to_all: bool) -> list[T]:
        """Exchange plain values over ranks; only rank 0 gets them unless `to_all`."""
        if self._world == 1:
            return [value]
        keys = [self._key(step, name, rank) for rank in range(self._world)]
        self._store.set(keys[self._rank], to_json(value).decode())
        self._told.add(name)
        if self._rank != 0 and not to_all:
            return []
        try:
            self._store.wait(keys, _PATIENCE)
        except dist.DistStoreError as error:
            raise TimeoutError(
                "another rank didn't take part; call run.checkpoint on every rank"
            ) from error
        found = [build(kind, from_json(self._store.get(key))) for key in keys]
        for rank, message in enumerate(found):
            if (why := message.error) is not None:  # type: ignore[attr-defined]
                raise _OthersFailed(why[0], f"rank {rank}: {why[1]}")
        return found

    def _key(self, step: int, name: str, rank: int) -> str:
        return f"checkpoint/{step}/{name}/{rank}"

    def _forget(self, step: int) -> None:
        """Drop what was exchanged: every rank has read it, or it would not have sent its part."""
        if self._world > 1:
            for rank in range(self._world):
                self._store.delete_key(self._key(step, "view", rank))
                self._store.delete_key(self._key(step, "part", rank))

    def _manifest(self, request: Request, tensors: tuple[TensorRecord, ...]) -> Manifest:
        attempt = self._attempt
        info: dict[str, Json] = {"position": {**request.position}, **self.origin.info()}
        if request.around:
            info["around"] = [[*loop] for loop in request.around]
        if request.scaling is not None:
            info["scaling"] = request.scaling
        if request.lowered is not None:
            info["lowered"] = request.lowered
        return Manifest(
            run=attempt.run,
            job=attempt.job,
            epoch=attempt.epoch,
            step=request.step,
            parent=self._parent,
            tensors=tensors,
            world_size=self._world,
            created_at=time.time(),
            metrics=request.metrics,
            info=info,
            key_id=key_of(self._options.codecs),
        )


class _OthersFailed(OSError):
    """A rank, perhaps another one, couldn't write its part."""

    def __str__(self) -> str:
        return str(self.args[1])


def _check_keys(views: Sequence[View]) -> None:
    """Raise CheckpointError unless all ranks encrypt with the same key, or none does."""
    for rank, view in enumerate(views):
        if not same_key(view.key_id, views[0].key_id):
            one, other = (v.key_id or "no key" for v in (views[0], view))
            raise CheckpointError(
                f"rank 0 has {one} to encrypt with, and rank {rank} {other}: give all hosts of "
                "the cluster the same key, in the same order"
            )


def _ties(slots: Mapping[str, Slot]) -> dict[str, str]:
    return {name: slot.tied for name, slot in slots.items() if slot.tied is not None}


def _sha256(document: Json) -> str:
    return hashlib.sha256(to_json(document)).hexdigest()
