"""A checkpoint as one rank reads it: in parallel, and right into live tensors where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from resilient_nb.errors import StateMismatch
from resilient_nb.rank.around import Course
from resilient_nb.rank.live import Live
from resilient_nb.rank.sharded import is_sharded, like, local_of, part_of
from resilient_nb.rank.shelved import account_of
from resilient_nb.rank.tensors import from_leaf, is_plain, map_leaves, to_leaf
from resilient_nb.storage.manifest import TensorRecord
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.tree import Array, Json, Shard, TensorLeaf, tensor_names, unflatten


class Stored:
    """What a checkpoint has for a rank.

    Attributes:
        id: of the checkpoint.
        step: optimizer steps that had been made.
        position: the place in the cell's loops.
        course: that of the loops around, up to this place.
        numerics: what must be equal to go on with the same bits.
        knows_rank: whether this rank was there; one that wasn't takes what rank 0 had.
        manifest: all that the checkpoint says of itself.
        imported: whether no job has written it: it has no place, and no rank's own state.
    """

    def __init__(self, checkpoint: Checkpoint, rank: int) -> None:
        self.manifest = checkpoint.manifest
        self.id = self.manifest.id
        self.step = self.manifest.step
        info: Any = self.manifest.info
        self.imported = not self.manifest.job
        self.position: dict[str, int] = {} if self.imported else info["position"]
        self.course: Course | None = None if self.imported else info.get("around", [])
        self.numerics: dict[str, str] = {} if self.imported else info["numerics"]
        self.knows_rank = rank < self.manifest.world_size
        self._checkpoint = checkpoint
        self._rank = rank if self.knows_rank else 0
        self._shared: Any = checkpoint.document("shared")
        self._mine: Any = checkpoint.document(f"rank-{self._rank}")

    @property
    def names(self) -> tuple[str, ...]:
        """The tracked objects that it has."""
        return tuple(self._shared)

    def has(self, name: str) -> bool:
        """Whether it has an object of this name for this rank."""
        return name in self._shared or name in self._mine.get("documents", {})

    def state(self, name: str, live: Live | None = None) -> Any:
        """Return a tracked object's state as it was on this rank, tensors as tensors.

        Args:
            name: of the tracked object.
            live: what is there of it. Tensors of the same shape and dtype are filled, and are
                themselves in what is returned; sharded ones come back sharded.

        Raises:
            StateMismatch: there is no object of this name.
        """
        document = self._mine.get("documents", {}).get(name, self._shared.get(name))
        if document is None:
            raise StateMismatch(
                f"Checkpoint {self.id} has no {name!r}, only: "
                f"{', '.join(self._shared) or 'nothing'}. Track the "
                "same names, or start over with --resume never."
            )
        own = set(self._mine.get("tensors", ()))
        places = {
            tensor: f"rank-{self._rank}/{tensor}" if tensor in own else tensor
            for tensor in tensor_names(document)
        }
        return read_state(self._checkpoint, document, places, live)

    def account(self) -> str:
        """Return in words where it was read from, "" if there was only one place."""
        return account_of(self._checkpoint)

    def own(self) -> Any:
        """Return what only this rank had: random numbers, plain values."""
        document = self._mine["state"]
        return read_state(self._checkpoint, document, {n: n for n in tensor_names(document)})


def read_state(
    checkpoint: Checkpoint,
    document: Json,
    places: Mapping[str, str],
    live: Live | None = None,
) -> Any:
    """Return the state that a document describes.

    Tensors that were one tensor are one again. Of those that are sharded here only this rank's
    part is read, however they were divided when they were stored.

    Args:
        checkpoint: where it is read from.
        document: of `tree.flatten`.
        places: by each tensor's name in the document its name in the checkpoint.
        live: what is there of it.
    """
    reader = _Reader(checkpoint, live or Live())
    for name, place in places.items():
        reader.add(name, place)
    leaves, tensors = reader.read()
    return map_leaves(unflatten(document, leaves), lambda leaf: tensors[id(leaf)])


class _Reader:
    """Collects what is to be read, and then reads it at once."""

    def __init__(self, checkpoint: Checkpoint, live: Live) -> None:
        self._checkpoint = checkpoint
        self._live = live
        self._leaves: dict[str, TensorLeaf] = {}
        self._tensors: dict[int, Any] = {}
        self._targets: dict[str, Array] = {}
        self._starts: dict[str, tuple[int, ...]] = {}
        self._parts: list[tuple[TensorLeaf, torch.Tensor, tuple[int, ...]]] = []
        self._firsts: dict[str, str] = {}
        self._filled: set[int] = set()

    def add(self, name: str, place: str) -> None:
        """Read the tensor that is stored at `place`."""
        record = self._checkpoint.record(place)
        target = self._live.tensors.get(name)
        pattern = self._live.pattern(name, record.shape)
        if pattern is not None and record.torch_dtype is not None:
            self._add_part(name, place, record, pattern)
        elif target is None or is_sharded(target) or not self._fill(name, place, target, None):
            self._firsts[name] = record.tied or place

    def _add_part(self, name: str, place: str, record: TensorRecord, pattern: torch.Tensor) -> None:
        """Read the part of a sharded tensor that this rank holds."""
        local, shard = part_of(pattern, lambda: f"The tensor {name}")
        if tuple(pattern.shape) != record.shape:
            shard = None  # an optimizer's, of a shape of its own: all of it is everywhere
        elif (
            pattern is self._live.tensors.get(name)
            and is_plain(local)
            and self._fill(name, place, pattern, shard)
        ):
            return
        shape = record.shape if shard is None else shard.extent
        leaf = TensorLeaf(np.empty(shape, record.dtype), record.torch_dtype)
        self._leaves[name] = leaf
        self._parts.append((leaf, pattern, record.shape))
        self._target(place, leaf, shard)

    def _target(self, place: str, leaf: TensorLeaf, shard: Shard | None) -> None:
        self._targets[place] = leaf.array
        if shard is not None:
            self._starts[place] = shard.start

    def _fill(self, name: str, place: str, target: torch.Tensor, shard: Shard | None) -> bool:
        """Read right into a live tensor, if it fits and isn't filled already."""
        record, leaf = self._checkpoint.record(place), to_leaf(local_of(target))
        shape = record.shape if shard is None else shard.extent
        fits = (leaf.array.shape, leaf.array.dtype.name, leaf.torch_dtype) == (
            shape, record.dtype, record.torch_dtype,
        )  # fmt: skip
        # Two names of one tensor: the second is copied over the first, as `load_state_dict` would.
        memory = leaf.array.ctypes.data
        if memory in self._filled or not fits:
            return False
        self._filled.add(memory)
        self._leaves[name], self._tensors[id(leaf)] = leaf, target
        self._target(place, leaf, shard)
        return True

    def read(self) -> tuple[dict[str, TensorLeaf], dict[int, Any]]:
        """Return a leaf by each name, and the tensors that leaves stand for."""
        self._checkpoint.read_into(self._targets, self._starts)
        for leaf, pattern, shape in self._parts:
            local = from_leaf(leaf).to(local_of(pattern).device)
            self._tensors[id(leaf)] = like(pattern, local, shape)
        read = self._checkpoint.read_many(dict.fromkeys(self._firsts.values()))
        made = {place: from_leaf(leaf) for place, leaf in read.items()}
        for name, place in self._firsts.items():
            leaf = TensorLeaf(read[place].array, read[place].torch_dtype)
            self._leaves[name], self._tensors[id(leaf)] = leaf, made[place]
        return self._leaves, self._tensors
