"""How far a rank was is known when it is gone, and what the system said when it failed."""

from __future__ import annotations

import errno
import os

import pytest

from resilient_nb.core.model import Cell
from resilient_nb.errors import CheckpointError
from resilient_nb.rank.failure import pack_error
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.supervisor.reached import Reached
from resilient_nb.supervisor.seats import Seat
from resilient_nb.testing.builders import an_attempt


def test_the_last_step_outlives_the_process_that_made_it() -> None:
    seat = Seat(0, 1, 1)
    pid = os.fork()
    if pid == 0:
        Telemetry(an_attempt(), 0, seat.reached).step = 1 << 40
        os._exit(9)
    os.waitpid(pid, 0)
    assert seat.reached.step == 1 << 40
    assert Reached().step == 0  # each has its own
    assert seat == Seat(0, 1, 1)


def test_what_the_system_said_is_found_at_the_bottom_of_an_error() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert pack_error(full, Cell("pass")).errno == errno.ENOSPC
    with pytest.raises(CheckpointError) as raised:
        raise CheckpointError("It can't be written.") from full
    assert pack_error(raised.value, Cell("pass")).errno == errno.ENOSPC
    assert pack_error(ValueError("odd"), Cell("pass")).errno == 0
    assert pack_error(OSError("odd"), Cell("pass")).errno == 0
