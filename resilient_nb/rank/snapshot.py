"""Copying a rank's state while training goes on.

Large tensors that only the optimizer's step changes (parameters and optimizer state) are copied by
a thread while the next batch goes forward and backward; before the next `optimizer.step()` the loop
waits for what is left (the fence). PyTorch's asynchronous checkpointing rests on the same
observation. Everything else is copied at once.

That a loop keeps to it is not taken on trust. Each tensor's version counter is looked at when its
copy is done; and since `p.data` bypasses that counter, the first snapshot is copied at once and
compared before the next step with what the tensors are by then. Of later ones a sample of each
tensor's elements, taken at the step's end, is taken again when the last copy is done: what changes
after that does no harm. A loop that fails any of these is copied at once from then on. What is
missed is a change by `p.data` that the first turn lacked, and that is on a GPU, or of few elements
(see `Sample`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resilient_nb.rank.sampling import Sample
from resilient_nb.rank.segment import Segment, aligned
from resilient_nb.rank.sharded import part_of
from resilient_nb.rank.tensors import check_storable, copyable, dtype_name, numpy_dtype, of_array
from resilient_nb.storage.manifest import kind_of
from resilient_nb.storage.tree import Json, Shard, TensorLeaf, name_of

#: Smaller tensors are copied at once: a thread would cost more.
_LAZY_BYTES = 64 << 10
#: How much a copying thread takes on at once: the fence waits for one of these at most.
_BATCH_BYTES = 64 << 20

#: One element of any dtype.
_ZEROS = bytes(16)

CHANGED = (
    "a tracked tensor was changed between a step's end and the next optimizer.step(), while it "
    "was being copied. From now on checkpoints are copied at once"
)


@dataclass(frozen=True)
class Slot:
    """Where in the segment a tensor lies, and what it is.

    `tied` is the name of the tensor that this one is: tied weights are copied and stored once.
    """

    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: str  # numpy's name
    torch_dtype: str | None
    nbytes: int
    shard: Shard | None = None
    tied: str | None = None

    @property
    def kind(self) -> str:
        """What it holds: `float32[3, 4]`; of a part, what the whole does."""
        return kind_of(self.torch_dtype, self.dtype, self.shard.shape if self.shard else self.shape)

    def leaf(self, memory: np.ndarray[Any, Any]) -> TensorLeaf:
        """Return the tensor as it lies in the segment's bytes."""
        data = memory[self.offset : self.offset + self.nbytes]
        return TensorLeaf(data.view(self.dtype).reshape(self.shape), self.torch_dtype, self.shard)


class Snapshot:
    """A rank's state at a step; `wait` until it is whole.

    Attributes:
        slots: tensors of tracked objects, by names that all ranks share.
        documents: the rest of tracked objects' state.
        own_slots: tensors of this rank alone, under `rank-<n>/`.
        own_document: the rest of what it has alone.
        segment: where the tensors are.
    """

    def __init__(
        self,
        slots: dict[str, Slot],
        documents: dict[str, Json],
        own_slots: dict[str, Slot],
        own_document: dict[str, Json],
        segment: Segment,
    ) -> None:
        self.slots = slots
        self.documents = documents
        self.own_slots = own_slots
        self.own_document = own_document
        self.segment = segment
        self.changed = False
        self._whole = threading.Event()

    def done(self, changed: bool) -> None:
        """The last tensor was copied; `changed` if one was changed meanwhile."""
        self.changed = changed
        self._whole.set()

    def wait(self) -> bool:
        """Wait until every tensor is copied; return whether all are of the same moment."""
        self._whole.wait()
        return not self.changed

    @property
    def leaves(self) -> dict[str, TensorLeaf]:
        """The tensors of tracked objects."""
        memory = self.segment.tensor(0, (self.segment.size,), torch.uint8).numpy()
        return {name: slot.leaf(memory) for name, slot in self.slots.items()}


@dataclass(frozen=True)
class _Copy:
    """One tensor on its way into the segment."""

    to: torch.Tensor
    source: torch.Tensor
    watched: torch.Tensor  # what counts the changes: a part doesn't count those of its DTensor
    version: int

    @property
    def unchanged(self) -> bool:
        return self.watched._version == self.version


@dataclass(frozen=True)
class Part:
    """Leaves (which stand for tensors) and documents of a state."""

    leaves: dict[str, TensorLeaf]
    documents: dict[str, Json]


