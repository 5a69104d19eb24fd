"""Capture: what a cell needs, sent in one payload, runs as it would in the notebook."""

from __future__ import annotations

import ast
import linecache
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from resilient_nb.errors import CannotCapture, InvalidRequest
from resilient_nb.notebook.capture import (
    Capture,
    analyse,
    capture,
    dry_run_text,
    explain_missing,
    restore,
)
from resilient_nb.notebook.options import parse_cell_line

Namespace = dict[str, Any]


def notebook(source: str = "", **values: object) -> Namespace:
    """Return a namespace as a notebook has it, after a cell with this source."""
    namespace: Namespace = {"__name__": "__main__", **values}
    exec(compile(source, "<notebook>", "exec", dont_inherit=True), namespace)
    return namespace


def captured(cell: str, namespace: Namespace, *out: str, measure: bool = False) -> Capture:
    return capture(analyse(cell, "<cell>"), namespace, out, measure=measure)


@contextmanager
def rank(payload: bytes) -> Iterator[Namespace]:
    """Restore as a rank does: into the globals of a new `__main__`."""
    module, before = types.ModuleType("__main__"), sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        namespace = vars(module)
        namespace.update(restore(payload))
        yield namespace
    finally:
        sys.modules["__main__"] = before


def run_in_rank(cell: str, namespace: Namespace, *out: str) -> Namespace:
    with rank(captured(cell, namespace, *out).payload) as restored:
        exec(compile(cell, "<cell>", "exec", dont_inherit=True), restored)
        return restored


def names_of(found: Capture) -> list[str]:
    return [entry.name for entry in found.entries]


# -- data flow


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
    cell = "if x: pass\n" + "elif x: pass\n" * 2000
    with pytest.raises((InvalidRequest, RecursionError), match="nested too deeply|recursion"):
        analyse(cell, "<cell>")


# -- laws

_PRELUDE = """
import reprlib
from contextlib import nullcontext, suppress
seen = []
budget = [40]
class Budget(BaseException): pass
def show(value):
    text = reprlib.repr(value)
    return type(value).__name__ if "0x" in text else text
def see(*values): seen.append([show(value) for value in values])
def tick():
    budget[0] -= 1
    if budget[0] < 0: raise Budget
def op(*values):
    return sum(value for value in values if isinstance(value, int)) % 4
def it(value):
    return value[:2] if isinstance(value, list) else [value, 1]
def call(value):
    return value() if callable(value) else value
def now(function):
    function()
    return function
a, b, c, d = 1, 2, [3, 4], 0
def f(p=0):
    tick()
    return op(a, d)
def g(p=0):
    global b
    tick()
    b = op(b, p, 1)
    return f(c)
class K:
    a = 7
    def m(self): return b
k = K()
"""
_DEFINED = ["a", "b", "c", "d", "f", "g", "K", "k"]
_NAMES = [*_DEFINED, "u"]

_EXPRESSIONS = (
    "op(<e>, <e>)", "op(<e>, <e>)", "(<n> := <e>)", "(<n> := <e>)", "(<e> if <e> else <e>)",
    "(<e> and <e>)", "(<e> or <e>)", "not <e>", "[<e>, <n>]", "call(<n>)", "f(<e>)", "g()", "k.m()",
    "[<n> for <n> in it(<n>)]", "[op(x, <n>) for x in it(<n>) if <n>]", "(lambda: <e>)()",
    "(lambda x=<e>: <e>)", "sum(op(<n>) for x in it(<n>) for <n> in it(x))",
    "{op(<e>): <e>, (<n> := 5): <e>}", "(op(<e>) < op(<e>) < (<n> := 2))", "f'{(<n>, 0)[1]}'",
    "[[<n> for x in it(<n>)] for <n> in it(<n>)]", "{op(x): <n> for x in it(<n>)}",
)  # fmt: skip
_LEAKING = ("[(<n> := x) for x in it(<n>)]", "[<n> for x in it(<n>) if (<n> := x)]")
_STATEMENTS = (
    *(("<n> = <e>", "see(<n>)", "see(<n>, <n>)", "see(<e>)") * 3), "<n>, <n> = <e>, <e>",
    "*<n>, <n> = [<e>, <e>]", "<n> = op(<n>); <n> += op(<e>)", "c = [1]; c[op(0)] = <e>",
    "b, c[b - b] = 1, <e>", "del <n>", "<n>: <n> = <e>", "import math as <n>",
    "from math import pi as <n>", "assert <e>, <e>", "raise ValueError(<e>)", "<n>.a = <e>",
)  # fmt: skip


