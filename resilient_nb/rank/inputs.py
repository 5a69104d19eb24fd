"""What a cell reads beside its captured names: values of other jobs, and data that it declares.

Declared data (`run.input`) is looked at when it is declared, and then every few seconds, in a
thread: training never waits for it. That it went away is said at once; what ends the attempt is
the cell, when it needs it.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from resilient_nb.core.model import RemoteError
from resilient_nb.core.recorded import NO_LOOP, DataRecord
from resilient_nb.errors import InputLost, InvalidRequest
from resilient_nb.rank.fingerprint import fingerprint
from resilient_nb.rank.origin import Origin
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.storage import returned
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.outside import Seen, examine, gone, missing, passing, place_of
from resilient_nb.storage.stores import open_store
from resilient_nb.wire.orders import Attempt, Reads

#: Seconds between two looks at declared data.
EVERY = 5.0
#: For how long the end of a failed rank is held up to see whether its data is there, in seconds.
_LOOK = 15.0
#: Data that one cell can declare, and characters of a name.
_MOST, _MOST_NAME = 64, 100
#: So often an attempt says what it reads: a name may stand for another file in each turn.
_MOST_TOLD = 256


def received(attempt: Attempt) -> dict[str, Any]:
    """Return the values of `--in`.

    Raises:
        InputLost: what another job returned is gone or damaged.
        InvalidRequest: it can't be unpickled here.
    """
    found: dict[str, Any] = {}
    store = open_store([attempt.store, *attempt.replicas]) if attempt.inputs else None
    for source in attempt.inputs:
        assert store is not None
        payload = returned.read(store, source.run, source.number)
        job = f"{source.run}#{source.number}"
        try:
            values = pickle.loads(payload)
        except (pickle.UnpicklingError, EOFError) as error:
            raise InputLost(f"What {job} returned is damaged: {error}.", job) from error
        except Exception as error:
            raise InvalidRequest(
                f"--in {','.join(source.names)}: what {job} returned can't be read here "
                f"({type(error).__name__}: {error})."
            ) from error
        found.update({name: values[name] for name in source.names})
    return found


@dataclass
class Channel:
    """Where what is found is told."""

    telemetry: Telemetry
    origin: Origin
    fact: Callable[[object], None]
    note: Callable[[str], None]


class Inputs:
    """The data that one rank's cell declares.

    Args:
        attempt: what the rank belongs to.
        rank: its number; rank 0 records what is declared.
        channel: where what is found is told.
        start: the checkpoint that the attempt goes on from.
        speaks: whether this rank tells what goes away: one of each host does.
    """

    def __init__(
        self,
        attempt: Attempt,
        rank: int,
        channel: Channel,
        start: Manifest | None,
        speaks: bool = True,
    ) -> None:
        self._attempt = attempt
        self._rank = rank
        self._channel = channel
        self._speaks = speaks
        self._before, self._since = _recorded(start), start.step if start is not None else 0
        self._declared: dict[str, str] = {}  # names, and their places ("" for arrays)
        self._told = 0
        self._thread: threading.Thread | None = None

    def declare(self, data: Any, name: str | None) -> Any:
        """Check data, take its fingerprint and watch it; return it.

        Raises:
            InputLost: it isn't there, or can't be read.
            ConnectionError: what holds it can't be reached.
            InvalidRequest: it is nothing that can be looked at.
        """
        place = _place(data)
        name = self._name(name, place)
        if self._declared.get(name) == place and place:
            return data
        record = _look(data, name, place)
        self._declared[name] = place
        if self._rank == 0:
            self._channel.origin.input(record)
            self._compare(record)
            if place and self._told < _MOST_TOLD:  # each is kept in the journal
                self._told += 1
                self._channel.fact(Reads(self._attempt.job, self._attempt.epoch, name, place))
        if place and self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, name="resilient_nb inputs", daemon=True
            )
            self._thread.start()
        return data

    def explain(self, error: BaseException, packed: RemoteError) -> RemoteError:
        """Return an error that says what was lost, if it comes from declared data that is gone."""
        if packed.lost_input or not _of_system(error):
            return packed
        lost = self._gone()
        named = [place for place in lost if place in packed.message]
        return replace(packed, lost_input=(named or lost)[0]) if lost else packed

    def _gone(self) -> list[str]:
        """Return what isn't there, as far as that can be seen soon: a network's disk may hang."""
        found: list[str] = []

        def look() -> None:
            for place in self._places():
                if gone(place):
                    found.append(place)

        thread = threading.Thread(target=look, name="resilient_nb inputs", daemon=True)
        thread.start()
        thread.join(_LOOK)
        return list(found)

    def _places(self) -> list[str]:
        return [place for place in list(self._declared.values()) if place]

    def _name(self, name: str | None, place: str) -> str:
        if name is None:
            name = os.path.basename(place.rstrip("/")) or f"input-{len(self._declared) + 1}"
            if self._declared.get(name, place) != place:
                name = f"{name}-{len(self._declared) + 1}"
        if not name.isprintable() or not 0 < len(name) <= _MOST_NAME:
            raise InvalidRequest(f"run.input: {name[:_MOST_NAME]!r} can't be a name.")
        if name not in self._declared and len(self._declared) >= _MOST:
            raise InvalidRequest(
                f"run.input: {_MOST} inputs are declared already: declare their folder instead."
            )
        return name

    def _compare(self, new: DataRecord) -> None:
        """Say if it isn't what it was when the checkpoint was taken."""
        old = self._before.get(new.name)
        if old is None or not (old.fingerprint and new.fingerprint):
            return
        what = f"{new.name} ({new.place})" if new.place else new.name
        if old.fingerprint != new.fingerprint:
            self._channel.note(f"Input {what} has changed since step {self._since}.")
        elif old.modified != new.modified and None not in (old.modified, new.modified):
            self._channel.note(
                f"Input {what} was written since step {self._since}; the parts that were looked "
                "at are as they were."
            )

    def _watch(self) -> None:
        """Look again and again, in a thread that nobody waits for."""
        while True:
            time.sleep(EVERY)
            away = {
                name: why
                for name, place in list(self._declared.items())
                if place and (why := missing(place))
            }
            before, now = set(self._channel.telemetry.missing), set(away)
            self._channel.telemetry.missing = tuple(sorted(now))
            if not self._speaks:
                continue
            for name in sorted(now - before):
                self._channel.note(
                    f"Input {name} ({self._declared[name]}) can't be read any more "
                    f"({away[name]}). The cell goes on until it needs it."
                )
            for name in sorted(before - now):
                self._channel.note(f"Input {name} ({self._declared[name]}) can be read again.")


