"""What ranks print when the disk of their logs is full."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from resilient_nb.supervisor.output import lossy_text


def test_a_full_disk_drops_what_is_printed_and_raises_nothing() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    out = lossy_text(full)
    with contextlib.closing(out):
        for n in range(3):
            print("step", n, file=out)
        print("x" * 100_000, file=out, flush=True)
    os.close(full)  # it was left open


def test_lines_are_there_at_once_and_odd_characters_too(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    out = lossy_text(fd)
    print("äöü \udcff", file=out)
    assert (tmp_path / "log").read_text() == "äöü \\udcff\n"
    out.close()
    os.close(fd)


def test_other_errors_are_raised(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    out = lossy_text(writes)
    with pytest.raises(BrokenPipeError):
        print("x", file=out)
    with contextlib.suppress(BrokenPipeError):
        out.close()
    os.close(writes)
