"""An interrupted wait for a job: the job goes on, and the cell that waited says so in one line."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager


class Detached(KeyboardInterrupt):
    """Somebody interrupted a wait; the text says how to wait again."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this instead of frames."""
        return [str(self)]


class DetachedTask(CancelledError):
    """The same of an `await`, which a kernel cancels where it would interrupt."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@contextmanager
def detaching(job: str, again: str) -> Iterator[None]:
    """Turn an interrupt of what is done here into a word about the job, and how to go on."""
    text = f"Detached: {job} goes on. {again}"
    try:
        yield
    except KeyboardInterrupt:
        raise Detached(text) from None
    except CancelledError:
        raise DetachedTask(text) from None
