"""Who sends a request: the best evidence, and never the message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httpclient import HTTPClientError

from resilient_nb.control.identity import (
    Evidence,
    Hub,
    Identities,
    Identity,
    check_user,
    common_name,
    identify,
)
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, NotAllowed
from resilient_nb.processes import os_user
from resilient_nb.testing.fakes import ManualClock, fake_settings

maybe = st.sampled_from(["", "ada", "bob"])
evidences = st.builds(
    Evidence,
    certificate=maybe,
    hub=maybe,
    claim=maybe,
    owner=maybe,
    process=st.just("root"),
    needs_hub=st.booleans(),
)


def certificate(*names: str) -> dict[str, Any]:
    """Return a peer certificate as `ssl` gives it."""
    subject = [(("countryName", "CH"),), *((("commonName", name),) for name in names)]
    return {"subject": tuple(subject)}


class Comm:
    """A connection as the server sees it."""

    def __init__(self, *names: str, tls: bool = False) -> None:
        self.extra_info = {"peercert": certificate(*names)} if names or tls else {}


# --- the rule ---------------------------------------------------------------------------


@given(evidences)
def test_a_claim_never_counts_unless_it_is_trusted(evidence: Evidence) -> None:
    try:
        found = identify(evidence, trust_claims=False)
    except NotAllowed:
        return
    assert found.source != "claim"
    assert found.user in {evidence.certificate, evidence.hub, evidence.owner, evidence.process}


@given(evidences, st.booleans())
def test_a_certificate_beats_all_and_the_hub_all_others(evidence: Evidence, trust: bool) -> None:
    if evidence.certificate:
        assert identify(evidence, trust) == Identity(evidence.certificate, "certificate")
    elif evidence.hub:
        assert identify(evidence, trust) == Identity(evidence.hub, "hub")


@given(evidences, st.booleans())
def test_where_a_hub_is_asked_nobody_passes_for_the_schedulers_user(
    evidence: Evidence, trust: bool
) -> None:
    if evidence.needs_hub:
        try:
            assert identify(evidence, trust).source != "process"
        except NotAllowed as error:
            assert "JupyterHub" in str(error)  # noqa: PT017


def test_a_trusted_claim_beats_the_assumption_that_all_are_the_owner() -> None:
    evidence = Evidence(claim="ada", owner="root", process="root")
    assert identify(evidence, trust_claims=True) == Identity("ada", "claim")
    assert identify(evidence, trust_claims=False) == Identity("root", "owner")


def test_a_trusted_claim_must_be_a_name() -> None:
    with pytest.raises(InvalidRequest, match="you say you are"):
        identify(Evidence(claim="a b", process="root"), trust_claims=True)
    assert identify(Evidence(claim="a b", process="root"), False) == Identity("root", "process")


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada", "_svc", "ada@example.org", "a.b-c+d", "7of9", "x" * 64])
def test_names_that_can_be(name: str) -> None:
    assert check_user(name) == name
    assert common_name(certificate(name)) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "ada\n", "-a", "é", "a\x00", "x" * 65])
def test_names_that_can_not_be(name: str) -> None:
    with pytest.raises(InvalidRequest, match="letters, digits"):
        check_user(name)
    with pytest.raises(InvalidRequest, match="common name"):
        common_name(certificate(name))


def test_certificates_that_name_nobody_or_several() -> None:
    assert common_name(None) == ""
    assert common_name({}) == ""
    assert common_name(certificate()) == ""
    assert common_name(certificate("dask-internal")) == ""  # shared by a whole cluster
    with pytest.raises(InvalidRequest, match="2 common names"):
        common_name(certificate("ada", "bob"))


# --- connections --------------------------------------------------------------------------


def greeted(identities: Identities, comm: Comm, claim: str = "", token: str = "") -> bool:
    return asyncio.run(identities.hello(comm, claim, token))


def test_each_connection_has_its_own_identity(tmp_path: Any) -> None:
    identities = Identities(fake_settings(tmp_path))
    ada, bob, plain = Comm("ada"), Comm("bob"), Comm()
    assert not greeted(identities, bob, claim="root")
    assert identities.of(ada, False) == Identity("ada", "certificate")  # even without a hello
    assert identities.of(bob, True) == Identity("bob", "certificate")
    assert identities.of(plain, False) == Identity(os_user(), "process")


def test_the_policy_decides_about_claims_at_each_request(tmp_path: Any) -> None:
    identities, comm = Identities(fake_settings(tmp_path)), Comm()
    greeted(identities, comm, claim="ada")
    assert identities.of(comm, True).user == "ada"
    assert identities.of(comm, False).user == os_user()


def test_an_embedded_cluster_is_its_owners(tmp_path: Any) -> None:
    identities, comm = Identities(fake_settings(tmp_path, owner="eve")), Comm()
    assert not greeted(identities, comm, claim="ada")
    assert identities.of(comm, False) == Identity("eve", "owner")


class FakeHub:
    """JupyterHub's `GET /user`. Counts what it is asked."""

    def __init__(self, users: Mapping[str, str], code: int = 403) -> None:
        self.users, self.code = users, code
        self.asked: list[str] = []

    async def __call__(self, url: str, headers: Mapping[str, str]) -> bytes:
        self.asked.append(url)
        word, _, token = headers["Authorization"].partition(" ")
        assert word == "token"
        if token not in self.users:
            raise HTTPClientError(self.code)
        return f'{{"kind": "user", "name": "{self.users[token]}"}}'.encode()


