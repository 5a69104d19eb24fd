"""Which names of a notebook's namespace are the user's to send."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Made by Python or the runtime for every module and class: the rank has its own.
RUNTIME = frozenset(
    {
        "run",
        *("__name__", "__builtins__", "__builtin__", "__doc__", "__file__", "__spec__"),
        *("__loader__", "__package__", "__annotations__", "__debug__"),
        *("__class__", "__module__", "__qualname__"),
    }
)
# IPython's own, unless the user gave the name to something else.
_SHELL = frozenset({"exit", "quit", "open", "get_ipython"})
_HISTORY = re.compile(r"_{1,3}|_\d+|_i{1,3}|_i\d+|_[iod]h|_exit_code|In|Out")


def is_history(name: str) -> bool:
    """Say if the name is one under which IPython keeps earlier inputs and outputs."""
    return _HISTORY.fullmatch(name) is not None


@dataclass(frozen=True)
class Notebook:
    """The notebook's globals, less what isn't sent.

    Attributes:
        namespace: The very dict, by which the notebook's functions are known.
        left_out: Names of the user that this capture does without.
    """

    namespace: Mapping[str, object]
    left_out: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> object:
        return self.namespace[name]

    def __contains__(self, name: object) -> bool:
        """Say if the name may be sent."""
        if name not in self.namespace or name in self.left_out or name in RUNTIME:
            return False
        return isinstance(name, str) and not is_history(name) and not self._is_shell(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.namespace if name in self)

    def without(self, name: str) -> Notebook:
        """Return the same notebook with one name less."""
        return Notebook(self.namespace, self.left_out | {name})

    def _is_shell(self, name: str) -> bool:
        if name not in _SHELL:
            return False
        value = self.namespace[name]
        # IPython's `open` wraps the real one and has its __module__, but not its globals.
        where = getattr(value, "__globals__", {}).get("__name__") or type(value).__module__
        return isinstance(where, str) and where.startswith("IPython.")
