"""The policy file's alerts: rules, channels and routes.

    [[alerts]]                       # a rule: one of metric, fact, event
    name = "loss is high"
    metric = "loss"
    above = 5                        # or below; clear: only back at this value it is fine again
    clear = 4
    for = "2m"
    calm = "1m"                      # for how long it must be fine before it is over
    severity = "critical"            # info, warning (the default) or critical
    only = { group = ["vision", "nlp"] }
    labels = { team = "vision" }     # for routes
    text = "The loss of {job} is {value}."

    [[alerts]]
    name = "no new loss"
    metric = "loss"
    absent = "10m"

    [[alerts]]
    name = "store fills up"          # a built-in one: what is said here replaces what it has
    within = "4h"

    [[alerts]]
    name = "data waits"
    off = true

    [channels.ops]
    webhook = "https://ops.example.org/hooks/resilient"

    [channels.mail]
    email = ["vision-oncall@example.org"]
    from = "resilient@example.org"
    server = "mail.example.org:587"
    user = "resilient"
    password_file = "/etc/resilient/mail"

    [channels.page]
    command = ["/usr/local/bin/page", "--urgent"]

    [[routes]]                       # without routes each channel gets all alerts
    to = ["mail", "page"]
    severity = "critical"            # and worse
    only = { team = "vision" }

Rules, channels and routes may all be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resilient_nb.control import policy_values as v
from resilient_nb.control.policy_values import Wrong
from resilient_nb.core.alert_model import Kind, Rule, Severity
from resilient_nb.core.alert_rules import BUILT_IN, EVENTS, GAUGES, Channel, Route, with_defaults
from resilient_nb.core.policy import Policy

_SEVERITY = v.one_of(Severity, *(severity.value for severity in Severity))
#: A rule says one of these: what it looks at.
_WHAT = ("metric", "fact", "event")
_NAMES = {"for": "lasting"}
_BOUNDS = ("above", "below")


def rule(data: Any) -> Rule:
    """Return a rule of the file.

    Raises:
        Wrong: naming the key and what is allowed.
    """
    said: dict[str, Any] = v.table(
        dict, "", data, name=v.text, metric=v.text, fact=_known_fact, event=_known_event,
        above=v.number, below=v.number, clear=v.number, absent=v.span, within=v.span,
        calm=v.pause, severity=_SEVERITY, only=v.choices, by=v.texts, labels=v.labels,
        text=v.text, off=v.flag, **{"for": v.pause},
    )  # fmt: skip
    if "name" not in said:
        raise Wrong("name", "is missing: what the alert is called.")
    known = next((known for known in BUILT_IN if known.name == said["name"]), None)
    given = [key for key in _WHAT if key in said]
    if known is not None and not given:
        return _changed(known, said)
    if said.get("off") and not given:
        raise Wrong("name", f"{said['name']!r} is no built-in rule; there are: {_built_in()}.")
    if len(given) != 1:
        raise Wrong("", f"says what it looks at by one of: {', '.join(_WHAT)}.")
    return _new(given[0], said)


def _built_in() -> str:
    return ", ".join(known.name for known in BUILT_IN)


def _changed(known: Rule, said: Mapping[str, Any]) -> Rule:
    """Return a built-in rule with what is said of it."""
    fields = {_NAMES.get(key, key): value for key, value in said.items()}
    if "absent" in fields:
        raise Wrong("absent", f"can't be said of {known.name}; use `for`.")
    if known.bound is None and any(key in fields for key in (*_BOUNDS, "clear")):
        raise Wrong("name", f"{known.name!r} has no bound that could be another.")
    for key, other in (_BOUNDS, _BOUNDS[::-1]):
        if key in fields and getattr(known, key) is None:
            raise Wrong(key, f"can't be said of {known.name}, which has {other}.")
    changed = replace(known, **fields)
    if any(key in fields for key in _BOUNDS) and "clear" not in fields:
        changed = replace(changed, clear=None)
    _check_clear(changed)
    return changed


def _new(what: str, said: Mapping[str, Any]) -> Rule:
    fact = f"metric:{said['metric']}" if what == "metric" else said[what]
    kind = _kind(what, said)
    fields = {
        _NAMES.get(key, key): value for key, value in said.items() if key not in (*_WHAT, "absent")
    }
    if kind is Kind.ABSENCE:
        if what == "fact" and fact != "host_heard":
            raise Wrong("absent", f"can't be said of {fact}: only of a metric or of host_heard.")
        fields["lasting"] = said["absent"]
    made = Rule(fact=fact, kind=kind, **fields)
    _check_clear(made)
    return with_defaults(made)


def _kind(what: str, said: Mapping[str, Any]) -> Kind:
    bounds = [key for key in _BOUNDS if key in said]
    if what == "event":
        _refuse(said, (*_BOUNDS, "clear", "absent", "within", "for"), "an event just happens")
        return Kind.EVENT
    if "absent" in said:
        _refuse(said, (*_BOUNDS, "clear", "within", "for"), "absent has no bound")
        return Kind.ABSENCE
    if len(bounds) != 1:
        raise Wrong("", "needs a bound: one of above and below (or absent).")
    if "within" in said:
        _refuse(said, ("clear", "for"), "a trend has none")
        return Kind.TREND
    return Kind.THRESHOLD


def _refuse(said: Mapping[str, Any], keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if key in said:
            raise Wrong(key, f"makes no sense here: {why}.")


def _check_clear(made: Rule) -> None:
    if made.clear is None or made.bound is None:
        return
    if made.above is not None and made.clear > made.above:
        raise Wrong("clear", f"is {made.clear:g}; it is at most {made.above:g}, as `above` is.")
    if made.below is not None and made.clear < made.below:
        raise Wrong("clear", f"is {made.clear:g}; it is at least {made.below:g}, as `below` is.")


def _known_fact(value: Any) -> str:
    if value not in GAUGES:
        raise Wrong("", f"is {v.shown(value)}; there are: {', '.join(GAUGES)}.")
    return str(value)


def _known_event(value: Any) -> str:
    if value not in EVENTS:
        raise Wrong("", f"is {v.shown(value)}; there are: {', '.join(EVENTS)}.")
    return str(value)


# --- channels and routes ----------------------------------------------------------------------


def channel(data: Any) -> Channel:
    """Return a channel of the file.

    Raises:
        Wrong: naming the key and what is allowed.
    """
    said: dict[str, Any] = v.table(
        dict, "", data, webhook=_url, webhook_file=v.text, email=v.texts, server=_server,
        tls=v.one_of(str, "starttls", "tls", "none"), user=v.text, password_file=v.text,
        command=_command, timeout=v.span, **{"from": v.text},
    )  # fmt: skip
    kinds = [key for key in ("webhook", "webhook_file", "email", "command") if key in said]
    if len(kinds) != 1:
        raise Wrong("", "is one of: webhook, webhook_file, email, command.")
    timeout = said.get("timeout", 10.0)
    mail = ("from", "server", "tls", "user", "password_file")
    if kinds[0] != "email":
        _refuse(said, mail, "it is for email")
    match kinds[0]:
        case "webhook":
            return Channel("webhook", url=said["webhook"], timeout=timeout)
        case "webhook_file":
            return Channel("webhook", url_file=said["webhook_file"], timeout=timeout)
        case "command":
            return Channel("command", command=said["command"], timeout=timeout)
    return _email(said, timeout)


def _email(said: Mapping[str, Any], timeout: float) -> Channel:
    if "from" not in said:
        raise Wrong("from", "is missing: the address that mails come from.")
    if ("user" in said) != ("password_file" in said):
        raise Wrong("user", "and password_file belong together.")
    host, port = said.get("server", ("localhost", 25))
    here = host in ("localhost", "127.0.0.1", "::1")
    tls = said.get("tls", "none" if here else "starttls")
    if tls == "none" and "user" in said and not here:
        raise Wrong("tls", "is none: the password would be sent for all to read.")
    return Channel(
        "email", to=said["email"], sender=said["from"], host=host, port=port, tls=tls,
        user=said.get("user", ""), password_file=said.get("password_file", ""), timeout=timeout,
    )  # fmt: skip


def _url(value: Any) -> str:
    url = v.text(value)
    if not url.startswith(("http://", "https://")):
        raise Wrong("", f"is {v.shown(value)}; it is a URL: https://….")
    return url


def _server(value: Any) -> tuple[str, int]:
    host, _, port = v.text(value).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Wrong("", f'is {v.shown(value)}; it is host and port: "mail.example.org:587".')
    return host.strip("[]"), int(port)


def _command(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Wrong(
            "", f'is {v.shown(value)}; it is a program and its arguments: ["/bin/page", "-u"]. '
            "No shell looks at it."
        )  # fmt: skip
    return v.texts(value)


def route(data: Any) -> Route:
    """Return a route of the file.

    Raises:
        Wrong: naming the key and what is allowed.
    """
    made: dict[str, Any] = v.table(dict, "", data, to=v.texts, only=v.choices, severity=_SEVERITY)
    if "to" not in made:
        raise Wrong("to", "is missing: the channels.")
    return Route(**made)


def check_names(policy: Policy) -> None:
    """Refuse rules of the same name, and routes to channels that there aren't.

    Raises:
        Wrong: naming what is wrong.
    """
    names = [made.name for made in policy.alerts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Wrong("alerts", f"has {twice[0]!r} more than once.")
    for n, made in enumerate(policy.routes, 1):
        for name in made.to:
            if name not in policy.channels:
                known = ", ".join(policy.channels) or "none"
                raise Wrong(f"routes.{n}.to", f"names {name}; there are: {known}.")
