"""`python -m resilient_nb.supervisor FOLDER`: hold the folder's lock and serve its socket."""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import sys
from pathlib import Path

from resilient_nb.config import load_settings
from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.cgroups import find as find_groups
from resilient_nb.supervisor.children import become_subreaper
from resilient_nb.supervisor.loop import Supervisor
from resilient_nb.supervisor.output import lossy_text
from resilient_nb.supervisor.place import Place, listen
from resilient_nb.supervisor.shelf import drop as drop_shelf


def main() -> None:
    """Run the supervisor of a folder, unless one runs there already."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--orphan-grace", type=float, required=True)
    args = parser.parse_args()
    sys.stdout, sys.stderr = lossy_text(1), lossy_text(2)
    place = Place(args.folder)
    lock = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another one serves this folder
    scratch.sweep(place)
    place.pid.write_text(str(os.getpid()))
    become_subreaper()
    supervisor = Supervisor(place, listen(place.socket), lock, args.orphan_grace)
    supervisor.launching.load(args.entry, find_groups(load_settings().cgroup))
    gc.collect()
    gc.freeze()  # keep forks from copying pages that only the collector touches
    try:
        supervisor.run()
    finally:
        place.socket.unlink(missing_ok=True)
        place.pid.unlink(missing_ok=True)
        scratch.sweep(place)
        drop_shelf(place)


if __name__ == "__main__":
    main()
