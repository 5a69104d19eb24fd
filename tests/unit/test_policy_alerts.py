"""Alerts in the policy file: the documented example, and what is wrong with a bad one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resilient_nb.control import policy_alerts
from resilient_nb.control.policy_file import parse_policy
from resilient_nb.core.alert_model import Kind, Rule, Severity
from resilient_nb.core.alert_rules import BUILT_IN, Channel, Route, in_force
from resilient_nb.errors import InvalidRequest


def test_the_documented_example_is_what_it_says() -> None:
    lines = (policy_alerts.__doc__ or "").splitlines()
    policy = parse_policy("\n".join(line[4:] for line in lines if line.startswith("    ")), "p")
    loss, absent, fills, waits = policy.alerts
    assert loss == Rule(
        "loss is high", "metric:loss", Kind.THRESHOLD, Severity.CRITICAL, above=5.0, clear=4.0,
        lasting=120.0, calm=60.0, only={"group": ("vision", "nlp")}, labels={"team": "vision"},
        text="The loss of {job} is {value}.",
    )  # fmt: skip
    assert (absent.kind, absent.fact, absent.lasting) == (Kind.ABSENCE, "metric:loss", 600.0)
    built_in = {rule.name: rule for rule in BUILT_IN}
    assert fills.within == 4 * 3600
    assert fills.fact == built_in["store fills up"].fact
    assert waits.off
    assert policy.channels == {
        "ops": Channel("webhook", url="https://ops.example.org/hooks/resilient"),
        "mail": Channel(
            "email", to=("vision-oncall@example.org",), sender="resilient@example.org",
            host="mail.example.org", port=587, user="resilient",
            password_file="/etc/resilient/mail",
        ),
        "page": Channel("command", command=("/usr/local/bin/page", "--urgent")),
    }  # fmt: skip
    assert policy.routes == (Route(("mail", "page"), {"team": ("vision",)}, Severity.CRITICAL),)
    assert "data waits" not in {rule.name for rule in in_force(policy.alerts)}


def test_what_is_said_of_a_built_in_rule_replaces_only_that() -> None:
    text = "[[alerts]]\nname = 'memory near the limit'\nabove = 0.95\nseverity = 'critical'"
    [rule] = parse_policy(text, "p").alerts
    assert (rule.above, rule.clear, rule.severity) == (0.95, None, Severity.CRITICAL)
    assert rule.lasting == 10.0


def test_events_of_jobs_are_one_alert_for_a_run() -> None:
    text = "[[alerts]]\nname = 'again'\nevent = 'job_retried'"
    [rule] = parse_policy(text, "p").alerts
    assert (rule.kind, rule.by) == (Kind.EVENT, ("run",))


RULE = "[[alerts]]\nname = 'x'\n"


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("alerts = 3", "alerts", "list of tables"),
        ("[[alerts]]\nmetric = 'loss'", "alerts.1.name", "missing"),
        (RULE, "alerts.1", "metric, fact, event"),
        (RULE + "metric = 'a'\nfact = 'waiting'", "alerts.1", "one of"),
        (RULE + "fact = 'heat'\nabove = 1", "alerts.1.fact", "store_free"),
        (RULE + "event = 'boom'", "alerts.1.event", "job_failed"),
        (RULE + "event = 'job_failed'\nabove = 1", "alerts.1.above", "just happens"),
        (RULE + "event = 'job_failed'\nfor = '1m'", "alerts.1.for", "just happens"),
        (RULE + "metric = 'loss'", "alerts.1", "above and below"),
        (RULE + "metric = 'loss'\nabove = 1\nbelow = 0", "alerts.1", "one of above and below"),
        (RULE + "metric = 'loss'\nabove = 1\nclear = 2", "alerts.1.clear", "at most 1"),
        (RULE + "metric = 'loss'\nbelow = 1\nclear = 0", "alerts.1.clear", "at least 1"),
        (RULE + "metric = 'loss'\nabove = nan", "alerts.1.above", "number"),
        (RULE + "metric = 'loss'\nabove = 1\nfor = 'soon'", "alerts.1.for", '"30s"'),
        (RULE + "metric = 'loss'\nabsent = '1m'\nabove = 1", "alerts.1.above", "no bound"),
        (RULE + "fact = 'waiting'\nabsent = '1m'", "alerts.1.absent", "host_heard"),
        (RULE + "metric = 'loss'\nabove = 1\nwithin = '1h'\nfor = '1m'", "alerts.1.for", "trend"),
        (RULE + "metric = 'loss'\nabove = 1\nseverity = 'bad'", "alerts.1.severity", "critical"),
        (RULE + "metric = 'loss'\nabove = 1\nonly = 'me'", "alerts.1.only", "table"),
        (RULE + "metric = 'loss'\nabove = 1\nonly = {a = 1}", "alerts.1.only.a", "text"),
        (RULE + "metric = 'loss'\nabove = 1\nwho = 'me'", "alerts.1.who", "severity"),
        (RULE + "metric = 'loss'\nabove = 1\n" + RULE + "metric = 'b'\nabove = 1", "alerts", "'x'"),
        (RULE + "off = true", "alerts.1.name", "job failed"),
        ("[[alerts]]\nname = 'job failed'\nabove = 1", "alerts.1.name", "no bound"),
        ("[[alerts]]\nname = 'store fills up'\nabove = 1", "alerts.1.above", "below"),
        ("[channels.a]", "channels.a", "webhook, webhook_file, email, command"),
        ("[channels.a]\nwebhook = 'ftp://x'", "channels.a.webhook", "https://"),
        ("[channels.a]\nwebhook = 'https://x'\nuser = 'u'", "channels.a.user", "email"),
        ("[channels.a]\nemail = 'a@b'", "channels.a.from", "missing"),
        ("[channels.a]\nemail = 'a@b'\nfrom = 'c@d'\nuser = 'u'", "channels.a.user", "together"),
        ("[channels.a]\nemail = 'a@b'\nfrom = 'c@d'\nserver = 'x'", "channels.a.server", "port"),
        (
            "[channels.a]\nemail = 'a@b'\nfrom = 'c@d'\nserver = 'x:25'\nuser = 'u'\n"
            "password_file = 'f'\ntls = 'none'", "channels.a.tls", "for all to read",
        ),
        ("[channels.a]\ncommand = 'rm -rf /'", "channels.a.command", "No shell"),
        ("[[routes]]\nseverity = 'info'", "routes.1.to", "missing"),
        ("[[routes]]\nto = 'ops'", "routes.1.to", "none"),
    ],
)  # fmt: skip
def test_what_is_wrong_names_the_key_and_what_is_allowed(text: str, key: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_policy(text, "p")
    assert str(caught.value).startswith(f"Policy p: {key} "), caught.value
    assert said in str(caught.value)


def test_what_the_readme_shows_is_taken() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for block in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL):
        parse_policy(block, "README.md")


@pytest.mark.parametrize(
    ("server", "tls"), [("localhost:25", "none"), ("[::1]:25", "none"), ("mail.org:25", "starttls")]
)
def test_mail_that_leaves_the_machine_is_encrypted(server: str, tls: str) -> None:
    text = f"[channels.a]\nemail = 'a@b'\nfrom = 'c@d'\nserver = '{server}'"
    assert parse_policy(text, "p").channels["a"].tls == tls
