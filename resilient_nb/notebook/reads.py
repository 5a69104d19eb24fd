"""Which notebook names an expression or definition may read, and what it makes of them.

`flow.Flow` adds the statements. The walk follows the order of evaluation and carries the set of
names whose notebook value is surely gone (assigned or deleted). On every path that set only
grows, which is why one pass is enough: a loop's head, an exception handler and a function called
later all know at least what was gone where they began.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

from resilient_nb.notebook.scopes import (
    Kind,
    Scope,
    class_scope,
    comprehension_scope,
    function_scope,
    mangled,
    type_parameter_scope,
)

Gone = frozenset[str] | None
"""Names whose notebook value is gone; None where no execution arrives."""


def join(*ends: Gone) -> Gone:
    """Return what is gone whichever of these paths was taken."""
    arriving = [end for end in ends if end is not None]
    return reduce(frozenset.intersection, arriving) if arriving else None


class Reads(ast.NodeVisitor):
    """One walk, for all that isn't a statement of its own.

    Without `made_by_cell` it is sure to find every read. With it (all that the cell assigns), it
    follows the usual course only: loops run at least once, `with` blocks swallow nothing, and
    functions are called when the cell has run.
    """

    def __init__(self, made_by_cell: frozenset[str] | None = None) -> None:
        self.reads: dict[str, int] = {}
        self.unguarded: set[str] = set()
        self.assigns: set[str] = set()
        self.deletes: set[str] = set()
        self.imports_star = False
        self._made_by_cell = made_by_cell
        self._gone: Gone = frozenset()
        self._scopes = [Scope(Kind.MODULE)]
        self._guards = 0
        self._serial = 0
        self._breaks: list[list[Gone]] = []
        self._continues: list[list[Gone]] = []

    def settled(self) -> frozenset[str]:
        """Return the names surely assigned or deleted at the end."""
        known = frozenset(self.assigns | self.deletes)
        return known if self._gone is None else known & self._gone

    # -- names

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Store):
            self._read(node.id, node.lineno)
        if isinstance(node.ctx, ast.Del):
            self._remove(node.id)
        elif isinstance(node.ctx, ast.Store):
            self._assign(node.id)

    def _read(self, name: str, line: int) -> None:
        name = mangled(name, self._scopes[-1].owner)
        if self._gone is None or name in self._gone or not self._may_be_global(name):
            return
        self.reads[name] = min(line, self.reads.get(name, line))
        if not self._guards:
            self.unguarded.add(name)

    def _assign(self, name: str) -> None:
        name = mangled(name, self._scopes[-1].owner)
        if self._binds_global(name):
            self.assigns.add(name)
            self._lose(name)
        elif self._scope.kind is Kind.CLASS and name not in self._scope.unbound:
            self._lose(self._class_key(self._scope, name))

    def _remove(self, name: str) -> None:
        name = mangled(name, self._scopes[-1].owner)
        if self._binds_global(name):
            self.deletes.add(name)
            self._lose(name)

    def _lose(self, name: str) -> None:
        if self._gone is not None:
            self._gone |= {name}

    @property
    def _scope(self) -> Scope:
        """The scope that a binding goes to: a walrus binds outside of its comprehension."""
        return next(s for s in reversed(self._scopes) if s.kind is not Kind.COMPREHENSION)

    def _binds_global(self, name: str) -> bool:
        if self._scopes[-1].kind is Kind.COMPREHENSION and name in self._scopes[-1].bound:
            return False
        return self._scope.kind is Kind.MODULE or name in self._scope.declared_global

    def _may_be_global(self, name: str) -> bool:
        """Say if a read here may find the global of that name, not a local one."""
        inner = self._scopes[-1]
        if inner.kind is Kind.CLASS and name in inner.bound:
            # Not yet bound there, it is looked for in the globals, past all functions around.
            return self._gone is None or self._class_key(inner, name) not in self._gone
        for scope in reversed(self._scopes):
            if scope.kind is Kind.CLASS and scope is not inner:
                continue  # what a class binds is not seen from its methods
            if name in scope.declared_global:
                return True
            if name in scope.bound:
                return False
        return True

    @staticmethod
    def _class_key(scope: Scope, name: str) -> str:
        return f"{scope.serial}:{name}"  # no identifier, so it can't be taken for a global

    # -- blocks that run later, or in a scope of their own

    def _block(self, body: Iterable[ast.AST]) -> None:
        for node in body:
            self.visit(node)

    @contextmanager
    def _within(self, scope: Scope) -> Iterator[None]:
        self._scopes.append(scope)
        yield
        self._scopes.pop()

    def _later(self, scope: Scope, body: Iterable[ast.AST], own_name: str | None = None) -> None:
        """Walk a function's body. Whenever it is called, at least what is gone now is gone."""
        before = self._gone, self._guards, self._breaks, self._continues
        self._guards, self._breaks, self._continues = 0, [], []
        if self._gone is not None:
            self._gone |= self._made_by_cell or frozenset()
            self._gone |= {own_name} if own_name else frozenset()
        with self._within(scope):
            self._block(body)
        self._gone, self._guards, self._breaks, self._continues = before

    def _softly(self, *nodes: ast.AST | None) -> None:
        """Walk annotations: whether they are evaluated depends on version and __future__."""
        self._guards += 1
        self._block(node for node in nodes if node is not None)
        self._guards -= 1

    @property
    def _owner(self) -> str:
        return self._scopes[-1].owner

    # -- definitions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._block(node.decorator_list)
        self._defaults(node.args)
        # Nothing but a decorator can call a function before it has its name.
        named = self._binds_global(node.name) and not node.decorator_list
        with self._type_parameters(node):
            self._annotations(node.args, node.returns)
            scope = function_scope(node, self._owner)
            self._later(scope, node.body, node.name if named else None)
        self._assign(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._defaults(node.args)
        self._later(function_scope(node, self._owner), [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._block(node.decorator_list)
        with self._type_parameters(node):
            self._block([*node.bases, *node.keywords])
            self._serial += 1
            with self._within(class_scope(node, self._serial)):
                self._block(node.body)
        self._assign(node.name)

    def visit_TypeAlias(self, node: ast.AST) -> None:
        """`type X[T] = …` (Python 3.12): the value is evaluated when somebody asks for it."""
        with self._type_parameters(node):
            self._softly(getattr(node, "value", None))
        name = getattr(node, "name", None)
        self._block([] if name is None else [name])

    @contextmanager
    def _type_parameters(self, node: ast.AST) -> Iterator[None]:
        parameters: Sequence[ast.AST] = getattr(node, "type_params", ())
        if not parameters:
            yield
            return
        with self._within(type_parameter_scope(parameters, self._owner)):
            self._softly(*parameters)
            yield

    def _defaults(self, arguments: ast.arguments) -> None:
        self._block([*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)])

    def _annotations(self, arguments: ast.arguments, returns: ast.expr | None) -> None:
        found = [a.annotation for a in ast.walk(arguments) if isinstance(a, ast.arg)]
        self._softly(*found, returns)

    # -- expressions

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.visit(node.target)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._first_surely(node.values)

    def visit_Compare(self, node: ast.Compare) -> None:
        self.visit(node.left)
        self._first_surely(node.comparators)

    def _first_surely(self, nodes: Sequence[ast.expr]) -> None:
        """Walk operands of which those after the first may be skipped."""
        self.visit(nodes[0])
        after = self._gone
        self._block(nodes[1:])
        self._gone = after

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._branch(node.test, [node.body], [node.orelse])

    def _branch(self, test: ast.expr, body: Sequence[ast.AST], orelse: Sequence[ast.AST]) -> None:
        self.visit(test)
        before = self._gone
        self._block(body)
        after_body, self._gone = self._gone, before
        self._block(orelse)
        self._gone = join(after_body, self._gone)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            self._block([value] if key is None else [key, value])

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        self._comprehension(node.generators, node.elt)

    visit_SetComp = visit_ListComp
    visit_GeneratorExp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node.generators, node.key, node.value)

    def _comprehension(self, generators: Sequence[ast.comprehension], *made: ast.expr) -> None:
        self.visit(generators[0].iter)
        after = self._gone
        with self._within(comprehension_scope(generators, self._owner)):
            for index, generator in enumerate(generators):
                if index:
                    self.visit(generator.iter)
                self._block([generator.target, *generator.ifs])
            self._block(made)
        self._gone = after
