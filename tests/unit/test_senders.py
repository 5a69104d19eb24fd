"""Telling people: a real web server, a real mail server and a real command take messages."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from resilient_nb.control.channels import NotSent, message, send
from resilient_nb.control.senders import Pace, Sender
from resilient_nb.core.alert_model import Alert, Severity, Stage
from resilient_nb.core.alert_rules import Channel

LOOPBACK = ipaddress.ip_address("127.0.0.1")

FIRING = Alert(
    "k", "memory near the limit", Severity.CRITICAL, {"job": "digits#1", "rank": "0"}, Stage.FIRING,
    1000.0, 1010.0, "Rank 0 of digits#1 uses 93 % of its memory limit.", 0.93,
)  # fmt: skip
OVER = Alert("k", "data waits", Severity.WARNING, {}, Stage.RESOLVED, 1000.0, 1060.0, "It waits.")


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; pytest-timeout bounds it."""
    while not condition():
        time.sleep(0.005)


class Hook:
    """A web server that keeps what is posted; it answers with the next of `answers`, or 200."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = hook.answers.pop(0) if hook.answers else 200
                if code == 200:
                    hook.got.append(json.loads(body))
                self.send_response(code)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(b"so it is")

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.close()


class Box(MessageHandler):
    """Keeps mails."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.mails.append(message)


def test_a_webhook_gets_what_alertmanager_would_send(hook: Hook) -> None:
    send(Channel("webhook", url=hook.url), "ops", [FIRING, OVER], "c1")
    [body] = hook.got
    assert (body["version"], body["status"], body["receiver"]) == ("4", "firing", "ops")
    firing, over = body["alerts"]
    assert firing["status"] == "firing"
    assert firing["startsAt"] == "1970-01-01T00:16:40.000+00:00"
    assert firing["endsAt"].startswith("0001-01-01")
    assert firing["labels"] == {
        "job": "digits#1", "rank": "0", "alertname": "memory near the limit",
        "severity": "critical", "cluster": "c1",
    }  # fmt: skip
    assert "93 %" in firing["annotations"]["description"]
    assert (over["status"], over["endsAt"]) == ("resolved", "1970-01-01T00:17:40.000+00:00")
    assert body["commonLabels"] == {"cluster": "c1"}
    assert message("ops", [OVER], "c1")["status"] == "resolved"


def test_a_webhooks_url_can_be_a_secret(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{hook.url}\n")
    channel = Channel("webhook", url_file=str(tmp_path / "url"))
    send(channel, "ops", [FIRING], "c1")
    assert hook.got
    assert channel.target == str(tmp_path / "url")
    assert Channel("webhook", url="https://u:p@x.org:1/secret").target == "x.org:1"


@pytest.mark.parametrize(
    "text", ["example.org/s3cret", "file:///s3cret", "http://x/s3cret\n# ours", "http://[x/s3cret"]
)
def test_a_secret_url_that_is_none_is_not_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "url").write_text(text)
    sender = Sender("ops", Channel("webhook", url_file=str(tmp_path / "url")), "c1")
    error = sender.test(FIRING).error
    assert error
    assert "s3cret" not in error


@pytest.mark.parametrize("code", [500, 404, 302])
def test_what_a_webhook_refuses_isnt_sent(hook: Hook, code: int) -> None:
    hook.answers = [code]
    with pytest.raises(NotSent, match=f"It answered {code}"):
        send(Channel("webhook", url=hook.url), "ops", [FIRING], "c1")
    assert hook.got == []


def test_nobody_there(tmp_path: Path) -> None:
    for channel in (
        Channel("webhook", url="http://127.0.0.1:9/", timeout=2.0),
        Channel("webhook", url_file=str(tmp_path / "nothing")),
        Channel("email", to=("a@b.c",), sender="d@e.f", host="127.0.0.1", port=9, tls="none"),
        Channel("command", command=(str(tmp_path / "nothing"),)),
    ):
        with pytest.raises(NotSent):
            send(channel, "ops", [FIRING], "c1")


def test_mail() -> None:
    box = Box()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    try:
        channel = Channel(
            "email", to=("a@b.c", "d@e.f"), sender="resilient@h.i", host="127.0.0.1", port=port,
            tls="none",
        )  # fmt: skip
        strange = Alert(
            "k", "loss\nBcc: x@y.z", Severity.INFO, {"job": "ä#1"}, Stage.FIRING, 0.0, 0.0, "Ö"
        )
        send(channel, "mail", [FIRING, OVER, strange], "c1")
    finally:
        server.stop()
    [mail] = box.mails
    assert mail["Subject"] == "[critical] memory near the limit: digits#1, rank 0 and 2 more"
    assert (mail["To"], mail["From"]) == ("a@b.c, d@e.f", "resilient@h.i")
    assert mail["Bcc"] is None
    payload = mail.get_payload(decode=True)
    assert isinstance(payload, bytes)
    text = payload.decode()
    assert "Rank 0 of digits#1 uses 93 % of its memory limit." in text
    assert "[resolved] data waits" in text
    assert "Ö" in text


