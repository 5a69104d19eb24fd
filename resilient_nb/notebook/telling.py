"""Telling how far a verb is that takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable

from resilient_nb.notebook.grammar import Arguments


def teller(arguments: Arguments) -> Callable[[str], None]:
    """Return what prints a line beside a verb's answer; where that is JSON, nothing."""

    def say(text: str) -> None:
        if not arguments["json"]:
            print(text, file=sys.stderr)

    return say
