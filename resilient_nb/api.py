"""What Python code asks a cluster: its jobs, its runs, its queue."""

from __future__ import annotations

import time
from typing import Any

from resilient_nb import connection
from resilient_nb.client import Client, Tls
from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.core.querying import Query, parse_conditions, parse_states, parse_when
from resilient_nb.core.views import QueueReport
from resilient_nb.handles import Job, Run
from resilient_nb.tables import as_table
from resilient_nb.wire.codec import plain


def connect(
    address: str | None = None, *, ca_file: str = "", cert: str = "", key: str = ""
) -> Client:
    """Return the client of the cluster in use; with an address, connect to that one first.

    Args:
        address: the scheduler's, `tcp://host:8786` or `tls://host:8786`.
        ca_file: PEM file for `tls://`; what is left out comes from Dask's configuration.
        cert: PEM file of your certificate.
        key: PEM file of its key, if the certificate's has none.
    """
    if address is not None:
        connection.connect(address, Tls(ca_file, cert, key))
    return connection.current()


def jobs(run: str | None = None) -> list[Job]:
    """Return jobs, newest first, of one run or of all."""
    client = connection.current()
    return [Job(client, view.id, view) for view in client.jobs(run)]


def queue() -> QueueReport:
    """Return who runs, who waits and for what, and everybody's share of the cluster."""
    return connection.current().queue()


def alerts() -> AlertsReport:
    """Return the alerts that fire now, and those that are over."""
    return connection.current().alerts()


def query(
    *,
    run: str = "",
    user: str = "",
    state: str = "",
    metric: str = "",
    tag: str = "",
    cause: str = "",
    data: str = "",
    since: str | float | None = None,
    until: str | float | None = None,
    limit: int = 100,
    frame: bool | None = None,
) -> Any:
    """Return jobs in numbers, the newest first: `query(state="failed", since="2d")`.

    Args:
        run: only this run's.
        user: only this user's.
        state: one of these: "failed,cancelled".
        metric: what the newest values must be: "loss<0.3,accuracy>=0.9".
        tag: one of the job's checkpoints has it.
        cause: an attempt failed for a cause with these words: "memory".
        data: its checkpoints record data with this in its name or fingerprint.
        since: it waited or ran after this: "2d" (ago), "2026-11-25", or seconds since 1970.
        until: it waited or ran before this.
        limit: no more than so many jobs.
        frame: a pandas DataFrame (True) or a list of dicts (False); None: a DataFrame if there
            is pandas.

    Raises:
        InvalidRequest: a filter can't be read.
    """
    now = time.time()
    wanted = Query(
        run=run,
        user=user,
        states=parse_states(state) if state else (),
        metrics=parse_conditions(metric) if metric else (),
        tag=tag,
        cause=cause,
        data=data,
        since=parse_when(since, now) if isinstance(since, str) else since,
        until=parse_when(until, now) if isinstance(until, str) else until,
        limit=limit,
    )
    return as_table(map(plain, connection.current().find(wanted)), frame)


def runs() -> list[Run]:
    """Return all runs, newest first."""
    client = connection.current()
    return [Run(client, view.name) for view in client.runs()]


def run(name: str) -> Run:
    """Return a run by name.

    Raises:
        UnknownName: there is none.
    """
    client = connection.current()
    return Run(client, client.runs(name)[0].name)


def fork(ref: str, name: str) -> Run:
    """Begin a new run at a checkpoint; nothing is copied."""
    client = connection.current()
    client.fork(ref, name)
    return Run(client, name)
