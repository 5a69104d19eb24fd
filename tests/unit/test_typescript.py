"""`wire.typescript`: the browser's types are those of the messages."""

from __future__ import annotations

import re
from pathlib import Path

from resilient_nb.wire.codec import PROTOCOL, to_json
from resilient_nb.wire.feed import RankRow
from resilient_nb.wire.typescript import typescript

FILE = Path(__file__).parents[2] / "labextension" / "src" / "protocol.ts"


def test_the_browsers_types_are_up_to_date() -> None:
    assert FILE.read_text() == typescript(), (
        f"python -m resilient_nb.wire.typescript > {FILE.relative_to(FILE.parents[2])}"
    )


def test_what_is_named_is_declared_once() -> None:
    text = typescript()
    declared = re.findall(r"^export (?:interface|type|const) (\w+)", text, re.M)
    assert len(declared) == len(set(declared))
    code = re.sub(r"/\*\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    named = set(re.findall(r"\b[A-Z]\w+\b", re.sub(r'"[^"]*"', "", code)))
    assert named <= set(declared)
    assert f"PROTOCOL = {PROTOCOL};" in text
    assert "any" not in re.findall(r"\w+", code)


def test_a_rank_is_an_array_in_the_order_that_is_declared() -> None:
    row = RankRow(*range(len(RankRow._fields)))
    assert to_json(row).startswith(b"[0,1,2,")
    text = typescript()
    for index, name in enumerate(RankRow._fields):
        assert f"  {name}: {index},\n" in text
