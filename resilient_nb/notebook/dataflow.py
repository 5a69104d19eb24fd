"""What a cell needs from the notebook: names that some path reads before it has assigned them.

Conservative in one direction: a name too many may be sent, never one too few. `flow` has the walk.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import CO_COROUTINE

from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.flow import Flow

_LOOKS_UP_BY_TEXT = frozenset({"exec", "eval", "globals", "locals", "vars"})


@dataclass(frozen=True)
class CellNames:
    """What a cell does with the notebook's names.

    Attributes:
        reads: Names that may be read before the cell assigned them, with the first line.
        optional: Those of `reads` that the usual course never reads: only if a loop runs no
            turn, a `with` block swallows an exception, or a function is called before the cell
            has made what it uses.
        guarded: Those of `reads` that the cell may do without: annotations, and reads inside
            a `try` that catches NameError.
        assigns: Names that the cell assigns or imports, on whatever path.
        deletes: Names that the cell deletes.
        settled: Names that are surely assigned or deleted when the cell ends.
        usually_settled: The same in the usual course.
        uses_run: Whether the cell reads the runtime's `run`.
        awaits: Whether the cell has top-level `await`, so that it runs as a coroutine.
        open_ended: Whether it has names that its text doesn't show (`import *`, exec, eval).
    """

    reads: Mapping[str, int]
    optional: frozenset[str]
    guarded: frozenset[str]
    assigns: frozenset[str]
    deletes: frozenset[str]
    settled: frozenset[str]
    usually_settled: frozenset[str]
    uses_run: bool
    awaits: bool
    open_ended: bool

    def given(self, names: Collection[str]) -> CellNames:
        """Return the same for a cell that gets these names from elsewhere before it begins."""
        given = frozenset(names)
        return replace(
            self,
            reads={name: line for name, line in self.reads.items() if name not in given},
            optional=self.optional - given,
            guarded=self.guarded - given,
            assigns=self.assigns | given,
            settled=self.settled | given,
            usually_settled=self.usually_settled | given,
        )


def analyse(source: str, filename: str) -> CellNames:
    """Find the names that a cell needs and makes.

    Line numbers are those of `source`. To get the notebook's, pass the whole cell with the magic
    line left blank.

    Raises:
        SyntaxError: as Python's compiler raises it.
        InvalidRequest: if the source, already transformed by IPython, has a magic or shell escape.
    """
    tree = ast.parse(source, filename)
    awaits = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    # Some errors (`return` at top level) show only here; nothing of this module's `from
    # __future__` may leak into the cell.
    code = compile(tree, filename, "exec", awaits, dont_inherit=True)
    _refuse_magics(tree)
    return replace(names_in(tree.body), awaits=bool(code.co_flags & CO_COROUTINE))


def names_in(body: Sequence[ast.AST]) -> CellNames:
    """Find the names that statements need and make; whether they await is not looked at.

    Raises:
        InvalidRequest: if they are nested too deeply.
    """
    try:
        sure = Flow().run(body)
        usual = Flow(made_by_cell=frozenset(sure.assigns)).run(body)
    except RecursionError as error:
        raise InvalidRequest(
            "The cell is nested too deeply to find the names that it uses. Split its longest "
            "expression or elif chain."
        ) from error
    reads = {name: line for name, line in sure.reads.items() if name != "run"}
    return CellNames(
        reads=reads,
        optional=frozenset(reads.keys() - usual.reads.keys()),
        guarded=frozenset(reads.keys() - sure.unguarded),
        assigns=frozenset(sure.assigns),
        deletes=frozenset(sure.deletes),
        settled=sure.settled(),
        usually_settled=usual.settled(),
        uses_run="run" in sure.reads,
        awaits=False,
        open_ended=sure.imports_star or bool(sure.reads.keys() & _LOOKS_UP_BY_TEXT),
    )


def _refuse_magics(tree: ast.Module) -> None:
    """Refuse what IPython makes of `%time`, `!ls` and the like."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=how),
                args=arguments,
            ):
                what = _as_typed(how, arguments)
            case ast.Call(func=ast.Name(id="get_ipython")):
                what = "get_ipython()"
            case _:
                continue
        raise InvalidRequest(
            f"line {node.lineno} uses a magic or shell escape (`{what}`); these don't exist in "
            "a rank. Put it in a cell of its own, or use subprocess for shell commands."
        )


def _as_typed(how: str, arguments: Sequence[ast.expr]) -> str:
    mark = {"run_line_magic": "%", "run_cell_magic": "%%"}.get(how)
    words = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if mark is not None and words:
        return f"{mark}{' '.join(words[:2])}".strip()
    if how in ("system", "getoutput") and words:
        return f"!{words[0]}"
    return f"get_ipython().{how}(…)"
