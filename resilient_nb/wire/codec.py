"""Dataclasses to plain data and back, checked on the way in.

`msgspec` does the work: it converts standard dataclasses by their annotations and refuses
what doesn't fit them, so a message of another version is an error and not a surprise.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import msgspec

from resilient_nb.errors import VersionMismatch

T = TypeVar("T")

#: Grows when a message changes its meaning. Both sides must agree.
PROTOCOL = 7

#: Names on Dask's wire: a connection's first word, requests of notebooks, reports of agents,
#: orders to them, and what they ask each other.
HELLO, REQUEST = "resilient_hello", "resilient_request"
REPORT, ORDER, SHELF = "resilient_report", "resilient_order", "resilient_shelf"

_BYTES = (bytes, bytearray, memoryview)


def plain(value: Any) -> Any:
    """Return `value` as dicts, lists and scalars (bytes stay bytes)."""
    return msgspec.to_builtins(value, builtin_types=_BYTES, str_keys=False)


def build(kind: type[T], data: Any) -> T:
    """Return `data` as a `kind`.

    Raises:
        VersionMismatch: if the data doesn't have its shape.
    """
    try:
        return msgspec.convert(data, kind, builtin_types=_BYTES)
    except msgspec.ValidationError as error:
        raise VersionMismatch(
            f"A {kind.__name__} message can't be read ({error}). Notebook and cluster probably "
            "run different versions of resilient_nb: install the same one on both."
        ) from error


class Registry:
    """Tagged messages: `{"kind": name, ...fields}` to the class of that name and back."""

    def __init__(self, *kinds: type[Any]) -> None:
        assert not any(f.name == "kind" for kind in kinds for f in fields(kind)), "that is the tag"
        self._kinds = {kind.__name__: kind for kind in kinds}

    def pack(self, message: Any) -> dict[str, Any]:
        """Return a message as a dict that says what it is."""
        return {"kind": type(message).__name__, **plain(message)}

    def unpack(self, data: dict[str, Any]) -> Any:
        """Return the message that `pack` made.

        Raises:
            VersionMismatch: if the kind is unknown or the fields don't fit it.
        """
        if not isinstance(data, dict):
            raise VersionMismatch(f"{data!r} is no message.")
        values = dict(data)
        name = values.pop("kind", None)
        if name not in self._kinds:
            raise VersionMismatch(f"Unknown message {name!r}: notebook and cluster must match.")
        return build(self._kinds[name], values)


def to_json(value: Any) -> bytes:
    """Return `value` as UTF-8 JSON."""
    return msgspec.json.encode(value)


def from_json(text: bytes | str) -> Any:
    """Return JSON text as plain data."""
    return msgspec.json.decode(text)


def schema(*kinds: type[Any]) -> dict[str, Any]:
    """Return one JSON Schema document that defines all `kinds`."""
    _, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": components}
