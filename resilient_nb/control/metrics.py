"""Measures on Dask's own `/metrics`, if `prometheus_client` is installed.

Dask's scheduler answers there with all that is in the client's default registry. It asks in the
scheduler's loop, so that the engine may be looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from resilient_nb.core.measures import Measure, Type, Waits, measures

if TYPE_CHECKING:
    from resilient_nb.control.alerting import Alerting
    from resilient_nb.control.engine import Engine

logger = logging.getLogger(__name__)


class Metrics:
    """A collector for one cluster. `close` takes it out of the registry."""

    _newest: Metrics | None = None

    def __init__(self, engine: Engine, alerting: Alerting) -> None:
        self._engine = engine
        self._alerting = alerting
        self._waits = Waits()
        if find_spec("prometheus_client") is None:
            return
        engine.listeners.append(self._waits.heard)
        from prometheus_client import REGISTRY

        # Of two schedulers in one process the newest answers, as Dask has it: measures that are
        # there twice would be none.
        if Metrics._newest is not None:
            Metrics._newest.close()
        Metrics._newest = self
        REGISTRY.register(self)

    def close(self) -> None:
        """Answer no more."""
        if Metrics._newest is self:
            from prometheus_client import REGISTRY

            REGISTRY.unregister(self)
            Metrics._newest = None

    def describe(self) -> list[Any]:
        """Return nothing, so that the registry needn't ask for values to know our names."""
        return []

    def collect(self) -> list[Any]:
        """Return all families, for the registry."""
        try:
            return list(self._families())
        except Exception:
            # Dask's own measures are on the same page.
            logger.exception("resilient_nb: there are no measures")
            return []

    def _families(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        engine = self._engine
        hosts = engine.hosts.views(engine.world)
        found = measures(engine.world, engine.live.rows, hosts, engine.now(), self._goodput)
        yield from (_family(measure) for measure in found)
        yield _family(self._alerting.measure())
        yield HistogramMetricFamily(
            "resilient_job_waiting_seconds",
            "How long jobs waited before they first started.",
            buckets=self._waits.buckets(),
            sum_value=self._waits.total,
        )

    def _goodput(self, job: str) -> float | None:
        known = self._engine.tallies.goodput(job, self._engine.now())
        return known.goodput if known is not None else None


def _family(measure: Measure) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if measure.type is Type.COUNTER else GaugeMetricFamily
    family = kind(measure.name, measure.help, labels=measure.labels)
    for labels, value in measure.rows:
        family.add_metric(labels, value)
    return family


def metrics_url(scheduler: Any) -> str:
    """Return where Dask's scheduler answers with measures, "" if nobody can ask it."""
    server = getattr(scheduler, "http_server", None)
    if server is None or find_spec("prometheus_client") is None:
        return ""
    host = server.address if server.address not in ("0.0.0.0", "::", "") else None
    host = host or scheduler.address.partition("://")[2].rpartition(":")[0]
    return f"http://{host}:{server.port}/metrics"
