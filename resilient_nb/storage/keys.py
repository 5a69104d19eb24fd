"""The keys that what is stored is encrypted with: from a file or the environment, nowhere else.

`RESILIENT_NB_KEY` is a key, 32 bytes in base64. `RESILIENT_NB_KEY_FILE` (or `key_file` in
config.toml) names a file of keys, one a line, which only its owner may read; a word before a key
is its name. The first key encrypts what is written from now on; the others only read, so that a
key is replaced by writing a new one above it. A key never enters the store, the journal or a
message: these hold its id, which is its name and its fingerprint. It is found by the fingerprint,
so that a wrong key is never taken for the right one, and a name may change.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from resilient_nb.config import Settings, load_settings
from resilient_nb.errors import InvalidRequest, KeyMissing

VARIABLE = "RESILIENT_NB_KEY"
_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")
_MAKE = "(umask 077; openssl rand -base64 32 > FILE) makes one."


@dataclass(frozen=True)
class Key:
    """A key and what it is called where it is needed."""

    id: str
    secret: bytes = field(repr=False)

    def derive(self, purpose: str) -> bytes:
        """Return a key for one purpose alone, from which neither this one nor others follow."""
        return hmac.digest(self.secret, f"resilient_nb 1\0{purpose}".encode(), "sha256")


@dataclass(frozen=True)
class Keyring:
    """The keys that a process has; the first is the one that encrypts."""

    keys: tuple[Key, ...] = ()

    def find(self, identity: str, what: str) -> Key:
        """Return the key of this id.

        Raises:
            KeyMissing: there is none; `what` is what can't be read.
        """
        for key in self.keys:
            if same_key(key.id, identity):
                return key
        have = ", ".join(key.id for key in self.keys)
        raise KeyMissing(
            f"{what} is encrypted with the key {identity}, and this process has "
            + (f"only {have}" if have else "none")
            + f". Set {VARIABLE} to it, or {VARIABLE}_FILE to a file that has it in a line."
        )


def same_key(one: str, other: str) -> bool:
    """Whether two ids are of one key, whatever it is called; "" is the id of none."""
    return one.rpartition("-")[2] == other.rpartition("-")[2]


def keyring(
    settings: Settings | None = None, environment: Mapping[str, str] | None = None
) -> Keyring:
    """Return the keys of this process.

    Raises:
        InvalidRequest: the variable or the file holds something else, or others may read the file.
    """
    settings = load_settings() if settings is None else settings
    text = (os.environ if environment is None else environment).get(VARIABLE, "")
    keys = [_key(text, VARIABLE)] if text.strip() else []
    if settings.key_file:
        path = Path(settings.key_file).expanduser()
        for number, line in enumerate(_read_private(path).splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                keys.append(_key(line, f"Line {number} of the key file {path}"))
    return Keyring(tuple(keys))


def encrypting_key(settings: Settings | None = None) -> Key | None:
    """Return the key that new checkpoints are encrypted with; None if they aren't.

    Raises:
        InvalidRequest: `encrypt` is on and there is no key, or one that can't be used.
    """
    settings = load_settings() if settings is None else settings
    if settings.encrypt == "off":
        return None
    keys = keyring(settings).keys
    if not keys and settings.encrypt == "on":
        raise InvalidRequest(
            f"The setting encrypt is on, and there is no key: set {VARIABLE}_FILE to a file with "
            f"one, where the cluster's workers and your notebook see it. {_MAKE}"
        )
    return keys[0] if keys else None


def _key(text: str, where: str) -> Key:
    words = text.split()
    name = words[0] if len(words) == 2 else "key"
    try:
        secret = base64.b64decode(words[-1], validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(words) > 2 or len(secret) != _BYTES or not _NAME.match(name):
        # The text itself stays out of the message: it may well be a key with a mistake.
        raise InvalidRequest(
            f"{where} is no key. A key is {_BYTES} bytes in base64, after a name if you like: "
            f"team-2026 dGhpcyBpcyBub3QgYSBrZXk… {_MAKE}"
        )
    fingerprint = hmac.digest(secret, b"resilient_nb id", "sha256").hex()
    return Key(f"{name}-{fingerprint[:16]}", secret)


def _read_private(path: Path) -> str:
    """Return a file's text if nobody but its owner, who is us or root, can read it."""
    try:
        with open(path) as file:
            about = os.fstat(file.fileno())
            _check_private(path, about)
            return file.read(1 << 20)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InvalidRequest(f"The key file {path} can't be read: {why}. {_MAKE}") from None


def _check_private(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise InvalidRequest(f"The key file {path} is no regular file. {_MAKE}")
    if about.st_uid not in (0, os.geteuid()):
        raise InvalidRequest(f"The key file {path} belongs to somebody else: use one of your own.")
    if about.st_mode & 0o077:
        raise InvalidRequest(
            f"Others may read or change the key file {path} (mode {about.st_mode & 0o777:04o}): "
            f"chmod 600 {path}"
        )
