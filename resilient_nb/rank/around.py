"""Loops around a cell's loops: they go on, when the cell runs again, as far as they went before.

On resume the cell runs from its top, and loops of `run` that were complete are skipped. What stands
between them (an evaluation, early stopping) runs again, but with another state than it had then.
What it computes is put right where the checkpoint was taken; but where it leaves the loop around,
that place would never be reached. How often each loop around went on is known, though. So
checkpoints record it, and until the place is reached such a loop is left after as many turns as
before, and neither earlier nor later, whatever `break`, `return` or `while` decide.

The cell is compiled so that its `for` and `while` loops that have a loop of `run` in them, or call
a function that has, ask an `Around`. Nothing else of it is changed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

#: By which names a cell finds its `Around`, and the value that nobody needs.
NAME, _UNUSED = "__around__", "__turn__"
_LOOPS = ("batches", "steps")

#: Of each loop around, in the order in which they began: its turns, and whether it had ended.
Course = list[list[int]]


@dataclass(eq=False)
class _Loop:
    """A loop that was begun, and what is known of it from before."""

    turns: int = 0
    ended: bool = False
    past: tuple[int, bool] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it had ended after these turns."""
        return self.past is not None and self.past[1] and self.turns >= self.past[0]


class Around:
    """The loops around, of one rank's cell.

    Args:
        past: their course up to the checkpoint that the cell goes on from; None if it begins.

    Attributes:
        repeats: whether the cell is still before the place that the checkpoint was taken at.
    """

    def __init__(self, past: Course | None = None) -> None:
        self.repeats = past is not None
        self._past = past or []
        self._begun: list[_Loop] = []
        self._open: list[_Loop] = []

    @property
    def course(self) -> Course:
        """What a checkpoint records."""
        return [[loop.turns, int(loop.ended)] for loop in self._begun]

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items of a `for` loop."""
        loop, iterator = self._begin(), iter(items)
        try:
            while not (self.repeats and loop.is_over):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                loop.turns += 1
                yield item
        finally:
            self._end(loop)

    def forever(self) -> Iterator[None]:
        """Yield for a `while` loop, which asks `goes_on`."""
        loop = self._begin()
        try:
            while True:
                yield None
        finally:
            self._end(loop)

    def goes_on(self, condition: object) -> bool:
        """Whether the innermost loop, a `while`, makes another turn."""
        loop = self._open[-1]
        good = bool(condition)
        if self.repeats and loop.past is not None and (loop.turns < loop.past[0] or loop.past[1]):
            good = loop.turns < loop.past[0]
        loop.turns += good
        return good

    def may_leave(self, loops: int) -> bool:
        """Whether so many of the innermost loops may be left now."""
        return not self.repeats or all(
            loop.past is None or loop.is_over for loop in self._open[-loops:]
        )

    def _begin(self) -> _Loop:
        number = len(self._begun)
        past = self._past[number] if self.repeats and number < len(self._past) else None
        loop = _Loop(past=None if past is None else (past[0], bool(past[1])))
        self._begun.append(loop)
        self._open.append(loop)
        return loop

    def _end(self, loop: _Loop) -> None:
        loop.ended = True
        self._open.remove(loop)


def rewritten(tree: ast.Module, sources: Iterable[str] = ()) -> ast.Module:
    """Return a cell whose loops around ask the `Around` of the name `NAME`.

    Args:
        tree: the cell; it is changed.
        sources: of other cells, whose functions this one may call.
    """
    functions = _training(tree, [*_parsed(sources)])
    _Rewriter(functions).visit(tree)
    return ast.fix_missing_locations(tree)


def _parsed(sources: Iterable[str]) -> Iterator[ast.Module]:
    for source in sources:
        with suppress(SyntaxError):  # what another cell has of IPython's own
            yield ast.parse(source)


def _training(tree: ast.Module, others: Sequence[ast.Module]) -> frozenset[str]:
    """Return the names of functions that have a loop of `run` in them, or call one that has."""
    defined = [
        node
        for module in (tree, *others)
        for node in ast.walk(module)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    found: frozenset[str] = frozenset()
    while True:
        more = found | {node.name for node in defined if _trains(node.body, found)}
        if more == found:
            return found
        found = more


def _trains(nodes: Sequence[ast.AST], functions: frozenset[str]) -> bool:
    """Whether any node has a loop of `run` in it, or calls one of these functions."""
    return any(
        isinstance(inner, ast.Call) and (_is_loop(inner) or _name(inner.func) in functions)
        for node in nodes
        for inner in ast.walk(node)
    )


def _is_loop(call: ast.Call) -> bool:
    """Whether it is `run.batches(...)` or `run.steps(...)`."""
    func = call.func
    if not isinstance(func, ast.Attribute) or func.attr not in _LOOPS:
        return False
    return isinstance(func.value, ast.Name) and func.value.id == "run"


def _name(func: ast.expr) -> str:
    if isinstance(func, ast.Attribute):
        return func.attr
    return func.id if isinstance(func, ast.Name) else ""


class _Rewriter(ast.NodeTransformer):
    def __init__(self, functions: frozenset[str]) -> None:
        self._functions = functions
        self._loops: list[bool] = []  # those that a statement is in: whether each is one around

    def visit_For(self, node: ast.For) -> ast.AST:
        around = not _trains([node.iter], frozenset()) and _trains(node.body, self._functions)
        self._visit_loop(node, around)
        if around:
            node.iter = _call("each", node.iter, at=node.iter)
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self._visit_loop(node, around=False)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        # What `else` would mean of a loop that is left as before isn't worth its code.
        around = not node.orelse and _trains(node.body, self._functions)
        self._visit_loop(node, around)
        if not around:
            return node
        goes_on = _call("goes_on", node.test, at=node.test)
        stop = ast.copy_location(
            ast.If(ast.UnaryOp(ast.Not(), goes_on), [ast.Break()], []), node.test
        )
        target = ast.Name(_UNUSED, ast.Store())
        turns = _call("forever", at=node.test)
        return ast.copy_location(ast.For(target, turns, [stop, *node.body], []), node)

    def _visit_loop(self, node: ast.For | ast.AsyncFor | ast.While, around: bool) -> None:
        self._loops.append(around)
        node.body = self._visit_all(node.body)
        self._loops.pop()
        node.orelse = self._visit_all(node.orelse)

    def _visit_all(self, nodes: list[ast.stmt]) -> list[ast.stmt]:
        return [self.visit(node) for node in nodes]

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return _if_may_leave(node, 1) if self._loops and self._loops[-1] else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        return _if_may_leave(node, sum(self._loops)) if any(self._loops) else node

    def _visit_scope(self, node: ast.AST) -> ast.AST:
        loops, self._loops = self._loops, []
        self.generic_visit(node)
        self._loops = loops
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _visit_scope


def _call(method: str, *arguments: ast.expr, at: ast.AST) -> ast.Call:
    around = ast.Name(NAME, ast.Load())
    call = ast.Call(ast.Attribute(around, method, ast.Load()), list(arguments), [])
    return ast.copy_location(call, at)


def _if_may_leave(node: ast.stmt, loops: int) -> ast.stmt:
    test = _call("may_leave", ast.Constant(loops), at=node)
    return ast.copy_location(ast.If(test, [node], []), node)
