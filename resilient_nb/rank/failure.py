"""An exception as plain text that another process can show, beginning at the cell's own line."""

from __future__ import annotations

import traceback

from resilient_nb.core.model import Cell, Frame, RemoteError
from resilient_nb.errors import CorruptCheckpoint

_MAX_FRAMES = 40
_COLLECTIVE = ("torch/distributed/", "resilient_nb/rank/gradients.py", "resilient_nb/rank/group.py")


def pack_error(error: BaseException, cell: Cell) -> RemoteError:
    """Return the exception with its frames from the cell on, innermost last.

    An exception that never touched the cell (say, while joining the gang) keeps all frames.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename == cell.filename:
        frames.append(
            traceback.FrameSummary(error.filename, error.lineno, "<module>", line=error.text)
        )
    own = {cell.filename, *cell.sources}
    first = next((n for n, frame in enumerate(frames) if frame.filename in own), 0)
    packed = [
        Frame(f.filename, f.lineno or 0, f.name, _clean(f.line or "").strip())
        for f in frames[first:]
    ]
    return RemoteError(
        type=type(error).__name__,
        message=_clean(str(error)),
        frames=tuple(packed[-_MAX_FRAMES:]),
        in_collective=any(part in f.filename for f in frames for part in _COLLECTIVE),
        damaged=error.checkpoint if isinstance(error, CorruptCheckpoint) else "",
    )


def _clean(text: str) -> str:
    """Lone surrogates have no UTF-8: what can't be sent would end as a silent exit."""
    return text.encode(errors="replace").decode()
