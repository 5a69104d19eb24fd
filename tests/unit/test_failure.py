"""`rank.failure`: any exception can be told, and kept in the journal."""

from __future__ import annotations

import linecache

import pytest

from resilient_nb.core.model import Cell
from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.failure import pack_error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise AttributeError("self.text was never set")


def test_what_an_exception_says_is_bounded() -> None:
    packed = pack_error(ValueError("begin" + "x" * 40_000_000 + "end"), Cell("x"))
    assert len(packed.message) < 17_000
    assert packed.message.startswith("begin")
    assert packed.message.endswith("end")
    assert "40,000,008" not in packed.message
    assert "39,983,624 more characters" in packed.message


def test_an_exception_that_cant_be_printed_is_told_all_the_same() -> None:
    packed = pack_error(Unprintable(), Cell("x"))
    assert (packed.type, packed.message) == (
        "Unprintable", "(its text can't be had: AttributeError)",
    )  # fmt: skip


def test_a_line_of_source_is_bounded() -> None:
    source = f"values = [{'1, ' * 10_000}]; values[10**9]"
    cell = Cell(source, filename="<cell>")
    linecache.cache[cell.filename] = (len(source), None, [source], cell.filename)
    try:
        exec(compile(source, cell.filename, "exec"), {})
    except IndexError as error:
        [frame] = pack_error(error, cell).frames
    finally:
        del linecache.cache[cell.filename]
    assert len(frame.line) == 500


def test_what_we_say_ourselves_has_no_line_of_a_cell_that_it_never_touched() -> None:
    for error, known in ((InvalidRequest("no"), False), (OSError("no"), True)):
        with pytest.raises(type(error)) as caught:
            raise error
        assert bool(pack_error(caught.value, Cell("x")).frames) == known
