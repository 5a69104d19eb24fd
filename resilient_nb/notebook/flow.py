"""The walk over a cell's statements: on which paths is a name read before it is made?"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from resilient_nb.notebook.reads import Reads, join
from resilient_nb.notebook.scopes import imported_names

_CATCHES_NAME_ERROR = frozenset({"NameError", "Exception", "BaseException"})


class Flow(Reads):
    """The whole walk; see `Reads` for its two modes."""

    def run(self, body: Sequence[ast.AST]) -> Flow:
        """Walk the cell and return self."""
        self._block(body)
        return self

    # -- simple statements

    def visit_Assign(self, node: ast.Assign) -> None:
        self._block([node.value, *node.targets])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read(node.target.id, node.lineno)
            self._block([node.value, node.target])
        else:
            self._block([node.target, node.value])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._block([node.value, node.target])
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)
        self._softly(node.annotation)

    def visit_Assert(self, node: ast.Assert) -> None:
        before = self._gone
        self.generic_visit(node)
        self._gone = before  # under -O nothing of it runs

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name in imported_names(node):
            self._assign(name)
        self.imports_star |= any(alias.name == "*" for alias in node.names)

    visit_ImportFrom = visit_Import

    def visit_Return(self, node: ast.Return | ast.Raise) -> None:
        self.generic_visit(node)
        self._gone = None

    visit_Raise = visit_Return

    def visit_Break(self, node: ast.Break) -> None:
        self._breaks[-1].append(self._gone)
        self._gone = None

    def visit_Continue(self, node: ast.Continue) -> None:
        self._continues[-1].append(self._gone)
        self._gone = None

    # -- branches and loops

    def visit_If(self, node: ast.If) -> None:
        self._branch(node.test, node.body, node.orelse)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._loop([node.target, *node.body], node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        forever = isinstance(node.test, ast.Constant) and bool(node.test.value)
        self._loop(node.body, node.orelse, forever)

    def _loop(
        self, body: Sequence[ast.AST], orelse: Sequence[ast.AST], forever: bool = False
    ) -> None:
        no_turn = self._gone
        self._breaks.append([])
        self._continues.append([])
        self._block(body)
        turned = join(self._gone, *self._continues.pop())
        breaks = self._breaks.pop()
        usual = self._made_by_cell is not None
        self._gone = None if forever else turned if usual else no_turn
        self._block(orelse)
        self._gone = join(self._gone, *breaks)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        unmatched = self._gone
        ends = []
        for case in node.cases:
            self._gone = unmatched
            self.visit(case.pattern)
            if case.guard is not None:
                self.visit(case.guard)
            self._block(case.body)
            ends.append(self._gone)
        last = node.cases[-1]
        catches_all = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
        self._gone = join(*ends, None if catches_all and last.guard is None else unmatched)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic_visit(node)
        if node.name is not None:
            self._assign(node.name)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest is not None:
            self._assign(node.rest)

    def visit_MatchOr(self, node: ast.MatchOr) -> None:
        before, ends = self._gone, []
        for pattern in node.patterns:
            self._gone = before
            self.visit(pattern)
            ends.append(self._gone)
        self._gone = join(*ends)

    # -- exceptions

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        first, *others = node.items
        self.visit(first.context_expr)
        entered = self._gone
        self._block([] if first.optional_vars is None else [first.optional_vars])
        self._block(others)
        self._block(node.body)
        if self._made_by_cell is None or self._gone is None:
            self._gone = entered  # the block may have swallowed an exception from anywhere in it

    visit_AsyncWith = visit_With

    def visit_Try(self, node: ast.Try) -> None:
        before = self._gone
        guarded = any(_catches_name_error(handler) for handler in node.handlers)
        self._guards += guarded
        self._block(node.body)
        self._guards -= guarded
        self._block(node.orelse)
        ends = [self._gone]
        for handler in node.handlers:
            self._gone = before
            self.visit(handler)
            ends.append(self._gone)
        after = join(*ends)
        if node.finalbody:
            self._gone = before  # it also runs for exceptions from anywhere above
            self._block(node.finalbody)
            self._gone = after
            self._block(node.finalbody)
        else:
            self._gone = after

    visit_TryStar = visit_Try  # type: ignore[assignment]  # the same fields, no common class

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name is not None:
            self._assign(node.name)  # and deleted at the end: gone either way
        self._block(node.body)


def _catches_name_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    named = ast.walk(handler.type)
    return any(isinstance(node, ast.Name) and node.id in _CATCHES_NAME_ERROR for node in named)
