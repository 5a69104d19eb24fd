"""Which names a function's body binds, so that the rest are known to be the notebook's."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Kind(Enum):
    """The kinds of scope that look names up differently."""

    MODULE = auto()
    CLASS = auto()
    FUNCTION = auto()
    COMPREHENSION = auto()


@dataclass(frozen=True)
class Scope:
    """One scope: what it binds itself, what it declares `global`.

    `unbound` are those of `bound` that are deleted somewhere. `owner` is the class in whose text
    the scope is: there `__x` is spelled `_Owner__x`. `serial` tells apart the names of two classes.
    """

    kind: Kind
    bound: frozenset[str] = frozenset()
    declared_global: frozenset[str] = frozenset()
    unbound: frozenset[str] = frozenset()
    owner: str = ""
    serial: int = 0


def mangled(name: str, owner: str) -> str:
    """Return the name as Python looks it up in the text of the class `owner`."""
    owner = owner.lstrip("_")
    if not owner or not name.startswith("__") or name.endswith("__"):
        return name
    return f"_{owner}{name}"


def function_scope(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, owner: str) -> Scope:
    """Return the scope of a function's body, with its parameters."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    body = [node.body] if isinstance(node, ast.Lambda) else node.body
    found = _bindings(body)
    found.bound.update(argument.arg for argument in every)
    return _scope(Kind.FUNCTION, found, owner)


def class_scope(node: ast.ClassDef, serial: int) -> Scope:
    """Return the scope of a class body."""
    return _scope(Kind.CLASS, _bindings(node.body), node.name, serial)


def comprehension_scope(generators: Iterable[ast.comprehension], owner: str) -> Scope:
    """Return the scope of a comprehension: its targets and nothing else."""
    targets = _bindings([generator.target for generator in generators])
    return _scope(Kind.COMPREHENSION, targets, owner)


def type_parameter_scope(parameters: Iterable[ast.AST], owner: str) -> Scope:
    """Return the scope that `def f[T]` puts around a function or class."""
    names = {getattr(parameter, "name", "") for parameter in parameters}
    return _scope(Kind.FUNCTION, _Found(bound=names), owner)


def imported_names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield what an import binds: `a` for `import a.b`; nothing for `*`."""
    for alias in node.names:
        if alias.name != "*":
            yield alias.asname or alias.name.partition(".")[0]


@dataclass
class _Found:
    bound: set[str] = field(default_factory=set)
    declared_global: set[str] = field(default_factory=set)
    nonlocals: set[str] = field(default_factory=set)
    unbound: set[str] = field(default_factory=set)


def _scope(kind: Kind, found: _Found, owner: str, serial: int = 0) -> Scope:
    local = found.bound - found.declared_global - found.nonlocals
    bound, declared, unbound = (
        frozenset(mangled(name, owner) for name in names)
        for names in (local, found.declared_global, found.unbound)
    )
    return Scope(kind, bound, declared, unbound, owner, serial)


def _bindings(body: Iterable[ast.AST]) -> _Found:
    """Collect what these nodes bind in their own scope, not in those nested in it."""
    found = _Found()
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        _bind(node, found)
        waiting.extend(_same_scope(node))
    return found


def _bind(node: ast.AST, found: _Found) -> None:
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            found.bound.add(name)
        case ast.Name(id=name, ctx=ast.Del()):
            found.bound.add(name)
            found.unbound.add(name)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            found.bound.add(name)
        case ast.ClassDef(name=name):
            found.bound.add(name)
        case ast.ExceptHandler(name=str(name)):
            found.bound.add(name)
            found.unbound.add(name)  # Python deletes it at the handler's end
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            found.bound.add(name)
        case ast.MatchMapping(rest=str(name)):
            found.bound.add(name)
        case ast.Import() | ast.ImportFrom():
            found.bound.update(imported_names(node))
        case ast.Global(names=names):
            found.declared_global.update(names)
        case ast.Nonlocal(names=names):
            found.nonlocals.update(names)


def _same_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the children that are in the node's scope: of a nested scope, only its outside."""
    if isinstance(node, FUNCTIONS):
        yield node.args
        if not isinstance(node, ast.Lambda):
            yield from node.decorator_list
    elif isinstance(node, ast.ClassDef):
        yield from (*node.decorator_list, *node.bases, *node.keywords)
    elif isinstance(node, ast.comprehension):
        # Only a walrus binds out of a comprehension; its targets are its own.
        yield from (node.iter, *node.ifs)
    else:
        yield from ast.iter_child_nodes(node)
