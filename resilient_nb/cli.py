"""The shell command `resilient`: the verbs of `%resilient`."""

from __future__ import annotations

import sys

from resilient_nb._version import __version__
from resilient_nb.errors import InvalidRequest, ResilientError
from resilient_nb.notebook.execute import Unsound, execute, for_shell
from resilient_nb.notebook.options import parse_arguments
from resilient_nb.wire.codec import to_json


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return 0, 1 if it could not be done, or 2 if the request was wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if shown := _shown(words):
            print(shown)
        return 0
    except Unsound as report:
        print(report)
        return 1
    except ResilientError as error:
        if "--json" in words:
            print(to_json({"error": error.to_wire()}).decode())
        else:
            print(f"resilient: {for_shell(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has left: nobody to tell
        return 1
    except KeyboardInterrupt:
        return 130


def _shown(words: list[str]) -> str:
    """Return what to print."""
    if words[:1] == ["--version"]:
        return f"resilient_nb {__version__}"
    if words[:1] == ["simulate"]:
        return _simulate(words[1:])
    shown = execute(parse_arguments(words))
    text = "" if shown is None else str(shown)
    # What ranks have printed is theirs, and what programs read isn't for pasting.
    return text if "--json" in words or words[0:1] == ["logs"] else for_shell(text)


def _simulate(words: list[str]) -> str:
    """Run the simulator; it needs numpy and no cluster, so only this verb imports it."""
    from resilient_nb.simulator.command import main as simulate

    return simulate(words)


if __name__ == "__main__":
    sys.exit(main())
