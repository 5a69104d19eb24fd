"""The browser's types, made from the messages' own: `python -m resilient_nb.wire.typescript`.

What it prints is `labextension/src/protocol.ts`; a test says when that is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from resilient_nb.wire.codec import PROTOCOL, schema
from resilient_nb.wire.feed import SHOWN, Action, RankRow, Wish

_HEAD = f"""\
// Made by `python -m resilient_nb.wire.typescript` from the messages of resilient_nb/wire/feed.py.
// Do not edit. A number that isn't finite arrives as null, whatever its type says.

export const PROTOCOL = {PROTOCOL};
"""
#: What a browser sends may leave out what has a default; what it receives is always whole.
_SENT = (Wish.__name__, Action.__name__)
_SIMPLE = {"integer": "number", "number": "number", "string": "string", "boolean": "boolean",
           "null": "null", "object": "{ [name: string]: unknown }"}  # fmt: skip


def typescript() -> str:
    """Return the text of `protocol.ts`."""
    kinds: dict[str, Any] = schema(*SHOWN)["$defs"]
    parts = [_HEAD, *(_declared(_short(name), kinds[name]) for name in sorted(kinds))]
    numbers = (f"  {name}: {index}," for index, name in enumerate(RankRow._fields))
    parts.append("\n".join(["export const RANK = {", *numbers, "} as const;\n"]))
    return "\n".join(parts)


def _declared(name: str, kind: Mapping[str, Any]) -> str:
    said = _comment(kind.get("description", ""))
    if "properties" not in kind:
        return f"{said}export type {name} = {_type(kind, RankRow._fields)};\n"
    required = kind.get("required", ())
    lines = []
    for field, found in kind["properties"].items():
        mark = "?" if name in _SENT and field not in required else ""
        lines.append(f"  {field}{mark}: {_type(found)};")
    return "\n".join([f"{said}export interface {name} {{", *lines, "}\n"])


def _type(kind: Mapping[str, Any], names: Iterable[str] = ()) -> str:
    """Return the type that a piece of JSON Schema describes; `names` of a tuple's elements."""
    if "$ref" in kind:
        return _short(kind["$ref"].rpartition("/")[2])
    if "anyOf" in kind:
        return " | ".join(_type(one) for one in kind["anyOf"])
    if "const" in kind or "enum" in kind:
        values = kind["enum"] if "enum" in kind else [kind["const"]]
        return " | ".join(f'"{value}"' for value in values)
    if "prefixItems" in kind:
        types = [_type(one) for one in kind["prefixItems"]]
        return f"[{', '.join(_named(types, tuple(names)))}]"
    if kind.get("type") == "array":
        inner = _type(kind["items"]) if kind.get("items") else "unknown"
        return f"{inner}[]" if re.fullmatch(r"\w+", inner) else f"({inner})[]"
    if isinstance(kind.get("additionalProperties"), dict):
        return f"{{ [name: string]: {_type(kind['additionalProperties'])} }}"
    return _SIMPLE[kind["type"]] if "type" in kind else "unknown"


def _named(types: list[str], names: tuple[str, ...]) -> list[str]:
    if len(names) != len(types):
        return types
    return [f"{name}: {kind}" for name, kind in zip(names, types, strict=True)]


def _short(name: str) -> str:
    """Return a class's name: those of two modules that are alike are told apart by the module."""
    *modules, last = name.split(".")
    return last if not modules else f"{modules[-1].title()}{last}"


def _comment(text: str) -> str:
    if not text:
        return ""
    lines = "\n".join(f" * {line.strip()}".rstrip() for line in text.strip().split("\n"))
    return f"/**\n{lines}\n */\n"


if __name__ == "__main__":
    sys.stdout.write(typescript())
