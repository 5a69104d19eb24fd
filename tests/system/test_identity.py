"""Who a request comes from, on real connections: TLS, JupyterHub, claims."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import tornado.web
from distributed import LocalCluster
from distributed.security import Security

from cells import finish, submit
from certificates import Authority
from conftest import processes_of
from resilient_nb import connection
from resilient_nb.client import Client, Tls, keeps_secrets, security
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, NotAllowed
from resilient_nb.processes import os_user


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home apart from the session's cluster; nothing is left of it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESILIENT_NB_HOME", str(folder))
        patch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
        yield folder
        embedded.end_supervisors(folder)
        assert processes_of(folder) == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def address(home: Path, authority: Authority) -> Iterator[str]:
    """A TLS cluster of somebody else's, without our preloads."""
    site = authority.issue("site")
    safe = Security(
        require_encryption=True,
        tls_ca_file=site.ca_file,
        **{
            f"tls_{role}_{part}": getattr(site, part)
            for role in ("scheduler", "worker", "client")
            for part in ("cert", "key")
        },
    )
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tls://",
        security=safe,
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def ada(address: str, authority: Authority) -> Iterator[Client]:
    """Who has connected first, and so made the cluster ours."""
    connection.connect(address, authority.issue("ada"))
    yield connection.current()
    connection.current().close()
    connection.forget(load_settings())


# --- TLS ------------------------------------------------------------------------------------


def test_the_certificate_says_who_it_is(ada: Client) -> None:
    found = ada.identity()
    assert (found.user, found.source) == ("ada", "certificate")
    job = submit(ada, "by-ada", "print('hello')", workers=1, user="mallory")
    view = finish(ada, job)
    assert view.state is JobState.SUCCEEDED
    assert view.user == "ada"


def test_another_certificate_is_another_user(ada: Client, authority: Authority) -> None:
    bob = Client(ada.address, patience=0.0, tls=authority.issue("bob"))
    assert bob.identity().user == "bob"
    job = submit(ada, "adas", "import time\ntime.sleep(600)", workers=1)
    with pytest.raises(NotAllowed, match=r"ada.*bob"):
        bob.cancel(job)
    ada.cancel(job)
    assert finish(ada, job).state is JobState.CANCELLED
    assert finish(bob, submit(bob, "bobs", "pass", workers=1)).user == "bob"
    bob.close()


def test_a_certificate_for_no_user_is_refused(ada: Client, authority: Authority) -> None:
    odd = Client(ada.address, patience=0.0, tls=authority.issue("Ada <ada@x>; rm"))
    with pytest.raises(InvalidRequest, match="common name"):
        odd.cluster()


