"""Telling people: one message to a webhook, by e-mail, or to a command. Blocking; for threads.

A webhook gets what Alertmanager would send it (version 4), so that what takes its alerts takes
ours. A command gets the same JSON on its input; no shell looks at it, and nothing that comes from
jobs is among its arguments.
"""

from __future__ import annotations

import smtplib
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from hashlib import sha256
from http.client import HTTPMessage, InvalidURL
from pathlib import Path
from typing import IO, Any

from resilient_nb.core.alert_model import Alert, Stage
from resilient_nb.core.alert_rules import Channel
from resilient_nb.core.alert_words import subject
from resilient_nb.wire.codec import to_json

#: Of what a failing command or server says, so much is repeated.
_SAID = 200


class NotSent(Exception):
    """A message wasn't taken; `str` says why."""


def send(channel: Channel, name: str, alerts: Sequence[Alert], cluster: str) -> None:
    """Send alerts as one message.

    Args:
        channel: by which way.
        name: what the policy file calls it.
        alerts: each as it fires or is over.
        cluster: where they come from.

    Raises:
        NotSent: with the reason; another try may do.
    """
    try:
        match channel.kind:
            case "webhook":
                _post(channel, message(name, alerts, cluster))
            case "email":
                _mail(channel, alerts, cluster)
            case "command":
                _run(channel, message(name, alerts, cluster))
            case _:
                raise NotSent(f"There is no kind of channel {channel.kind!r}.")
    except NotSent:
        raise
    except (OSError, smtplib.SMTPException, subprocess.SubprocessError, ValueError) as error:
        raise NotSent(f"{type(error).__name__}: {error}") from error


def message(name: str, alerts: Sequence[Alert], cluster: str) -> dict[str, Any]:
    """Return alerts in Alertmanager's form."""
    rows = [_row(alert, cluster) for alert in alerts]
    firing = any(alert.stage is Stage.FIRING for alert in alerts)
    return {
        "version": "4",
        "groupKey": f"resilient_nb/{cluster}",
        "receiver": name,
        "status": "firing" if firing else "resolved",
        "truncatedAlerts": 0,
        "groupLabels": {},
        "commonLabels": _common([row["labels"] for row in rows]),
        "commonAnnotations": _common([row["annotations"] for row in rows]),
        "externalURL": "",
        "alerts": rows,
    }


def _row(alert: Alert, cluster: str) -> dict[str, Any]:
    labels = {
        **alert.labels,
        "alertname": alert.rule,
        "severity": alert.severity.value,
        "cluster": cluster,
    }
    over = alert.stage is Stage.RESOLVED
    return {
        "status": "resolved" if over else "firing",
        "labels": labels,
        "annotations": {"summary": headline(alert), "description": alert.text},
        "startsAt": _time(alert.since),
        # What Alertmanager says of an alert that isn't over.
        "endsAt": _time(alert.at) if over else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": sha256(f"{cluster} {alert.key}".encode()).hexdigest()[:16],
        "value": alert.value,
        "count": alert.count,
    }


def headline(alert: Alert) -> str:
    """Return an alert in a few words."""
    of = subject(alert.labels)
    return f"{alert.rule}: {of}" if of else alert.rule


def _common(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first = tables[0] if tables else {}
    return {k: v for k, v in first.items() if all(table.get(k) == v for table in tables)}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


# --- ways -------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would arrive as a GET, without its body."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _post(channel: Channel, body: Mapping[str, Any]) -> None:
    url = _secret(channel.url_file) if channel.url_file else channel.url
    headers = {"Content-Type": "application/json", "User-Agent": "resilient_nb"}
    if not url.startswith(("http://", "https://")):
        raise NotSent(f"What {channel.url_file} holds is no URL.")
    try:
        request = urllib.request.Request(url, to_json(body), headers)
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=channel.timeout) as answer:
            answer.read(_SAID)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(_SAID).decode(errors="replace").strip()
        raise NotSent(f"It answered {error.code} {error.reason}. {said}".strip()) from error
    except (ValueError, InvalidURL):
        # These repeat the URL, which may be a secret, and everybody reads what is wrong.
        raise NotSent("Its URL is not valid.") from None


def _mail(channel: Channel, alerts: Sequence[Alert], cluster: str) -> None:
    mail = EmailMessage()
    mail["From"] = channel.sender
    mail["To"] = ", ".join(channel.to)
    mail["Subject"] = _subject(alerts)
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain="resilient-nb.invalid")
    mail["Auto-Submitted"] = "auto-generated"  # so that nobody's absence note answers
    mail.set_content("\n\n".join(_paragraph(alert) for alert in alerts) + f"\n\n-- \n{cluster}\n")
    secure = ssl.create_default_context()
    if channel.tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            channel.host, channel.port, timeout=channel.timeout, context=secure
        )
    else:
        server = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout)
    with server:
        if channel.tls == "starttls":
            server.starttls(context=secure)
        if channel.user:
            server.login(channel.user, _secret(channel.password_file))
        server.send_message(mail)


def _subject(alerts: Sequence[Alert]) -> str:
    worst = max(alerts, key=lambda alert: (alert.stage is Stage.FIRING, alert.severity.rank))
    state = worst.severity.value if worst.stage is Stage.FIRING else "resolved"
    more = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    # A header has one line, whatever a rule or a job is called.
    return " ".join(f"[{state}] {headline(worst)}{more}".split())[:200]


def _paragraph(alert: Alert) -> str:
    since = datetime.fromtimestamp(alert.since).astimezone().isoformat(" ", "seconds")
    state = "resolved" if alert.stage is Stage.RESOLVED else alert.severity.value
    times = f", {alert.count} times" if alert.count > 1 else ""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(alert.labels.items()))
    lines = [f"[{state}] {headline(alert)}", alert.text, f"since {since}{times}", labels]
    return "\n".join(line for line in lines if line)


def _run(channel: Channel, body: Mapping[str, Any]) -> None:
    done = subprocess.run(
        channel.command,
        input=to_json(body),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=channel.timeout,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr[-_SAID:].decode(errors="replace").strip()
        raise NotSent(f"{channel.command[0]} ended with {done.returncode}. {said}".strip())


def _secret(path: str) -> str:
    return Path(path).expanduser().read_text().strip()
