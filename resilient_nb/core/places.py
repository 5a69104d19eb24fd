"""Where things are kept: a path, or a URL such as `s3://bucket/prefix`. Pure text."""

from __future__ import annotations

import re
from typing import TypeAlias

from resilient_nb.errors import InvalidRequest

#: An absolute path or a URL.
Place: TypeAlias = str
Places: TypeAlias = tuple[Place, ...]

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
"""Of URLs that can hold a store; `file` is a path, and `memory` for tests in one process."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)\Z", re.IGNORECASE | re.DOTALL)


def is_url(place: Place) -> bool:
    """Return whether it is a URL and no path."""
    return _URL.match(place) is not None


def scheme(place: Place) -> str:
    """Return a URL's scheme in lower case, "" for a path."""
    found = _URL.match(place)
    return found[1].lower() if found else ""


def sub_folder(place: Place, *pieces: str) -> Place:
    """Return a place inside a place, such as `s3://bucket/x/runs` in `s3://bucket/x`."""
    inside = "/".join(piece.strip("/") for piece in pieces if piece.strip("/"))
    if not inside:
        return place
    return f"{place.rstrip('/')}/{inside}"


def overlap(one: Place, other: Place) -> bool:
    """Return whether one place is the other, or lies in it."""
    first, second = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
    return first.startswith(second) or second.startswith(first)


def check_url(url: str) -> str:
    """Return a store's URL in its normal form: no slash at its end, the scheme in lower case.

    Raises:
        InvalidRequest: it names no bucket, or its scheme is none of a store's.
    """
    kind, found = scheme(url), _URL.match(url)
    rest = found[2].strip("/") if found else ""
    if kind not in (*SCHEMES, "memory"):
        raise InvalidRequest(
            f"{url!r} can't hold checkpoints. Use a path, or a URL that begins with "
            f"{', '.join(f'{name}://' for name in SCHEMES)}."
        )
    if not rest or re.search(r"[?#\s@]", rest):
        raise InvalidRequest(
            f"{url!r} names no bucket. It looks like {kind}://bucket/prefix; credentials come "
            "from the environment."
        )
    return f"{kind}://{rest}"
