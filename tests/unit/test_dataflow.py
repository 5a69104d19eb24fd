"""Data flow: which names a cell needs of the notebook, found without running it."""

from __future__ import annotations

import pytest

from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.dataflow import analyse


@pytest.mark.parametrize(
    ("cell", "reads"),
    [
        ("y = x", "x"),
        ("x = 1; y = x", ""),
        ("x += 1", "x"),
        ("x: int = y; z = x", "int y"),
        ("x: int", "int"),
        ("del x", "x"),
        ("del x; x", "x"),
        ("if c: x = 1\nx", "c x"),
        ("if c: x = 1\nelse: x = 2\nx", "c"),
        ("if c: raise x\nelse: y = 2\ny", "c x"),
        ("for i in n: j = i\nj", "n j"),
        ("for i in n: pass\nelse: j = 1\nj", "n"),
        ("for i in n:\n break\nelse: j = 1\nj", "n j"),
        ("while True:\n j = 1\n break\nj", ""),
        ("while c: j = 1\nj", "c j"),
        ("try: x = f()\nexcept E: pass\nx", "f E x"),
        ("try: x = f()\nexcept E: x = 1\nx", "f E"),
        ("try: x = f()\nfinally: x", "f x"),
        ("try: f()\nfinally: x = 1\nx", "f"),
        ("try: pass\nexcept E as e: e", "E"),
        ("with m as x: y = x\ny", "m y"),
        ("import a.b as c, d.e\nc, d", ""),
        ("from a import b\nb", ""),
        ("match v:\n case [x, *y]: x, y\n case {'k': z, **w}: z, w\n case P(q=u): u\nx", "v P x"),
        ("match v:\n case x: pass\nx", "v"),
        ("def f(a, b=c): return a + d + e\ne = 1", "c d e"),
        ("e = 1\ndef f(): return e", ""),
        ("def f():\n x = 1\n def g(): return x\n return g", ""),
        ("def f():\n global x\n x = 1\nf(); x", "x"),
        ("def f(): return f", ""),
        ("@d\ndef f(): return f", "d f"),
        ("class A(B):\n x = 1\n def m(self): return x", "B x"),
        ("class A:\n x = x\n y = x", "x"),
        ("class A:\n x = 1\n del x\n y = x", "x"),
        ("class A:\n __p = 1\n def m(self): return __q", "_A__q"),
        ("[i for i in n if i in m]", "n m"),
        ("[(j := i) for i in n]; j", "n j"),
        ("(x := 1) and (y := 2); x, y", "y"),
        ("a < (b := c) < (d := b); b, d", "a c d"),
        ("{a: b, (b := 1): 2}", "a b"),
        ("lambda a, b=c: a + b + d", "c d"),
        ("f'{x!r:{w}}'", "x w"),
        ("x, y[x] = z, 1", "z y"),
        ("print(x)", "print x"),
        ("assert (x := 1)\nx", "x"),
        ("async def f():\n async for i in a: i\nawait f()", "a"),
        ("[i async for i in a]", "a"),
        ("run.log(loss=run.step)", ""),
    ],
)
def test_reads_are_names_that_a_path_reads_before_it_made_them(cell: str, reads: str) -> None:
    assert set(analyse(cell, "<cell>").reads) == set(reads.split())


def test_the_rest_of_what_a_cell_does_with_names() -> None:
    cell = "import a.b\nx = run.step\nfor i in x: y = 1\ndel a\ndef f():\n global g\n g = 1\n"
    found = analyse(cell, "<cell>")
    assert found.assigns == {"a", "x", "i", "y", "f", "g"}
    assert found.deletes == {"a"}
    assert found.settled == {"a", "x", "f"}
    assert found.usually_settled == {"a", "x", "i", "y", "f"}
    assert found.uses_run
    assert not found.awaits
    assert not found.open_ended
    assert not analyse("run = 1; run", "<cell>").uses_run
    assert analyse("await f()", "<cell>").awaits
    assert analyse("from m import *", "<cell>").open_ended


def test_reads_off_the_usual_course_are_optional() -> None:
    cell = "for i in n: j = i\nwith m: k = 1\ndef f(): return late\nlate = f\nif n: x = 1\nj, k, x"
    assert analyse(cell, "<cell>").optional == {"j", "k", "late"}


def test_a_line_number_goes_with_each_read() -> None:
    assert analyse("a\nb\na", "<cell>").reads == {"a": 1, "b": 2}


@pytest.mark.parametrize("cell", ["x =", "\n\nreturn 1", "break"])
def test_syntax_errors_pass_as_they_are(cell: str) -> None:
    with pytest.raises(SyntaxError) as caught:
        analyse(cell, "<ipython-input-3>")
    assert caught.value.filename == "<ipython-input-3>"
    assert caught.value.lineno == cell.count("\n") + 1


@pytest.mark.parametrize(
    ("call", "typed"),
    [
        ("get_ipython().run_line_magic('time', 'f()')", "%time f()"),
        ("get_ipython().run_cell_magic('bash', '', 'ls')", "%%bash"),
        ("get_ipython().system('ls')", "!ls"),
        ("y = get_ipython().getoutput('ls')", "!ls"),
        ("get_ipython()", "get_ipython()"),
    ],
)
def test_magics_are_refused_with_line_and_text(call: str, typed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        analyse(f"x = 1\n\n{call}", "<cell>")
    assert str(caught.value).startswith(f"line 3 uses a magic or shell escape (`{typed}`)")


def test_too_deep_a_cell_is_refused_in_words() -> None:
    cell = "if x: pass\n" + "elif x: pass\n" * 500
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        analyse(cell, "<cell>")
