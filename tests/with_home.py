"""Run a command with a home folder of its own; end its cluster and remove the folder afterwards.

python tests/with_home.py COMMAND ...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile


def main() -> int:
    """Return the command's exit code."""
    home = tempfile.mkdtemp(prefix="rnb-")
    env = {**os.environ, "RESILIENT_NB_HOME": home}
    try:
        return subprocess.call(sys.argv[1:], env=env)
    finally:
        # Exit code 1 only says that nothing was up any more.
        subprocess.call(
            [sys.executable, "-m", "resilient_nb.cli", "down"], env=env, stderr=subprocess.DEVNULL
        )
        shutil.rmtree(home)


if __name__ == "__main__":
    sys.exit(main())
