"""Reading checkpoints where they are needed: tensors on access, or into a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from resilient_nb.errors import CheckpointError, InvalidRequest, UnknownName
from resilient_nb.storage.mirrored import open_path
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.tree import tensor_names


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
        self.path = checkpoint.path

    def __repr__(self) -> str:
        return f"<{self.ref}: {', '.join(self._documents) or 'no tracked objects'}>"

    def __getitem__(self, name: str) -> Any:
        return self.read(name)

    def read(self, name: str, into: Any = None) -> Any:
        """Return a tracked object's state.

        Args:
            name: of the tracked object.
            into: a module or optimizer; its own tensors are filled where they fit, and are then
                in what is returned.
        """
        from resilient_nb.rank.live import live_tensors
        from resilient_nb.rank.stored import read_state

        self._check(name)
        document = self._documents[name]
        live = None if into is None else live_tensors(into, name)
        places = {tensor: tensor for tensor in tensor_names(document)}
        return read_state(self._checkpoint, document, places, live)

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def names(self, only: str | None = None) -> list[str]:
        """Return the names of all tensors, as they are in the Zarr group; nothing is read.

        Args:
            only: just those of this tracked object.
        """
        if only is not None:
            self._check(only)
            return tensor_names(self._documents[only])
        return [n for n in self._checkpoint.names() if not n.startswith("rank-")]

    def tensor(self, name: str) -> Any:
        """Read one tensor.

        Raises:
            CheckpointError: there is none of this name.
            CorruptCheckpoint: its bytes don't match their checksum.
        """
        from resilient_nb.rank.tensors import from_leaf

        return from_leaf(self._checkpoint.read(name))

    def _check(self, name: str) -> None:
        if name not in self._documents:
            raise UnknownName(
                f"Checkpoint {self.ref} has no {name!r}; it has: {', '.join(self._documents)}."
            )


def load_path(
    path: str, into: Any = None, only: str | None = None, copies: Sequence[str] = ()
) -> Any:
    """Open the checkpoint at `path`.

    Args:
        path: the checkpoint's Zarr group, a path or URL.
        into: a module (or anything with `load_state_dict`) to fill, or a dict of them by name.
        only: return just this tracked object's state.
        copies: where the same checkpoint may be read if something of it is lost or damaged.

    Returns:
        `into` filled, or the state of `only`, or a lazy `State`.

    Raises:
        InvalidRequest: `into` can't be filled, or isn't what `only` says.
        CheckpointError: nothing is there, or it doesn't fit `into`.
        CorruptCheckpoint: it is damaged. Tensors of `into` may have been filled already.
    """
    if into is not None:
        _check_into(into, only)
    state = State(open_path(path, copies))
    if into is None:
        return state if only is None else state[only]
    targets = into if isinstance(into, dict) else {only or _fitting(state, into): into}
    for name, target in targets.items():
        try:
            target.load_state_dict(state.read(name, target))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{name!r} of {state.ref} doesn't fit: {error}") from error
    return into


def _check_into(into: Any, only: str | None) -> None:
    """Refuse what can't be filled.

    Raises:
        InvalidRequest: with what would do.
    """
    if isinstance(into, dict) and only is not None and list(into) != [only]:
        raise InvalidRequest(
            f"into= is a dict of {', '.join(map(str, into)) or 'nothing'}, and only= says "
            f"{only!r}. The dict says by itself what is read: leave only= out."
        )
    for target in into.values() if isinstance(into, dict) else (into,):
        if not hasattr(target, "load_state_dict"):
            raise InvalidRequest(
                f"into= can't fill a {type(target).__name__}. Give it a module, an optimizer, or "
                "what else has load_state_dict(), or a dict of such by tracked name. Without "
                "into= the values are returned."
            )
        if _is_meta(target):
            raise InvalidRequest(
                f"into= can't fill a {type(target).__name__} on the meta device: it has no memory. "
                "Call its to_empty(device='cpu') first."
            )


def _is_meta(target: Any) -> bool:
    """Whether a module, or an optimizer's parameters, are on the meta device."""
    import torch

    tensors: Iterable[Any] = ()
    if isinstance(target, torch.nn.Module):
        tensors = target.state_dict(keep_vars=True).values()
    elif isinstance(target, torch.optim.Optimizer):
        tensors = (p for group in target.param_groups for p in group["params"])
    return any(isinstance(tensor, torch.Tensor) and tensor.is_meta for tensor in tensors)


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
