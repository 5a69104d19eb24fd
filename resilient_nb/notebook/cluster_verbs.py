"""The verbs about a cluster and all of its jobs: where it is, its queue, what happened.

What each returns is shown; see `execute`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient_nb import connection
from resilient_nb.client import Tls
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.recap import RecapReport
from resilient_nb.core.views import QueueReport
from resilient_nb.errors import ClusterUnreachable
from resilient_nb.notebook import alert_reports, queue_reports, recap_reports, reports
from resilient_nb.notebook.doctor import doctor
from resilient_nb.notebook.grammar import Arguments
from resilient_nb.notebook.panel import Rich


def _up(arguments: Arguments) -> Rich[Any]:
    settings = load_settings()
    connection.forget(settings)
    return _cluster(embedded.up(settings, arguments["workers"], print))


def _down(_: Arguments) -> str:
    embedded.down(load_settings(), print)
    return ""


def _connect(arguments: Arguments) -> Rich[Any]:
    files = (arguments[name] or "" for name in ("ca_file", "cert", "key"))
    return _cluster(connection.connect(arguments["address"], Tls(*files)))


def _status(_: Arguments) -> Rich[Any]:
    return _cluster(connection.current().cluster())


def _cluster(view: Any) -> Rich[Any]:
    return Rich(reports.cluster_text(view), reports.cluster_html(view), view)


def _doctor(_: Arguments) -> Rich[Any]:
    try:
        client = connection.current()
        view, you = client.cluster(), client.identity()
    except ClusterUnreachable as error:
        return doctor(load_settings(), None, str(error))
    return doctor(load_settings(), view, "", you)


def _queue(_: Arguments) -> Rich[QueueReport]:
    report = connection.current().queue()
    return Rich(queue_reports.queue_text(report), queue_reports.queue_html(report), report)


def _recap(arguments: Arguments) -> Rich[RecapReport]:
    user = "" if arguments["all"] else arguments["user"]
    report = connection.current().recap(arguments["since"], user)
    return Rich(recap_reports.recap_text(report), recap_reports.recap_html(report), report)


def _alerts(arguments: Arguments) -> Rich[Any]:
    client = connection.current()
    if arguments["test"]:
        tests = client.test_alerts()
        return Rich(alert_reports.outcomes_text(tests), alert_reports.outcomes_html(tests), tests)
    report = client.alerts()
    return Rich(alert_reports.alerts_text(report), alert_reports.alerts_html(report), report)


#: What runs each verb.
VERBS: dict[str, Callable[[Arguments], Any]] = {
    "up": _up,
    "down": _down,
    "connect": _connect,
    "status": _status,
    "workers": _status,
    "doctor": _doctor,
    "queue": _queue,
    "recap": _recap,
    "alerts": _alerts,
}
