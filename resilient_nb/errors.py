"""Everything this package raises on purpose, grouped by what the caller does next.

Each class has a stable `code` that `--json` prints and that survives the trip from the
control plane to the notebook: `to_wire` and `from_wire` are each other's inverse.
"""

from __future__ import annotations

from typing import ClassVar


class ResilientError(Exception):
    """Base class. `str(error)` names the thing, the reason and the way out."""

    code: ClassVar[str] = "error"

    def to_wire(self) -> dict[str, str]:
        """Return the plain form that crosses processes."""
        return {"code": self.code, "message": str(self)}

    def _render_traceback_(self) -> list[str]:
        """IPython shows this: our own frames would only hide the message."""
        return [f"{type(self).__name__}: {self}"]


class InvalidRequest(ResilientError):
    """The request can't be right: change it and submit again."""

    code = "invalid-request"


class UnknownName(InvalidRequest):
    """No run, job, checkpoint or tag has this name."""

    code = "unknown-name"


class NotAllowed(ResilientError):
    """This user may not do this: ask the owner or an administrator."""

    code = "not-allowed"


class CannotCapture(InvalidRequest):
    """A notebook name that the cell uses can't be sent to another process."""

    code = "cannot-capture"


class Conflict(ResilientError):
    """Somebody else holds what was asked for: wait, or choose another name."""

    code = "conflict"


class AlreadyRunning(Conflict):
    """The run has an unfinished job, or the cluster is already up."""

    code = "already-running"


class ClusterUnreachable(ResilientError):
    """No cluster answers: start one, or connect to another; jobs are not lost."""

    code = "cluster-unreachable"


class NoCluster(ClusterUnreachable):
    """No cluster is chosen, and no local one is up: start one."""


class VersionMismatch(ResilientError):
    """Notebook and cluster run versions that can't talk to each other."""

    code = "version-mismatch"


class JobFailed(ResilientError):
    """The job ended without its result; the message says why."""

    code = "job-failed"


class JobCancelled(ResilientError):
    """The job was cancelled by a person, or stopped as good enough or hopeless."""

    code = "job-cancelled"


class CheckpointError(ResilientError):
    """A checkpoint can't be written or read."""

    code = "checkpoint-error"


class CannotStore(CheckpointError):
    """A value in the tracked state has no representation without pickle."""

    code = "cannot-store"


class StateMismatch(CheckpointError):
    """A checkpoint's state is none for what the cell tracks, and never will be."""

    code = "state-mismatch"


class CorruptCheckpoint(CheckpointError):
    """A stored value doesn't match its digest; the message names it.

    Attributes:
        checkpoint: which one is damaged, by its identity, where that is known.
    """

    code = "corrupt-checkpoint"

    def __init__(self, message: str = "", checkpoint: str = "") -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class InputLost(ResilientError):
    """What a job was to read is gone, or damaged; the message says what, and where it was.

    Attributes:
        lost: the job that returned it, or the path or URL where it was.
    """

    code = "input-lost"

    def __init__(self, message: str = "", lost: str = "") -> None:
        super().__init__(message)
        self.lost = lost


class JournalFailed(ResilientError):
    """The journal can't be written or read now: nothing was changed, and what runs goes on."""

    code = "journal-failed"


class JournalDamaged(JournalFailed):
    """A part of the journal is no longer what was written.

    Attributes:
        after: the number of the last event before the damage.
    """

    code = "journal-damaged"

    def __init__(self, message: str = "", after: int = 0) -> None:
        super().__init__(message)
        self.after = after


class KeyMissing(CheckpointError):
    """What is stored is encrypted, and this process lacks the key; the message names it."""

    code = "key-missing"


class StaleEpoch(ResilientError):
    """An older attempt tried to act after a newer one began (fencing)."""

    code = "stale-epoch"


class InvalidTransition(ResilientError):
    """An event doesn't fit the state it meets: a defect of ours, never the user's."""

    code = "invalid-transition"


class Diverged(BaseException):
    """A loss is no longer finite, or far off: this attempt ends, and no checkpoint has the step.

    It is no `Exception`: a cell that goes on after any error must not go on after this one.

    Attributes:
        metric: what was logged.
        step: the number of the step that it was logged for.
    """

    def __init__(self, message: str, metric: str, step: int) -> None:
        super().__init__(message)
        self.metric = metric
        self.step = step


def _subclasses(cls: type[ResilientError]) -> list[type[ResilientError]]:
    """Return the classes with a code of their own; a subclass without one travels as its base."""
    found = [cls] if "code" in vars(cls) else []
    return found + [s for child in cls.__subclasses__() for s in _subclasses(child)]


def from_wire(data: dict[str, str]) -> ResilientError:
    """Rebuild the error that `to_wire` made; an unknown code gives the base class."""
    by_code = {cls.code: cls for cls in _subclasses(ResilientError)}
    return by_code.get(data.get("code", ""), ResilientError)(data.get("message", ""))
