"""Unpickling what a job returned, without touching the notebook's own classes.

A class that the notebook sent along comes back as itself: cloudpickle knows it by an identity.
But it would also set all of the class's methods anew, to copies with globals of their own. Here
a class that this process has already is left as it is.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from cloudpickle import cloudpickle


class _Results(pickle.Unpickler):
    def __init__(self, payload: bytes) -> None:
        super().__init__(io.BytesIO(payload))
        self._known: set[int] = set()

    def find_class(self, module: str, name: str) -> Any:
        if module == "cloudpickle.cloudpickle" and name == "_make_skeleton_class":
            return self._make_class
        if module == "cloudpickle.cloudpickle" and name == "_class_setstate":
            return self._set_state
        return super().find_class(module, name)

    def _make_class(self, *args: Any) -> Any:
        tracker_id = args[4]
        known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
        made = cloudpickle._make_skeleton_class(*args)
        if known is made:
            self._known.add(id(made))
        return made

    def _set_state(self, cls: Any, state: Any) -> Any:
        return cls if id(cls) in self._known else cloudpickle._class_setstate(cls, state)


def loads(payload: bytes) -> Any:
    """Return the values of a pickle that a job's rank 0 made."""
    return _Results(payload).load()
