"""The law of capture: a cell runs with what was sent as it would in the notebook.

Programs are made up, run twice, and must end, see and return the same.
"""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from resilient_nb.notebook.capture import analyse, capture, restore

_PRELUDE = """
import re, reprlib
from contextlib import nullcontext, suppress
short = reprlib.Repr()
short.maxother = 1000
seen = []
budget = [40]
class Budget(BaseException): pass
def show(value):
    return re.sub("0x[0-9a-f]+", "", short.repr(value))
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
    *(("<n> = <e>", "<n> = 1", "see(<n>)", "see(<e>)") * 3), "<n>, <n> = <e>, <e>",
    "*<n>, <n> = [<e>, <e>]", "<n> = op(<n>); <n> += op(<e>)", "c = [1]; c[op(0)] = <e>",
    "b, c[b - b] = 1, <e>", "del <n>", "<n>: <n> = <e>", "import math as <n>",
    "from math import pi as <n>", "assert <e>, <e>", "raise ValueError(<e>)", "<n>.a = <e>",
)  # fmt: skip


class Program:
    """Makes up the text of a cell that ends.

    With dice of its own: Hypothesis would need ten times as long to draw each word.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._in_class = False

    def text(self) -> str:
        lines = [x for _ in range(self.one(1, 2, 3)) for x in self.statement(self.one(1, 2))]
        return "\n".join([*lines, *(f"see({name})" for name in self._random.sample("abcd", 4))])

    def one(self, *choices: Any) -> Any:
        return self._random.choice(choices)

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
        patterns = (
            "0",
            "[<n>, *_]",
            "[_, *<n>]",
            "K(a=<n>)",
            "int() | [_]",
            "{5: <n>}",
            "[1] as <n>",
        )
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


def notebook(source: str = "") -> dict[str, Any]:
    """Return a namespace as a notebook has it, after a cell with this source."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<notebook>", "exec", dont_inherit=True), namespace)
    return namespace


@contextmanager
def rank(payload: bytes) -> Iterator[dict[str, Any]]:
    """Restore as a rank does: into the globals of a new `__main__`."""
    module, before = types.ModuleType("__main__"), sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        namespace = vars(module)
        namespace.update(restore(payload))
        yield namespace
    finally:
        sys.modules["__main__"] = before


def outcome(cell: str, namespace: dict[str, Any], out: str) -> tuple[object, ...]:
    """Run a cell; return how it ended, what it saw, and the value that comes back."""
    show = notebook(_PRELUDE)["show"]  # shortens: nested lists may have a repr without end
    try:
        exec(compile(cell, "<cell>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        return type(error).__name__, show(error.args), namespace.get("seen", [])
    return "ended", show(namespace.get(out, "absent")), namespace.get("seen", [])


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), out=st.sampled_from(_NAMES))
def test_a_cell_runs_with_what_was_captured_as_it_would_in_the_notebook(
    seed: int, out: str
) -> None:
    cell = Program(seed).text()
    note(cell)
    try:
        names = analyse(cell, "<cell>")
    except SyntaxError:
        return
    here = notebook(_PRELUDE)
    payload = capture(names, here, [out] if out in here or out in names.assigns else []).payload
    expected = outcome(cell, notebook(_PRELUDE), out)
    with rank(payload) as there:
        assert outcome(cell, there, out) == expected
