"""The network between the scheduler and a host is cut, in a network namespace (needs root)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from resilient_nb.core.model import JobState
from tests.fault_hosts import hosts
from tests.fault_world import Seen, until

_HERE, _THERE = "10.213.7.1", "10.213.7.2"


@dataclass(frozen=True)
class Link:
    """A network namespace, and the cable to it."""

    name: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Let nothing through, and say so to nobody."""
        _ip("link", "set", self.name, "down")

    def mend(self) -> None:
        """Let everything through again."""
        _ip("link", "set", self.name, "up")


def possible() -> str:
    """Return why this can't be done here, "" if it can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "it needs root and ip(8)"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "there can be no network namespaces here"


@contextlib.contextmanager
def link() -> Iterator[Link]:
    """A namespace that is reached by one cable, of which nothing stays."""
    name = f"rnb{os.getpid() % 100_000}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{_HERE}/30", "dev", name)
        _ip("link", "set", name, "up")
        for words in (f"addr add {_THERE}/30 dev eth0", "link set eth0 up", "link set lo up"):
            _ip("-n", name, *words.split())
        yield Link(name)
    finally:
        _ip("netns", "del", name)  # and the cable with it


def network_cut() -> Seen:
    """A host is cut off; its job goes on elsewhere, and what comes back later is turned away.

    It is detected when a notebook says so; its ranks count as lost only after a grace time.
    """
    with link() as cable, hosts(_HERE) as (scene, site):
        site.host("far", *cable.inside)
        until(lambda: any(h.warm for h in scene.client.cluster().hosts), what="no host came")
        job = scene.loop("cut", steps=600, pause=0.05, workers=1)
        job.step(15)
        site.host("near")
        until(lambda: len([h for h in scene.client.cluster().hosts if h.warm]) == 2)
        cable.cut()
        struck = time.time()
        _, told = job.said("doesn't answer")
        seen = replace(job.seen(struck, patience=90.0), detected_s=told - struck)
        view = job.when(lambda v: v.state is JobState.RUNNING and v.attempts == 2)
        reached = view.step
        wrong = "" if view.ranks[0].host == "near" else f"it went on on {view.ranks[0].host}"
        cable.mend()  # the old attempt comes back, and must do no harm
        view = job.when(lambda v: v.step >= reached + 60)
        wrong = wrong or ("" if view.attempts == 2 else f"{view.attempts} attempts")
        wrong = wrong or ("" if scene.replays() else "the journal tells another world")
        return replace(seen, wrong=seen.wrong or wrong)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
