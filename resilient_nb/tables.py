"""Rows for a notebook: a pandas DataFrame where there is pandas, else a list of dicts."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from resilient_nb.errors import InvalidRequest

#: Columns with times, in seconds since the Unix epoch.
_TIMES = frozenset({"submitted_at", "started_at", "ended_at", "at"})


def as_table(rows: Iterable[dict[str, Any]], frame: bool | None = None) -> Any:
    """Return rows as a DataFrame, or as they are.

    Args:
        rows: plain data; a dict in one becomes columns of its own: `metrics.loss`.
        frame: True for a DataFrame, False for a list of dicts, None for a DataFrame if there is
            pandas.

    Raises:
        InvalidRequest: a DataFrame is wanted and pandas isn't installed.
    """
    known = find_spec("pandas") is not None
    if frame and not known:
        raise InvalidRequest("A DataFrame needs pandas: pip install pandas, or say frame=False.")
    if not known or frame is False:
        return list(rows)
    import pandas

    table = pandas.json_normalize(list(rows))
    for name in _TIMES.intersection(table.columns):
        table[name] = pandas.to_datetime(table[name], unit="s", utc=True)
    return table
