"""Output of ranks for browsers: pieces of text, and the lines that have a text."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from resilient_nb.comms import AsyncClient
from resilient_nb.errors import InvalidRequest
from resilient_nb.wire.feed import LogMatch, LogMatches, LogText
from resilient_nb.wire.requests import LogPiece, ReadLog

#: The most bytes that are asked for at once, the most matches, and the most characters of one.
PIECE, MOST, LONGEST = 1 << 20, 1000, 2000


async def read(client: AsyncClient, ask: ReadLog) -> LogText:
    """Return a piece of a log as text; see `LogText`."""
    from_end = ask.offset < 0
    early = 1 if from_end else 0  # one byte more tells whether a line begins behind it
    wider = replace(ask, offset=ask.offset - early, limit=min(ask.limit, PIECE) + early)
    return cut(await client.request(wider, LogPiece), from_end)


def cut(piece: LogPiece, from_end: bool) -> LogText:
    """Return a piece as text of whole characters.

    Args:
        piece: the bytes.
        from_end: they are the end of a log, and are to begin with a whole line.
    """
    data = piece.data
    skip = data.find(b"\n") + 1 if from_end and piece.offset > 0 else 0
    if skip in (0, len(data)):
        skip = _within(data)
    end = len(data) - _begun(data)
    text, begin = data[skip:end].decode(errors="replace"), piece.offset + skip
    return LogText(
        text, begin, max(begin, piece.offset + end), piece.size, piece.epoch, piece.epochs
    )


def _within(data: bytes) -> int:
    """Return how many bytes at the beginning belong to a character before."""
    return next((n for n in range(min(4, len(data))) if data[n] & 0xC0 != 0x80), 0)


def _begun(data: bytes) -> int:
    """Return how many bytes at the end are a character of which more is to come."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return back if length > back else 0
    return 0


async def search(client: AsyncClient, ask: ReadLog, text: str) -> LogMatches:
    """Return the last lines of a log that have a text, in the log's order.

    It is read in pieces from its end, so that neither the cluster nor this server is held up.

    Raises:
        InvalidRequest: there is no text.
    """
    if not text:
        raise InvalidRequest("Say what to search for.")
    piece = await client.request(replace(ask, offset=-PIECE, limit=PIECE), LogPiece)
    matches: list[LogMatch] = []
    rest = b""  # of a line that begins in an earlier piece
    while True:
        data, at = piece.data + rest, piece.offset
        # A line that is longer than some pieces is searched in parts.
        cut_off = at > 0 and len(data) < 4 * PIECE
        first = (data.find(b"\n") + 1 or len(data)) if cut_off else 0
        rest = data[:first]
        most = MOST + 1 - len(matches)
        matches[:0] = await asyncio.to_thread(_matches, data[first:], at + first, text, most)
        size = min(PIECE, at)
        if len(matches) > MOST or not size:
            break
        earlier = replace(ask, epoch=piece.epoch, offset=at - size, limit=size)
        piece = await client.request(earlier, LogPiece)
        if len(piece.data) < size:
            break  # it isn't kept any more
    return LogMatches(tuple(matches[-MOST:]), len(matches) > MOST, piece.epoch)


def _matches(data: bytes, at: int, text: str, most: int) -> list[LogMatch]:
    """Return the last lines that have a text. `at` is the offset of the first byte."""
    wanted, end, found = text.casefold(), at + len(data), list[LogMatch]()
    for raw in reversed(data.split(b"\n")):
        begin, line = end - len(raw), raw.decode(errors="replace")
        place = line.casefold().find(wanted)
        if place >= 0:
            start = max(0, min(place - LONGEST // 4, len(line) - LONGEST))
            found.append(LogMatch(begin, line[start : start + LONGEST]))
            if len(found) == most:
                break
        end = begin - 1
    return found[::-1]
