"""An exception as plain text that another process can show, beginning at the cell's own line."""

from __future__ import annotations

import traceback

from resilient_nb.core.model import Cell, Frame, RemoteError
from resilient_nb.errors import CorruptCheckpoint, Diverged, InputLost, ResilientError

_MAX_FRAMES = 40
#: Characters of a message, and of a line of source: all of it is kept in the journal.
_MAX_MESSAGE, _MAX_LINE = 16 << 10, 500
_COLLECTIVE = ("torch/distributed/", "resilient_nb/rank/gradients.py", "resilient_nb/rank/group.py")


def pack_error(error: BaseException, cell: Cell) -> RemoteError:
    """Return the exception with its frames from the cell on, innermost last.

    An exception that never touched the cell (say, while joining the gang) keeps all frames, but
    for our own kind, which says what there is to say.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename == cell.filename:
        frames.append(
            traceback.FrameSummary(error.filename, error.lineno, "<module>", line=error.text)
        )
    own = {cell.filename, *cell.sources}
    aside = len(frames) if isinstance(error, ResilientError) else 0
    first = next((n for n, frame in enumerate(frames) if frame.filename in own), aside)
    packed = [
        Frame(f.filename, f.lineno or 0, f.name, _clean(f.line or "").strip()[:_MAX_LINE])
        for f in frames[first:]
    ]
    return RemoteError(
        type=type(error).__name__,
        message=_clean(_message(error)),
        frames=tuple(packed[-_MAX_FRAMES:]),
        in_collective=any(part in f.filename for f in frames for part in _COLLECTIVE),
        damaged=error.checkpoint if isinstance(error, CorruptCheckpoint) else "",
        metric=error.metric if isinstance(error, Diverged) else "",
        lost_input=error.lost if isinstance(error, InputLost) else "",
        errno=_errno(error),
    )


def _message(error: BaseException) -> str:
    """Return what an exception says, its beginning and its end if that is very much."""
    try:
        text = str(error)
    except Exception as failed:
        return f"(its text can't be had: {type(failed).__name__})"
    if len(text) <= _MAX_MESSAGE:
        return text
    half = _MAX_MESSAGE // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} more characters …\n{text[-half:]}"


def _errno(error: BaseException) -> int:
    """Return what the system said, if that is at the bottom of it; 0 if not."""
    at: BaseException | None = error
    for _ in range(8):
        if isinstance(at, OSError) and isinstance(at.errno, int):
            return at.errno
        at = at.__cause__ if at is not None else None
    return 0


def _clean(text: str) -> str:
    """Lone surrogates have no UTF-8: what can't be sent would end as a silent exit."""
    return text.encode(errors="replace").decode()
