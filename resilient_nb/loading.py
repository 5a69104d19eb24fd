"""Reading checkpoints where they are needed: tensors on access, or into a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from resilient_nb.errors import CheckpointError, UnknownName
from resilient_nb.storage.checkpoints import Checkpoint, open_checkpoint
from resilient_nb.storage.tree import TensorLeaf, unflatten


class State(Mapping[str, Any]):
    """A checkpoint's tracked objects by name; each is read, and verified, when it is asked for.

    `state["model"]` is the model's state dict. `state.tensor("model/0.weight")` reads one
    tensor alone; `state.names()` lists them; `state.step` and `state.metrics` say when.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._documents: Any = checkpoint.document("shared")
        manifest = checkpoint.manifest
        self.ref = f"{manifest.run}@{manifest.step}"
        self.step = manifest.step
        self.metrics = dict(manifest.metrics)
        self.path = str(checkpoint.path)

    def __repr__(self) -> str:
        return f"<{self.ref}: {', '.join(self._documents) or 'no tracked objects'}>"

    def __getitem__(self, name: str) -> Any:
        from resilient_nb.rank.tensors import from_leaf, map_leaves

        if name not in self._documents:
            raise UnknownName(
                f"Checkpoint {self.ref} has no {name!r}; it has: {', '.join(self._documents)}."
            )
        leaves = _Leaves(self._checkpoint)
        return map_leaves(unflatten(self._documents[name], leaves), from_leaf)

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def names(self) -> list[str]:
        """Return the names of all tensors, as they are in the Zarr group."""
        return [n for n in self._checkpoint.names() if not n.startswith("rank-")]

    def tensor(self, name: str) -> Any:
        """Read one tensor.

        Raises:
            CheckpointError: there is none of this name.
            CorruptCheckpoint: its bytes don't match its digest.
        """
        from resilient_nb.rank.tensors import from_leaf

        return from_leaf(self._checkpoint.read(name))


class _Leaves(Mapping[str, TensorLeaf]):
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> TensorLeaf:
        return self._checkpoint.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.names())

    def __len__(self) -> int:
        return len(self._checkpoint.names())


def load_path(path: str, into: Any = None, only: str | None = None) -> Any:
    """Open the checkpoint at `path`.

    Args:
        path: the checkpoint's Zarr group.
        into: a module (or anything with `load_state_dict`) to fill, or a dict of them by name.
        only: return just this tracked object's state.

    Returns:
        `into` filled, or the state of `only`, or a lazy `State`.

    Raises:
        CheckpointError: nothing is there, or it doesn't fit `into`.
    """
    state = State(open_checkpoint(path))
    if into is None:
        return state if only is None else state[only]
    targets = into if isinstance(into, dict) else {only or _fitting(state, into): into}
    for name, target in targets.items():
        try:
            target.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{name!r} of {state.ref} doesn't fit: {error}") from error
    return into


def _fitting(state: State, target: Any) -> str:
    """Return which tracked object a module is: the only one with its state's names."""
    if len(state) == 1:
        return next(iter(state))
    keys = set(target.state_dict())
    found = [n for n in state if keys and keys == {t.partition("/")[2] for t in _of(state, n)}]
    if len(found) != 1:
        raise CheckpointError(
            f"{state.ref} has {', '.join(state)}: say which one with only=, for example "
            f"only={next(iter(state), 'model')!r}."
        )
    return found[0]


def _of(state: State, name: str) -> list[str]:
    return [tensor for tensor in state.names() if tensor.startswith(f"{name}/")]
