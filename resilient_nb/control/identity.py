"""Who sent a request, as the server knows it: never what the message itself says.

Best evidence first: the name in the connection's TLS certificate; what JupyterHub says about
the token that the connection began with; the claim, where the administrator's policy says that
claims are to be trusted; the OS user that an embedded cluster belongs to; the OS user that runs
the scheduler. Of an embedded or an unsecured cluster everybody is one user: this keeps accounts
between people who trust each other and stops no attacker (Dask itself runs anyone's code).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from resilient_nb.config import Settings
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, NotAllowed
from resilient_nb.processes import os_user

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}\Z")
#: The name in the certificates that `Security.temporary` makes: all parts of a cluster share
#: them, so they say nothing about a person.
_SHARED = "dask-internal"
#: For how long the Hub's word about a token holds, and how long it may take, in seconds.
_WORD_HOLDS, _PATIENCE = 300.0, 10.0


@dataclass(frozen=True)
class Identity:
    """A user and what vouches for the name: one of `SOURCES`."""

    user: str
    source: str


#: What an identity can rest on, in words for `doctor`.
SOURCES = {
    "certificate": "by the TLS certificate",
    "hub": "by JupyterHub",
    "claim": "by your own word, which this cluster's policy trusts",
    "owner": "since the cluster is this OS user's; everybody who connects is",
    "process": "since nothing says who connects; everybody is one user",
}


@dataclass(frozen=True)
class Evidence:
    """What is known of a connection. `needs_hub`: without the Hub's word it may ask nothing."""

    certificate: str = ""
    hub: str = ""
    claim: str = ""
    owner: str = ""
    process: str = ""
    needs_hub: bool = False


def identify(evidence: Evidence, trust_claims: bool) -> Identity:
    """Return the identity that the best evidence gives.

    Raises:
        NotAllowed: the cluster asks JupyterHub who people are, and this connection brought no
            token that the Hub knows.
        InvalidRequest: a claim that is trusted can't be a user's name.
    """
    if evidence.certificate:
        return Identity(evidence.certificate, "certificate")
    if evidence.hub:
        return Identity(evidence.hub, "hub")
    if evidence.claim and trust_claims:
        return Identity(check_user(evidence.claim, "The user that you say you are,"), "claim")
    if evidence.owner:
        return Identity(evidence.owner, "owner")
    if evidence.needs_hub:
        raise NotAllowed(
            "This cluster asks JupyterHub who you are, and your connection brought no token. "
            "Work from a notebook of that Hub, or connect with a TLS certificate of your own."
        )
    return Identity(evidence.process, "process")


def check_user(name: str, whence: str = "The name") -> str:
    """Return `name` if it can be a user's.

    Raises:
        InvalidRequest: it has characters that no user name has here.
    """
    if not _NAME.match(name):
        raise InvalidRequest(
            f"{whence} {name[:80]!r} can't be a user's name: use 1 to 64 letters, digits and "
            "'._@+-', beginning with a letter, a digit or '_'."
        )
    return name


def common_name(certificate: Mapping[str, Any] | None) -> str:
    """Return the user that a peer certificate (as `getpeercert` gives it) names, "" if none.

    Raises:
        InvalidRequest: it names several, or one that can't be a user.
    """
    subject = (certificate or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    if len(names) > 1:
        raise InvalidRequest(
            f"The certificate has {len(names)} common names ({', '.join(names)}): whose is it? "
            "Ask for one with your user name as its only common name."
        )
    if not names or names[0] == _SHARED:
        return ""
    return check_user(names[0], "The certificate's common name")


class Hub:
    """JupyterHub's word on whose token something is. Remembered for some minutes."""

    def __init__(
        self,
        api: str,
        fetch: Callable[[str, Mapping[str, str]], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.api = api.rstrip("/")
        self._fetch = fetch or _fetch
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}

    async def user(self, token: str) -> str:
        """Return the user whose token this is.

        Raises:
            NotAllowed: the Hub doesn't know the token.
            ClusterUnreachable: the Hub doesn't answer.
        """
        now = self._clock()
        self._known = {k: v for k, v in self._known.items() if v[1] > now}
        # The token itself is kept nowhere.
        key = hashlib.sha256(token.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = await self._ask(token), now + _WORD_HOLDS
        return self._known[key][0]

    async def _ask(self, token: str) -> str:
        try:
            body = await self._fetch(f"{self.api}/user", {"Authorization": f"token {token}"})
            name = json.loads(body)["name"]
        except HTTPClientError as error:
            if error.code in (401, 403, 404):
                raise NotAllowed(
                    "JupyterHub doesn't know this notebook's token (it may have expired): restart "
                    "your server from the Hub's control panel."
                ) from None
            raise ClusterUnreachable(f"JupyterHub at {self.api} answers {error.code}.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterUnreachable(
                f"The cluster can't ask JupyterHub at {self.api} who you are "
                f"({type(error).__name__}: {error}). Try again in a while."
            ) from None
        return check_user(str(name), "JupyterHub's user")


async def _fetch(url: str, headers: Mapping[str, str]) -> bytes:
    answer = await AsyncHTTPClient().fetch(url, headers=dict(headers), request_timeout=_PATIENCE)
    return bytes(answer.body)


class Identities:
    """Who is at the other end of each connection."""

    def __init__(self, settings: Settings, hub: Hub | None = None) -> None:
        self._hub = hub or (Hub(settings.hub_api) if settings.hub_api else None)
        self._ground = Evidence(
            owner=settings.owner, process=os_user(), needs_hub=self._hub is not None
        )
        self._evidence: MutableMapping[Any, Evidence] = WeakKeyDictionary()

    def of(self, comm: Any, trust_claims: bool) -> Identity:
        """Return who a connection's requests come from.

        Raises:
            ResilientError: its certificate names nobody, or it had to say more with its hello.
        """
        return identify(self._known(comm), trust_claims)

    async def hello(self, comm: Any, claim: str, token: str) -> bool:
        """Take what a new connection brings; True if it is to say hello again with its token.

        Raises:
            ResilientError: what it brings is no good, or can't be checked now.
        """
        evidence = replace(self._known(comm), claim=claim)
        if self._hub is not None and token and not evidence.certificate:
            evidence = replace(evidence, hub=await self._hub.user(token))
        self._evidence[comm] = evidence
        known = evidence.certificate or evidence.hub or evidence.owner
        return self._hub is not None and not known

    def _known(self, comm: Any) -> Evidence:
        if comm not in self._evidence:
            name = common_name(comm.extra_info.get("peercert"))
            self._evidence[comm] = replace(self._ground, certificate=name)
        return self._evidence[comm]