def test_a_strangers_certificate_does_not_connect(
    ada: Client, tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority(tmp_path).issue("ada")
    files = Tls(authority.file, stranger.cert, stranger.key)
    with pytest.raises(ClusterUnreachable):
        Client(ada.address, patience=0.0, tls=files).cluster()


def test_a_shell_goes_on_with_the_connection(ada: Client) -> None:
    command = [sys.executable, "-m", "resilient_nb.cli", "jobs", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)


def test_the_shell_connects_with_files(ada: Client, authority: Authority) -> None:
    eve = authority.issue("eve")
    command = [sys.executable, "-m", "resilient_nb.cli", "connect", ada.address]
    bare = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bare.returncode != 0
    assert "--ca-file" in bare.stderr
    files = ["--ca-file", eve.ca_file, "--cert", eve.cert, "--key", eve.key]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert connection.current().identity().user == "eve"
    connection.connect(ada.address, authority.issue("ada"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca_file": ""}, "no CA file is set"),
        ({"ca_file": "", "cert": ""}, "no CA file and certificate is set"),
        ({"cert": "/nowhere/me.pem"}, "certificate /nowhere/me.pem doesn't exist"),
        ({"key": ""}, "can't be used with its key"),
    ],
)
def test_bad_files_are_named(authority: Authority, change: dict[str, str], said: str) -> None:
    good = authority.issue("ada")
    files = Tls(**{"ca_file": good.ca_file, "cert": good.cert, "key": good.key, **change})
    with pytest.raises(InvalidRequest, match=said):
        Client("tls://127.0.0.1:1", patience=0.0, tls=files).cluster()


def test_dasks_own_configuration_will_do(ada: Client, authority: Authority) -> None:
    grace = authority.issue("grace")
    files = {"ca-file": grace.ca_file, "client.cert": grace.cert, "client.key": grace.key}
    with dask.config.set({f"distributed.comm.tls.{key}": f for key, f in files.items()}):
        client = Client(ada.address, patience=0.0)
        assert client.identity().user == "grace"
        client.close()
        assert security("tcp://127.0.0.1:1").require_encryption is False


# --- the policy file ----------------------------------------------------------------------------


def test_the_policy_is_read_again_without_a_restart(ada: Client, home: Path) -> None:
    file = home / "policy.toml"

    def alerts(of: str) -> bool:
        return any(of in text for text in ada.queue().alerts)

    file.write_text("grace = 'soon'")
    file.chmod(0o644)
    _until(lambda: alerts("grace is 'soon'"))
    file.write_text("grace = '3s'\nadmins = ['grace']")
    _until(lambda: not ada.queue().alerts)


def _until(condition: Any) -> None:
    while not condition():
        time.sleep(0.05)


# --- JupyterHub and claims ----------------------------------------------------------------------


class UserHandler(tornado.web.RequestHandler):
    """JupyterHub's `GET /hub/api/user`."""

    def get(self) -> None:
        """Answer the owner of the token, or 403."""
        users = {"token t-ada": "ada", "token t-bob": "bob"}
        name = users.get(self.request.headers.get("Authorization", ""))
        if name is None:
            self.set_status(403)
            self.finish({"status": 403})
        else:
            self.finish({"kind": "user", "name": name})


def bare_cluster() -> LocalCluster:
    """Return a scheduler of ours without workers."""
    return LocalCluster(
        n_workers=0,
        processes=False,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"preload": ["resilient_nb"]},
    )


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESILIENT_NB_HOME", str(tmp_path))
    return tmp_path


def test_jupyterhub_says_whose_a_notebook_is(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as hub:
        # Any loop will do to serve from; Dask's runs in a thread already.
        ports: list[int] = []

        async def serve() -> None:
            server = tornado.web.Application([("/hub/api/user", UserHandler)]).listen(
                0, "127.0.0.1"
            )
            ports.extend(s.getsockname()[1] for s in server._sockets.values())

        hub.sync(serve)
        monkeypatch.setenv("RESILIENT_NB_HUB_API", f"http://127.0.0.1:{ports[0]}/hub/api")
        with bare_cluster() as cluster:
            address = cluster.scheduler_address
            for token, user in (("t-ada", "ada"), ("t-bob", "bob")):
                monkeypatch.setenv("JUPYTERHUB_API_TOKEN", token)
                client = Client(address, patience=0.0)
                assert client.cluster().slots == 0
                found = client.identity()
                assert (found.user, found.source) == (user, "hub")
                client.close()
            monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "forged")
            with pytest.raises(NotAllowed, match="doesn't know"):
                Client(address, patience=0.0).cluster()
            monkeypatch.delenv("JUPYTERHUB_API_TOKEN")
            nobody = Client(address, patience=0.0)
            with pytest.raises(NotAllowed, match="asks JupyterHub"):
                nobody.cluster()
            assert nobody.identity().wants_token
            nobody.close()


def test_a_token_never_goes_over_an_open_line() -> None:
    for safe in ("tls://h:1", "wss://h:1", "tcp://127.0.0.1:1", "tcp://[::1]:1", "inproc://x"):
        assert keeps_secrets(safe), safe
    for opened in ("tcp://h:1", "tcp://10.0.0.1:1", "ws://h:1", "h:1", "tcp://127.0.0.1.evil:1"):
        assert not keeps_secrets(opened), opened


def test_claims_count_only_if_the_policy_says_so(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_home / "policy.toml"
    file.write_text("trust_claims = true")
    file.chmod(0o644)
    monkeypatch.setenv("RESILIENT_NB_USER", "carol")
    with bare_cluster() as cluster:
        client = Client(cluster.scheduler_address, patience=0.0)
        found = client.identity()
        assert (found.user, found.source) == ("carol", "claim")
        file.write_text("trust_claims = false")
        _until(lambda: client.identity().source == "process")
        assert client.identity().user == os_user()
        client.close()