def _place(data: Any) -> str:
    if isinstance(data, (str, os.PathLike)):
        return place_of(data)
    if isinstance(data, np.memmap) and isinstance(data.filename, (str, os.PathLike)):
        return place_of(data.filename)
    return ""


def _look(data: Any, name: str, place: str) -> DataRecord:
    if not place:
        kind = type(data)
        if not isinstance(data, (np.ndarray, torch.Tensor, list, tuple, dict)):
            raise InvalidRequest(
                f"run.input takes a path, a URL, or an array, not a {kind.__qualname__}."
            )
        length = len(data) if getattr(data, "ndim", 1) else None
        return DataRecord(NO_LOOP, kind.__qualname__, length, fingerprint(data), name=name)
    try:
        seen: Seen = examine(place)
    except OSError as error:
        why = error.strerror or str(error)
        if passing(error):  # no reason to give up: it is tried again
            raise ConnectionError(f"Input {name} ({place}) can't be reached: {why}.") from error
        raise InputLost(f"Input {name} ({place}) can't be read: {why}.", place) from error
    return DataRecord(
        NO_LOOP, seen.kind, seen.nbytes, seen.fingerprint, name=name, place=place,
        modified=seen.modified,
    )  # fmt: skip


def _recorded(start: Manifest | None) -> dict[str, DataRecord]:
    """Return what a checkpoint says of declared data, as far as it can be understood."""
    rows: Any = start.info.get("data", ()) if start is not None else ()
    known = DataRecord.__dataclass_fields__
    return {
        row["name"]: DataRecord(**{key: value for key, value in row.items() if key in known})
        for row in rows
        if isinstance(row, Mapping) and row.get("name")
    }


def _of_system(error: BaseException) -> bool:
    """Whether an error, or what it follows from, is one of the system's."""
    at: BaseException | None = error
    for _ in range(8):
        if isinstance(at, OSError):
            return True
        at = (at.__cause__ or at.__context__) if at is not None else None
    return False