class Sources:
    """Tensors of a state, in the order in which they are found; leaves stand for them."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[TensorLeaf, torch.Tensor, torch.Tensor]] = {}

    def add(self, tensor: torch.Tensor, where: Callable[[], str]) -> TensorLeaf:
        """Return what stands for the tensor: its shape and dtype, without memory of its own.

        Raises:
            CannotStore: it has no plain bytes, or is sharded in a way that can't be kept. The
                message says where it is.
        """
        local, shard = part_of(tensor, where)
        check_storable(local, where)
        shape = tuple(local.shape)
        nothing = np.ndarray(shape, numpy_dtype(local.dtype), _ZEROS, strides=(0,) * len(shape))
        leaf = TensorLeaf(nothing, dtype_name(local.dtype), shard)
        self._found[id(leaf)] = leaf, copyable(local.detach()), tensor
        return leaf

    def tensor(self, leaf: TensorLeaf) -> torch.Tensor:
        """Return the tensor (or array, as one) that a leaf stands for."""
        if id(leaf) not in self._found:
            # Kept: the address of what is gone would soon be another tensor's.
            native = np.ascontiguousarray(leaf.array, leaf.array.dtype.newbyteorder("="))
            tensor = of_array(native.reshape(leaf.array.shape))
            self._found[id(leaf)] = leaf, tensor, tensor
        return self._found[id(leaf)][1]

    def whole(self, leaf: TensorLeaf) -> torch.Tensor:
        """Return the tensor of which `tensor(leaf)` is this rank's part."""
        return self._found[id(leaf)][2]


class Copier:
    """Copies states into a segment, one at a time.

    Attributes:
        lazy: whether the loop leaves alone, between steps, what is copied later.
        on_wait: is told the seconds for which a step had to wait for copies.
    """

    def __init__(self) -> None:
        self.lazy = True
        self.on_wait: Callable[[float], None] = lambda seconds: None
        self._segment: Segment | None = None
        self._preparing: threading.Thread | None = None
        self._proven = False
        self._probe: list[_Copy] = []
        self._under_way: _Later | None = None
        register_optimizer_step_pre_hook(self._before_step)

    def copy(self, parts: Sequence[Part], sources: Sources, steady: set[int]) -> Snapshot:
        """Return a snapshot of the state; the one before must have been written.

        Args:
            parts: what all ranks share, and what this rank has alone.
            sources: the tensors that the parts' leaves stand for.
            steady: addresses of tensors that only the optimizer's step changes.
        """
        self.fence()
        leaves = {name: leaf for part in parts for name, leaf in part.leaves.items()}
        slots, size = _lay_out(leaves, sources)
        segment = self._ensure(size)
        now: list[_Copy] = []
        later: list[_Copy] = []
        for name, leaf in leaves.items():
            if slots[name].tied is not None:
                continue
            source = sources.tensor(leaf)
            to = segment.tensor(slots[name].offset, tuple(source.shape), source.dtype)
            large = source.nbytes >= _LAZY_BYTES and source.data_ptr() in steady
            lazily = self.lazy and large and not source.is_inference()
            watched = sources.whole(leaf)
            version = watched._version if lazily else 0
            (later if lazily else now).append(_Copy(to, source, watched, version))
        if not self._proven:
            self._probe = later
            now, later = [*now, *later], []
        shared, own = ({name: slots[name] for name in part.leaves} for part in parts)
        snapshot = Snapshot(shared, parts[0].documents, own, parts[1].documents, segment)
        _copy_all(now)
        if later:
            self._under_way = _Later(snapshot, later)
        else:
            snapshot.done(changed=False)
        return snapshot

    def fence(self) -> None:
        """What is being copied is about to change: wait until it is copied."""
        if self._under_way is not None:
            began = time.monotonic()
            self._under_way.fence()
            self.on_wait(time.monotonic() - began)
            self.lazy = self.lazy and not self._under_way.changed
            self._under_way = None

    def _before_step(self, *_: object) -> None:
        self.fence()
        if self._probe:
            self._proven = True
            self.lazy = all(_same_bits(copy.to, copy.source) for copy in self._probe)
            self._probe = []

    def prepare(self, size: int) -> None:
        """Make memory for snapshots of about so many bytes, beside what goes on.

        Fresh memory costs as much time as copying into it, or more: the first snapshot needn't.
        """
        if self._segment is None and self._preparing is None:
            self._preparing = threading.Thread(
                target=self._prepare, args=(size,), name="resilient_nb memory", daemon=True
            )
            self._preparing.start()

    def _prepare(self, size: int) -> None:
        segment = Segment(size)
        if segment.populate():
            self._segment = segment

    def _ensure(self, size: int) -> Segment:
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None
        if self._segment is None or self._segment.size < size:
            self._probe = []
            self._segment = Segment(size)
        return self._segment