class Program:
    """Draws the text of a cell that ends."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw
        self._in_class = False

    def one(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def name(self) -> str:
        return str(self.one(*_DEFINED, *_NAMES))

    def expression(self, depth: int = 2) -> str:
        if depth == 0 or self.one(True, False, False):
            return str(self.one(*_DEFINED, *_NAMES, "0", "1", "[]", "[1, 2]"))
        # A walrus that leaves a comprehension is a syntax error in a class body.
        form = self.one(*_EXPRESSIONS, *(() if self._in_class else _LEAKING))
        return self.fill(form, depth - 1)

    def fill(self, form: str, depth: int = 2) -> str:
        while "<e>" in form:
            form = form.replace("<e>", self.expression(depth), 1)
        while "<n>" in form:
            form = form.replace("<n>", self.name(), 1)
        return form

    def block(self, depth: int, inside: str, *first: str) -> list[str]:
        lines = [x for _ in range(self.one(1, 2, 3)) for x in self.statement(depth - 1, inside)]
        return ["    " + line for line in [*first, *lines]]

    def statement(self, depth: int, inside: str = "") -> list[str]:
        if depth and self.one(True, False):
            kinds = (self._if, self._for, self._while, self._try, self._with, self._match)
            compound: Callable[[int, str], list[str]] = self.one(
                *kinds, self._def, self._def, self._class
            )
            return compound(depth, inside)
        jumps = ("break", "continue") if "loop" in inside else ()
        returns = ("return <e>",) if "def" in inside else ()
        return [self.fill(self.one(*_STATEMENTS, *jumps, *returns))]

    def _if(self, depth: int, inside: str) -> list[str]:
        lines = [f"if {self.expression()}:", *self.block(depth, inside)]
        return [*lines, "else:", *self.block(depth, inside)] if self.one(True, False) else lines

    def _for(self, depth: int, inside: str) -> list[str]:
        over = self.one("[]", "[1]", "[1, 2]", "it(c)", f"it({self.expression()})")
        lines = [f"for {self.name()} in {over}:", *self.block(depth, inside + " loop")]
        return [*lines, "else:", *self.block(depth, inside)] if self.one(True, False) else lines

    def _while(self, depth: int, inside: str) -> list[str]:
        test = self.one("True", self.expression())
        return [f"while {test}:", *self.block(depth, inside + " loop", "tick()")]

    def _try(self, depth: int, inside: str) -> list[str]:
        lines = ["try:", *self.block(depth, inside)]
        form = self.one("except", "except else", "except finally", "finally")
        if "except" in form:
            star = "" if inside else self.one("", "", "*")  # no jumps out of except*
            kind = self.one("Exception", "NameError", "ValueError", "(TypeError, NameError)")
            named = self.one("", f" as {self.name()}")
            lines += [f"except{star} {kind}{named}:", *self.block(depth, inside)]
        for clause in ("else", "finally"):
            if clause in form:
                lines += [f"{clause}:", *self.block(depth, inside)]
        return lines

    def _with(self, depth: int, inside: str) -> list[str]:
        manager = self.one("suppress(Exception)", f"nullcontext({self.expression()})")
        more = self.one("", f", suppress(NameError) as {self.name()}")
        return [f"with {manager} as {self.name()}{more}:", *self.block(depth, inside)]

    def _match(self, depth: int, inside: str) -> list[str]:
        patterns = ("0", "[<n>, *_]", "[_, *<n>]", "K(a=<n>)", "int() | [_]", "{5: <n>}", "[1] as <n>")
        lines = [f"match {self.expression()}:"]
        for pattern in (self.one(*patterns), self.one(*patterns, "<n>", "_")):
            guard = self.one("", f" if {self.expression()}")
            lines.append(f"    case {self.fill(pattern)}{guard}:")
            lines += ["    " + line for line in self.block(depth, inside)]
        return lines

    def _def(self, depth: int, inside: str) -> list[str]:
        name = self.one("f", "g", "u")
        declared = [f"global {self.name()}"] if self.one(True, False) else []
        lines = [
            *self.one([], [], ["@now"]),
            f"def {name}(p={self.expression()}):",
            *self.block(depth, "def", *declared, "tick()"),
            f"    return {self.expression()}",
        ]
        return [*lines, self.one("see()", f"{name}()", f"see({name}())")]

    def _class(self, depth: int, inside: str) -> list[str]:
        outside, self._in_class = self._in_class, True
        body = self.block(depth, "class")
        self._in_class = outside
        return ["class K:", *body, f"    m = lambda self: {self.name()}"]


@st.composite
def cells(draw: Callable[[Any], Any]) -> str:
    program = Program(draw)
    return "\n".join(line for _ in range(draw(st.integers(3, 8))) for line in program.statement(3))


def outcome(cell: str, namespace: Namespace, out: str) -> tuple[object, ...]:
    """Run a cell; return how it ended, what it saw, and the value that comes back."""
    show = notebook(_PRELUDE)["show"]  # shortens: nested lists may have a repr without end
    try:
        exec(compile(cell, "<cell>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        return type(error).__name__, show(error.args), namespace.get("seen", [])
    return "ended", show(namespace.get(out, "absent")), namespace.get("seen", [])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cell=cells(), out=st.sampled_from(_NAMES))
def test_a_cell_runs_with_what_was_captured_as_it_would_in_the_notebook(cell: str, out: str) -> None:
    try:
        names = analyse(cell, "<cell>")
    except SyntaxError:
        assume(False)
    here = notebook(_PRELUDE)
    assume(out in here or out in names.assigns)
    payload = capture(names, here, [out]).payload
    expected = outcome(cell, notebook(_PRELUDE), out)
    with rank(payload) as there:
        assert outcome(cell, there, out) == expected
