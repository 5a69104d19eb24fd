"""News for browsers as JSON. The pieces of the control plane's answers go in unread. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from resilient_nb.wire.feed import Followed


@dataclass(frozen=True)
class _Which:
    job: str


_WHICH = msgspec.json.Decoder(_Which)


@dataclass(frozen=True)
class Pieces:
    """An answer of the control plane, with its jobs by id."""

    answer: Followed
    jobs: dict[str, bytes]

    @classmethod
    def of(cls, answer: Followed) -> Pieces:
        """Take an answer apart."""
        return cls(answer, {_WHICH.decode(piece).job: piece for piece in answer.jobs})


def news(pieces: Pieces, board: bool, jobs: Iterable[str], unknown: Iterable[str]) -> bytes | None:
    """Return a `News` of these jobs; None if there is nothing new.

    Args:
        pieces: what the control plane said.
        board: whether the board is wanted.
        jobs: of which jobs what is new is wanted.
        unknown: the jobs of which it is to be said that they don't exist.
    """
    answer = pieces.answer
    shown = msgspec.Raw(answer.board) if board and answer.board else None
    found = [msgspec.Raw(pieces.jobs[job]) for job in jobs if job in pieces.jobs]
    missing = list(unknown)
    if shown is None and not found and not missing:
        return None
    return msgspec.json.encode(
        {
            "type": "news",
            "at": answer.at,
            "cluster_id": answer.cluster_id,
            "board": shown,
            "jobs": found,
            "unknown": missing,
        }
    )