class _Later:
    """Tensors that a thread copies, or the GPU on a stream of its own."""

    def __init__(self, snapshot: Snapshot, copies: list[_Copy]) -> None:
        self.changed = False
        self._snapshot = snapshot
        self._on_cpu = [copy for copy in copies if not copy.source.is_cuda]
        self._on_gpu = [copy for copy in copies if copy.source.is_cuda]
        self._sample = Sample(copy.source for copy in self._on_cpu)
        self._copied = threading.Event()  # what is on the CPU
        self._event: Any = None
        self._looked = threading.Lock()
        if self._on_gpu:
            self._event = _copy_beside(snapshot.segment, self._on_gpu)
        threading.Thread(target=self._run, name="resilient_nb snapshot", daemon=True).start()

    def fence(self) -> None:
        """Wait for the CPU's copies; have the GPU wait for its own."""
        self._copied.wait()
        if self._event is not None:
            self._look()
            torch.cuda.current_stream().wait_event(self._event)

    def _run(self) -> None:
        try:
            for batch in _batches(self._on_cpu):
                _copy_all(batch)
                self.changed |= not all(copy.unchanged for copy in batch)
            self.changed |= self._sample.changed()
            self._copied.set()
            if self._event is not None:
                self._event.synchronize()
                self._look()
        except BaseException:
            self.changed = True
            raise
        finally:
            self._copied.set()
            self._snapshot.done(self.changed)

    def _look(self) -> None:
        """Look at the GPU's tensors once: at the fence, or before, if they are copied before."""
        with self._looked:
            copies, self._on_gpu = self._on_gpu, []
            self.changed |= not all(copy.unchanged for copy in copies)


def _copy_beside(segment: Segment, copies: list[_Copy]) -> Any:
    """Copy from the GPU beside its other work; return the event of its end."""
    segment.pin()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _copy_all(copies, non_blocking=True)
        event = torch.cuda.Event()
        event.record(stream)
    return event


def _copy_all(copies: Iterable[_Copy], non_blocking: bool = False) -> None:
    """Copy in one call a dtype and device: it holds the GIL no longer than needed."""
    groups: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for copy in copies:
        key = copy.source.dtype, copy.source.device
        tos, sources = groups.setdefault(key, ([], []))
        tos.append(copy.to)
        sources.append(copy.source)
    with torch.no_grad():
        for tos, sources in groups.values():
            torch._foreach_copy_(tos, sources, non_blocking)


def _batches(copies: list[_Copy]) -> Iterator[list[_Copy]]:
    batch: list[_Copy] = []
    for copy in copies:
        batch.append(copy)
        if sum(c.source.nbytes for c in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    yield batch


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit, nan included."""
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(a.element_size(), torch.int64)
    plain = b.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return torch.equal(a.view(width), plain.view(width))


def _lay_out(leaves: Mapping[str, TensorLeaf], sources: Sources) -> tuple[dict[str, Slot], int]:
    """Give each tensor a place; return the size of all."""
    slots: dict[str, Slot] = {}
    at: dict[int, list[str]] = {}  # what begins at an address
    offset = 0
    for name, leaf in leaves.items():
        source = sources.tensor(leaf)
        nbytes = source.nbytes
        if nbytes and (address := source.data_ptr()):  # 0: what has no memory of its own
            others = at.setdefault(address, [])
            first = next((n for n in others if _is_same(leaf, leaves[n], sources)), None)
            if first is not None:
                slots[name] = replace(slots[first], name=name, tied=first)
                continue
            others.append(name)
        offset = aligned(offset, nbytes)
        slots[name] = Slot(
            name, offset, leaf.array.shape, name_of(leaf.array.dtype), leaf.torch_dtype, nbytes,
            leaf.shard,
        )  # fmt: skip
        offset += nbytes
    return slots, offset


def _is_same(one: TensorLeaf, other: TensorLeaf, sources: Sources) -> bool:
    """Whether two leaves stand for the same tensor, given that both begin at one address."""
    a, b = (
        (t.shape, t.stride(), t.dtype, t.device, t.is_conj(), t.is_neg())
        for t in (sources.tensor(one), sources.tensor(other))
    )
    # An array and a tensor with its memory are two things; so are int4 and its bits as uint8.
    return a == b and (one.torch_dtype, one.shard) == (other.torch_dtype, other.shard)
