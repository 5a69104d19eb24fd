"""Runs a verb, the same for `%resilient` and the shell's `resilient`.

A verb returns what is shown: a `Rich` (text and HTML of a view), a text, or, for `load`, the
state itself. With `--json` the text is JSON whose schema `schema` prints.
"""

from __future__ import annotations

import re
from typing import Any

from resilient_nb.errors import CorruptCheckpoint, InvalidRequest
from resilient_nb.notebook import checkpoint_verbs, cluster_verbs, job_verbs
from resilient_nb.notebook.grammar import Arguments
from resilient_nb.notebook.options import Command, help_text
from resilient_nb.notebook.panel import Rich
from resilient_nb.wire.codec import plain, schema, to_json
from resilient_nb.wire.requests import REPORTS


def execute(command: Command, shell: Any = None) -> Any:
    """Run a verb and return what to show.

    Args:
        command: what was typed, parsed.
        shell: the IPython shell, or None in a terminal.

    Raises:
        ResilientError: with what is wrong and what to do.
    """
    if command.verb == "help":
        topic = command.arguments.get("topic")
        text = help_text(str(topic) if topic else None, "magic" if shell else "shell")
        return _said(text, shell)
    arguments = command.arguments
    if command.verb == "panel" and shell is None:
        raise InvalidRequest("`panel` needs a notebook; in a terminal use show or logs --follow.")
    if command.verb == "load" and shell is None and not arguments.get("json"):
        return checkpoint_verbs.summary(arguments)
    result = _VERBS[command.verb](arguments)
    if shell is None and command.verb == "verify" and result.data.damaged:
        raise Unsound(_shown(result, arguments))
    if shell is None and arguments.get("test") and any(test.error for test in result.data):
        raise Unsound(_shown(result, arguments))
    if arguments.get("json"):
        return _said(_shown(result, arguments), shell)
    if isinstance(result, str):
        return _said(result, shell)
    if command.verb in ("why", "verify", "retry", "dead", "recap") and shell is None:
        return _shown(result, arguments)
    return result


class Unsound(CorruptCheckpoint):
    """Checkpoints are damaged, or alerts can't be sent. What is to be printed is its text."""


def _shown(result: Rich[Any], arguments: Arguments) -> str:
    """Return what a shell prints."""
    if arguments.get("json"):
        return to_json(plain(result.data)).decode()
    return for_shell(result.text)


def _said(text: str, shell: Any) -> str | None:
    """Print in a notebook, where a returned string would be shown as a repr."""
    if shell is None:
        return text
    if text:
        print(text)
    return None


def for_shell(text: str) -> str:
    """Return what is to be pasted as a shell takes it."""
    return re.sub(r"(?<!%)%resilient ", "resilient ", text)


def _schema(_: Arguments) -> str:
    return to_json(schema(*REPORTS)).decode()


_VERBS = {
    **cluster_verbs.VERBS,
    **job_verbs.VERBS,
    **checkpoint_verbs.VERBS,
    "schema": _schema,
}