def test_a_header_of_a_mail_is_one_line() -> None:
    from resilient_nb.control.channels import _subject

    bad = Alert("k", "a\r\nBcc: x@y.z", Severity.INFO, {"job": "b\nc"}, Stage.FIRING, 0.0, 0.0)
    assert _subject([bad]) == "[info] a Bcc: x@y.z: b c"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_command_gets_json_on_its_input_and_no_shell(tmp_path: Path) -> None:
    copy = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    program = script(tmp_path / "page", copy)
    out = tmp_path / "$(touch hacked); out"
    send(Channel("command", command=(program, str(out))), "page", [FIRING], "c1")
    assert json.loads(out.read_text())["alerts"][0]["labels"]["job"] == "digits#1"
    assert not (tmp_path / "hacked").exists()


def test_a_command_that_fails_or_hangs_says_so(tmp_path: Path) -> None:
    bad = script(tmp_path / "bad", "import sys; sys.exit('no paper')")
    with pytest.raises(NotSent, match=r"ended with 1\. no paper"):
        send(Channel("command", command=(bad,)), "page", [FIRING], "c1")
    slow = script(tmp_path / "slow", "import time; time.sleep(60)")
    with pytest.raises(NotSent, match="timed out"):
        send(Channel("command", command=(slow,), timeout=0.3), "page", [FIRING], "c1")


# --- the thread ---------------------------------------------------------------------------------


def a_sender(hook: Hook, give_up: float = 3600.0) -> Sender:
    return Sender("ops", Channel("webhook", url=hook.url), "c1", Pace(0.0, 0.01, 0.01, give_up))


def test_what_isnt_taken_is_sent_again(hook: Hook) -> None:
    hook.answers = [500, 503]
    sender = a_sender(hook)
    sender.send(FIRING)
    until(lambda: hook.got)
    until(lambda: not sender.waiting())
    assert sender.trouble == ""
    assert sender.view().sent == 1
    assert sender.view().to.startswith("127.0.0.1")
    sender.close()


def test_a_channel_that_fails_says_why_and_keeps_what_waits(hook: Hook) -> None:
    hook.answers = [500] * 10_000
    sender = a_sender(hook)
    sender.send(FIRING)
    sender.send(OVER)
    until(lambda: sender.trouble)
    assert "Alerts can't be sent by ops: It answered 500" in sender.trouble
    assert sender.waiting() == (FIRING, OVER)
    sender.close()


def test_what_is_refused_for_too_long_holds_up_nothing_else(hook: Hook) -> None:
    hook.answers = [400] * 100
    sender = a_sender(hook, give_up=0.05)
    sender.send(FIRING)
    until(lambda: not sender.waiting())
    assert sender.view().sent == 0
    hook.answers = []
    sender.send(OVER)
    until(lambda: hook.got)
    sender.close()


def test_a_storm_is_few_messages(hook: Hook) -> None:
    hook.answers = [500]
    sender = a_sender(hook)
    for n in range(200):
        sender.send(replace(FIRING, at=float(n)))
    until(lambda: not sender.waiting())
    assert len(hook.got) <= 200 // 50 + 2
    assert sum(len(body["alerts"]) for body in hook.got) == 200
    sender.close()


def test_a_test_is_sent_at_once(hook: Hook) -> None:
    sender = a_sender(hook)
    assert sender.test(FIRING).error == ""
    hook.answers = [401]
    assert "401" in sender.test(FIRING).error


# --- mail over TLS --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(tz=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "mail.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, *plain))
    return file


def secure(box: Box, certificate: Path) -> Controller:
    """Return a mail server that takes mails only after STARTTLS and a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def check(*arguments: Any) -> AuthResult:
        login = arguments[-1]
        right = (login.login, login.password) == (b"resilient", b"secret")
        return AuthResult(success=right, handled=False)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Controller(
        box, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True,
        auth_required=True, authenticator=check,
    )  # fmt: skip


def test_a_password_goes_only_to_a_server_that_is_who_it_says(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("secret\n")
    box = Box()
    server = secure(box, certificate)
    server.start()
    try:
        channel = Channel(
            "email", to=("a@b.c",), sender="d@e.f", host="127.0.0.1", port=server.port,
            user="resilient", password_file=str(tmp_path / "password"),
        )  # fmt: skip
        with pytest.raises(NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            send(channel, "mail", [FIRING], "c1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        send(channel, "mail", [FIRING], "c1")
        (tmp_path / "password").write_text("wrong")
        with pytest.raises(NotSent, match="Authentication"):
            send(channel, "mail", [FIRING], "c1")
    finally:
        server.stop()
    assert len(box.mails) == 1
