"""A small `make kills`: gradients under way, data-loading processes, kills amid saves."""

from __future__ import annotations

import random
from pathlib import Path

from resilient_nb.client import Client
from tests.kills import Campaign


def test_random_kills_change_no_bit(client: Client, home: Path) -> None:
    campaign = Campaign(client, home, random.Random(2))
    campaign.run(2, sharded=False, most=4)
    assert campaign.unequal == []
    assert campaign.killed >= 2
