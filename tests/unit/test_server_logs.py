"""Output in pieces: nothing is lost, no character is cut, and lines are found from the end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_nb.comms import AsyncClient
from resilient_nb.control.logs import LogStore
from resilient_nb.errors import InvalidRequest
from resilient_nb.server import logs
from resilient_nb.server.logs import read, search
from resilient_nb.wire.feed import LogMatches, LogText
from resilient_nb.wire.orders import LogChunk
from resilient_nb.wire.requests import LogPiece, ReadLog


class Log:
    """A cluster that has one log, in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[ReadLog] = []

    async def request(self, message: ReadLog, kind: type[Any]) -> LogPiece:
        """Read as `LogStore` does."""
        self.asked.append(message)
        assert message.limit <= logs.PIECE + 1
        size, offset = len(self.data), message.offset
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        return LogPiece(self.data[start : start + message.limit], start, size, 3, (1, 3))

    def read(self, offset: int, limit: int = logs.PIECE) -> LogText:
        """Read a piece of text."""
        ask = ReadLog("a#1", 0, None, offset, limit)
        return asyncio.run(read(cast(AsyncClient, self), ask))

    def search(self, text: str) -> LogMatches:
        """Search in it."""
        return asyncio.run(search(cast(AsyncClient, self), ReadLog("a#1", 0), text))


def test_the_end_begins_at_a_whole_line() -> None:
    log = Log("one\ntwö\nthree".encode())
    assert log.read(-7) == LogText("three", 9, 14, 14, 3, (1, 3))
    assert log.read(-5).text == "three"  # a line begins just there
    assert log.read(-10).text == "twö\nthree"
    assert log.read(-3).text == "hree"  # there is no line to begin at
    for many in (14, 15, 99):
        assert log.read(-many).text == "one\ntwö\nthree"
        assert log.read(-many).offset == 0


def test_what_follows_joins_what_was_shown() -> None:
    log = Log(b"10 %\r20 %\r")
    first = log.read(-4096)
    assert first.text == "10 %\r20 %\r"  # a line that isn't whole yet is shown, too
    log.data += b"30 %\rdone\nnext"
    assert log.read(first.next) == LogText("30 %\rdone\nnext", 10, 24, 24, 3, (1, 3))
    assert log.read(24) == LogText("", 24, 24, 24, 3, (1, 3))
    assert log.read(99).offset == 24


def test_what_comes_before_ends_where_it_was_asked_to() -> None:
    log = Log(b"".join(b"line %d\n" % n for n in range(100)))
    shown = log.read(-50)
    page = log.read(shown.offset - 60, 60)
    assert page.next == shown.offset
    first = log.read(0, page.offset)
    assert first.text + page.text + shown.text == log.data.decode()


def test_no_character_is_cut() -> None:
    log = Log("aé🙂b".encode())
    assert log.read(2) == LogText("🙂b", 3, 8, 8, 3, (1, 3))
    assert log.read(0, 5) == LogText("aé", 0, 3, 8, 3, (1, 3))
    assert log.read(4) == LogText("b", 7, 8, 8, 3, (1, 3))
    assert log.read(-3).text == "b"


def test_what_cant_be_decoded_is_replaced() -> None:
    assert Log(b"a\xff\xfeb\xe2\x82\nc").read(0).text == "a��b�\nc"


@given(st.text("aé€🙂\n", max_size=40), st.integers(1, 7))
def test_pieces_of_any_size_make_up_the_whole(text: str, limit: int) -> None:
    log, parts, offset = Log(text.encode()), [], 0
    while offset < len(log.data):
        piece = log.read(offset, limit + 3)
        assert piece.offset == offset
        assert piece.next > offset
        parts.append(piece.text)
        offset = piece.next
    assert "".join(parts) == text


def test_lines_are_found_whatever_their_case() -> None:
    log = Log("Loss 1\nother\nLOSS 2\n<b>Straße</b> loss".encode())
    found = log.search("loss")
    assert [(m.offset, m.line) for m in found.matches] == [
        (0, "Loss 1"), (13, "LOSS 2"), (20, "<b>Straße</b> loss"),
    ]  # fmt: skip
    assert (found.more, found.epoch) == (False, 3)
    assert [m.offset for m in log.search("STRASSE").matches] == [20]
    assert log.search("nothing").matches == ()
    assert Log(b"").search("x").matches == ()
    with pytest.raises(InvalidRequest, match="what to search"):
        log.search("")


def test_only_the_last_lines_are_told_and_what_is_earlier_isnt_read() -> None:
    log = Log(b"hit\n" * (logs.PIECE * 3 // 4))
    found = log.search("hit")
    assert len(found.matches) == logs.MOST
    assert found.more
    assert found.matches[-1].offset == len(log.data) - 4
    assert len(log.asked) == 1


@given(st.lists(st.text("xy", max_size=30), max_size=30), st.integers(1, 20))
@example(["xxxxy", "x" * 14, ""], 5)
def test_lines_that_lie_in_two_pieces_are_found_once(lines: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "PIECE", size)
        log = Log("\n".join(lines).encode())
        found = log.search("xy")
    # What a line and its end have to fit in; longer ones are searched in parts.
    if max(map(len, lines), default=0) + 1 < 3 * size:
        assert [m.line for m in found.matches] == [line for line in lines if "xy" in line]
    for match in found.matches:
        assert log.data[match.offset :].decode().startswith(match.line)


def test_of_a_long_line_the_part_with_the_text_is_told() -> None:
    line = Log(b"." * 50_000 + b"needle" + b"." * 50_000).search("needle").matches[0].line
    assert "needle" in line
    assert len(line) == logs.LONGEST


def test_the_store_of_logs_reads_in_this_way(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.append(LogChunk("a#1", 3, 0, 0, b"one\ntwo"))
    log = Log(b"one\ntwo")
    for offset in (-99, -7, -3, 0, 2, 7, 99):
        theirs = store.read("a#1", 0, None, offset, 5)
        ours = asyncio.run(log.request(ReadLog("a#1", 0, None, offset, 5), LogPiece))
        assert (theirs.data, theirs.offset, theirs.size) == (ours.data, ours.offset, ours.size)