def with_hub(tmp_path: Any, fake: FakeHub, clock: ManualClock | None = None) -> Identities:
    hub = Hub("http://hub/api/", fake, clock or ManualClock())
    return Identities(fake_settings(tmp_path), hub)


def test_the_hub_says_whose_a_token_is(tmp_path: Any) -> None:
    fake, clock = FakeHub({"t1": "ada", "t2": "bob"}), ManualClock()
    identities = with_hub(tmp_path, fake, clock)
    first, second, third = Comm(), Comm(), Comm()
    assert greeted(identities, first, claim="root")  # it wants a token
    assert not greeted(identities, first, "root", "t1")
    assert identities.of(first, False) == Identity("ada", "hub")
    assert not greeted(identities, second, "root", "t2")
    assert identities.of(second, False).user == "bob"
    assert fake.asked == ["http://hub/api/user"] * 2
    greeted(identities, third, "", "t1")
    assert len(fake.asked) == 2  # remembered
    clock.advance(301.0)
    greeted(identities, Comm(), "", "t1")
    assert len(fake.asked) == 3
    assert identities.of(first, False).user == "ada"  # a connection keeps its own


def test_without_the_hubs_word_nothing_goes(tmp_path: Any) -> None:
    identities, comm = with_hub(tmp_path, FakeHub({})), Comm()
    assert greeted(identities, comm, claim="root")
    with pytest.raises(NotAllowed, match="brought no token"):
        identities.of(comm, False)
    with pytest.raises(NotAllowed, match="doesn't know this notebook's token"):
        greeted(identities, comm, "root", "stolen")
    with pytest.raises(NotAllowed):
        identities.of(comm, False)


def test_a_certificate_needs_no_hub(tmp_path: Any) -> None:
    fake = FakeHub({})
    identities, comm = with_hub(tmp_path, fake), Comm("ada")
    assert not greeted(identities, comm, "", "anything")
    assert identities.of(comm, False) == Identity("ada", "certificate")
    assert fake.asked == []


def test_a_hub_that_is_down_is_said_to_be(tmp_path: Any) -> None:
    async def refuse(url: str, headers: Mapping[str, str]) -> bytes:
        raise ConnectionRefusedError("refused")

    identities = Identities(fake_settings(tmp_path), Hub("http://hub/api", refuse))
    with pytest.raises(ClusterUnreachable, match="can't ask JupyterHub"):
        greeted(identities, Comm(), "", "t")
    busy = with_hub(tmp_path, FakeHub({}, code=502))
    with pytest.raises(ClusterUnreachable, match="502"):
        greeted(busy, Comm(), "", "t")
