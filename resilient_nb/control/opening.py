"""Opening the journal: whole, or as much of it as there is, or not yet.

A journal on a full or broken disk can't be opened, and one that is damaged only with what the store
knows. Until it can be, nothing is decided and nothing is lost: ranks go on, and what they do is
kept with them. Who asks is told why.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from resilient_nb.config import Settings
from resilient_nb.core.events import ClusterCreated, Event
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError, JournalDamaged, JournalFailed, ResilientError
from resilient_nb.storage import salvage
from resilient_nb.storage.claim import new_id, owner
from resilient_nb.storage.journal import SqliteJournal, check
from resilient_nb.storage.stores import open_store

logger = logging.getLogger(__name__)

#: Between two tries, the most that a check of the file may take, and what gangs wait for a
#: comparison with the store, in seconds.
AGAIN, CHECK, COMPARE = 2.0, 600.0, 5.0


@dataclass(frozen=True)
class Unopened:
    """There is no journal yet: why, and whose it is, if that is known."""

    why: ResilientError
    cluster_id: str


def open_journal(settings: Settings) -> SqliteJournal | Unopened:
    """Open the journal, and salvage what can be read of one that is damaged. May wait for a disk.

    Raises:
        ResilientError: a newer version wrote it: no time will mend that.
    """
    try:
        return _open(settings)
    except (JournalFailed, CheckpointError, OSError) as error:
        why = error if isinstance(error, JournalFailed) else JournalFailed(_unreachable(error))
        return Unopened(why, _owner(settings))


def problem(settings: Settings) -> str:
    """Return what a check of the whole file finds, in words, "" if nothing. It takes its time."""
    found = check(settings.journal, CHECK)
    if not found:
        return ""
    salvage.ask_for(settings.journal)
    return (
        f"The file of the journal {settings.journal} is damaged ({found}); all events can be read. "
        "It is written anew at the scheduler's next start: restart it soon."
    )


def catch_up(settings: Settings, world: World) -> list[Event]:
    """Return the events that a journal lacks which is older than the store. May wait for a disk."""
    try:
        if owner(open_store(settings.store)) != world.cluster_id:
            return []  # what is in it isn't ours
        return salvage.relapse(world, open_store(settings.runs))
    except (OSError, ResilientError) as error:
        logger.warning("resilient_nb: the store can't be compared with the journal: %s", error)
        return []


def _open(settings: Settings) -> SqliteJournal:
    path = settings.journal
    salvage.finish(path)
    if salvage.asked_for(path):
        _salvage(settings)
    try:
        return _whole(settings)
    except JournalDamaged as error:
        logger.error("resilient_nb: %s", error)
        _salvage(settings)
        return _whole(settings)


def _whole(settings: Settings) -> SqliteJournal:
    journal = SqliteJournal(settings.journal)
    try:
        if not journal.verify():
            journal.append([ClusterCreated(time.time(), new_id())])
    except BaseException:
        journal.close()
        raise
    return journal


def _salvage(settings: Settings) -> None:
    lost = salvage.salvage(settings.journal, open_store(settings.store), open_store(settings.runs))
    logger.error("resilient_nb: the journal was written anew%s", f": {lost}" if lost else "")


def _unreachable(error: Exception) -> str:
    return (
        f"The journal can't be opened, or the store not be read, without which a damaged journal "
        f"isn't mended: {error}. Nothing is started meanwhile, what runs goes on, and it is tried "
        f"again every {AGAIN:g} s."
    )


def _owner(settings: Settings) -> str:
    """Return the cluster's id as the store has it: ranks are found by it."""
    try:
        return owner(open_store(settings.store))
    except (OSError, ResilientError):
        return ""
