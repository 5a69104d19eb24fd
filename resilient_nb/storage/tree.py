"""Nested state to a JSON document and named arrays, and back, without pickle.

What `state_dict()` returns is a tree of dicts and lists with tensors at some leaves. `flatten`
takes the tensors and arrays out, each under a name, and writes the rest as JSON in which every
Python type keeps its identity. A JSON array is a list; a JSON object has exactly one key, the
tag of what it holds:

    {"dict": {"lr": 0.1}}            a dict whose keys are all str
    {"items": [[0, "a"], [1, "b"]]}  any other dict
    {"tuple": [..]}  {"set": [..]}   the set sorted by its JSON, so that equal sets look equal
    {"int": "-0xff"}                 an int beyond 64 bits
    {"float": "7ff8000000000000"}    nan and infinities: the IEEE 754 bits, most significant first
    {"complex": [re, im]}            each a float as above
    {"bytes": "base64"}
    {"str": "base64"}                a str with lone surrogates, in UTF-8 as if they were characters
    {"numpy": ["<f4", "base64"]}     a numpy scalar: dtype and little-endian bytes
    {"tensor": "model/0.weight"}     the name of a TensorLeaf or of a numpy array
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resilient_nb.errors import CannotStore, CheckpointError, CorruptCheckpoint, InvalidRequest

Array: TypeAlias = npt.NDArray[Any]
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MAX_DEPTH = 100
"""Deeper nesting is refused: the interpreter and JSON readers run out of stack, and a list that
contains itself would never end."""

STORABLE_DTYPES = frozenset(
    np.dtype(code).name
    for code in "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split()  # noqa: SIM905
)
"""The numpy dtypes that Zarr v3 specifies, so that any Zarr reader understands them."""

_INT64 = range(-(2**63), 2**63)
_DICTS = (dict, OrderedDict, defaultdict)
_WAY_OUT = (
    "it can't be stored without pickle. Leave it out of the state, or track it as numbers, "
    "strings, lists, dicts, arrays or tensors."
)


@dataclass(frozen=True)
class Shard:
    """Which part of a tensor a rank holds: chunk `index` of a regular grid over `shape`.

    `chunk` is the shape of a whole chunk; those at the end of an axis may be smaller. A rank that
    holds nothing has an index behind the grid's end.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    index: tuple[int, ...]

    @property
    def start(self) -> tuple[int, ...]:
        """The index of the part's first element in the tensor."""
        return tuple(
            min(i * c, n) for i, c, n in zip(self.index, self.chunk, self.shape, strict=True)
        )

    @property
    def extent(self) -> tuple[int, ...]:
        """The part's shape."""
        return tuple(
            min(c, n - s) for s, c, n in zip(self.start, self.chunk, self.shape, strict=True)
        )


@dataclass(frozen=True, eq=False)
class TensorLeaf:
    """One array and whether it was a torch tensor.

    Attributes:
        array: the values. For a torch dtype that numpy lacks, the same bits as an unsigned
            integer of the same width: uint16 for bfloat16, uint8 for float8_e4m3fn.
        torch_dtype: the tensor's dtype as torch names it ("float32", "bfloat16"), always given
            for a torch tensor; None if it was a numpy array.
        shard: which part of a tensor `array` is, if other ranks hold the others.
    """

    array: Array
    torch_dtype: str | None
    shard: Shard | None = None


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name, in which its byte order doesn't show; numpy is slow at this."""
    return dtype.name


def flatten(state: object, root: str) -> tuple[Json, dict[str, TensorLeaf]]:
    """Split `state` into a JSON document and its tensors by name.

    A tensor's name is `root/` and the keys that lead to it, joined by dots: `model/0.weight`,
    `optimizer/state.0.exp_avg`; for a state that is itself a tensor, `root/value`. Where two
    would be equal (the keys 0 and "0", or "a.b" and "a" then "b"), the later ones in the order
    of the state end in `~2`, `~3`: the same state always gives the same names. A lone surrogate in
    a key becomes its escape, `\\ud800`.

    Arrays are not copied. OrderedDict and defaultdict come back as dict; arrays of either byte
    order come back equal in value.

    Raises:
        CannotStore: the state holds something else than None, bool, int, float, complex, str,
            bytes, dict, list, tuple, set (of scalars), numpy scalars and arrays of a storable
            dtype, and TensorLeaf. The message says where it is.
        InvalidRequest: `root` is empty or contains a '/'.
    """
    if not root or "/" in root:
        raise InvalidRequest(f"{root!r} can't name a tracked state: use a name without '/'.")
    flattener = _Flattener(root)
    document = flattener.encode(state, ())
    return document, flattener.leaves


def unflatten(document: Json, leaves: Mapping[str, TensorLeaf]) -> object:
    """Rebuild what `flatten` took apart; its inverse.

    Raises:
        CorruptCheckpoint: the document names a tensor that `leaves` lacks.
        CheckpointError: the document was not written by `flatten`, or by a newer one.
    """
    if isinstance(document, list):
        return [unflatten(item, leaves) for item in document]
    if not isinstance(document, dict):
        return document
    if len(document) != 1:
        raise CheckpointError(f"The state document has an object with the keys {list(document)}.")
    [(tag, body)] = document.items()
    try:
        return _decode(tag, body, leaves)
    except (ValueError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"The state document has a malformed {tag!r}: {error}.") from error


def tensor_names(document: Json) -> list[str]:
    """Return the names of the tensors in a document that `flatten` made, in its order."""
    if isinstance(document, list):
        return [name for item in document for name in tensor_names(item)]
    if not isinstance(document, dict):
        return []
    [(tag, body)] = document.items()
    if tag == "tensor":
        return [str(body)]
    if tag == "dict" and isinstance(body, dict):
        return [name for value in body.values() for name in tensor_names(value)]
    return tensor_names(body) if tag in ("items", "tuple") else []


class _Flattener:
    """One call of `flatten`: the leaves collected so far. A path is the tuple of keys to here."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.leaves: dict[str, TensorLeaf] = {}

    def encode(self, value: object, path: tuple[object, ...]) -> Json:
        if len(path) > MAX_DEPTH:
            raise CannotStore(
                f"{self._where(path[:3])}... is nested more than {MAX_DEPTH} levels deep, or "
                "contains itself. Track a flatter state."
            )
        if isinstance(value, _DICTS) and type(value) in _DICTS:
            return self._dict(value, path)
        if type(value) is list:
            return [self.encode(item, (*path, i)) for i, item in enumerate(value)]
        if type(value) is tuple:
            return {"tuple": [self.encode(item, (*path, i)) for i, item in enumerate(value)]}
        if type(value) is set:
            return {"set": sorted((self._key(item, path) for item in value), key=json.dumps)}
        if type(value) is np.ndarray:
            value = TensorLeaf(value, None)
        if isinstance(value, TensorLeaf):
            return {"tensor": self._leaf(value, path)}
        if _is_scalar(value):
            return _encode_scalar(value)
        raise CannotStore(f"{self._where(path)} is {_kind(value)}; {_WAY_OUT}")

    def _dict(self, value: Mapping[object, object], path: tuple[object, ...]) -> Json:
        if all(type(key) is str and _is_unicode(key) for key in value):
            return {"dict": {str(k): self.encode(v, (*path, k)) for k, v in value.items()}}
        return {
            "items": [[self._key(k, path), self.encode(v, (*path, k))] for k, v in value.items()]
        }

    def _key(self, key: object, path: tuple[object, ...]) -> Json:
        """Encode a dict's key or a set's element: a scalar or a tuple of such."""
        if type(key) is tuple:
            return {"tuple": [self._key(item, path) for item in key]}
        if _is_scalar(key):
            return _encode_scalar(key)
        raise CannotStore(f"{self._where(path)} has {_kind(key)} as a key or element; {_WAY_OUT}")

    def _leaf(self, leaf: TensorLeaf, path: tuple[object, ...]) -> str:
        if name_of(leaf.array.dtype) not in STORABLE_DTYPES:
            raise CannotStore(
                f"{self._where(path)} is an array of dtype {leaf.array.dtype}; {_WAY_OUT}"
            )
        plain = f"{self.root}/" + (".".join(map(_piece, path)) if path else "value")
        name, count = plain, 1
        while name in self.leaves:
            count += 1
            name = f"{plain}~{count}"
        self.leaves[name] = leaf
        return name

    def _where(self, path: tuple[object, ...]) -> str:
        """Say a path as the user would write it: optimizer.state[0]['exp_avg']."""
        head, *rest = path or (None,)
        if isinstance(head, str) and head.isidentifier():
            return f"{self.root}.{head}" + "".join(map(_index, rest))
        return self.root + "".join(map(_index, path))


def _piece(key: object) -> str:
    """Return a key's part of a tensor name."""
    if type(key) is tuple:
        return ",".join(map(_piece, key))
    if type(key) is int and key not in _INT64:
        return hex(key)  # str() refuses more than 4300 digits
    text = key.hex() if isinstance(key, bytes) else str(key)
    return text.encode("utf-8", "backslashreplace").decode()  # not all JSON has lone surrogates


def _index(key: object) -> str:
    return f"[{key!r}]" if type(key) is str else f"[{_piece(key)}]"


def _kind(value: object) -> str:
    name = type(value).__name__
    if type(value).__module__ not in ("builtins", "__main__"):
        name = f"{type(value).__module__}.{name}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _is_scalar(value: object) -> bool:
    # Exact types: a subclass (an IntEnum, numpy's float64) would come back as its base.
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return True
    return isinstance(value, np.generic) and name_of(value.dtype) in STORABLE_DTYPES


def _is_unicode(text: str) -> bool:
    """Return whether JSON keeps `text`: two lone surrogates would come back as one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode_scalar(value: Any) -> Json:
    if isinstance(value, np.generic):
        array = np.asarray(value).astype(value.dtype.newbyteorder("<"))
        return {"numpy": [array.dtype.str, base64.b64encode(array.tobytes()).decode()]}
    if type(value) is int and value not in _INT64:
        return {"int": hex(value)}
    if type(value) is float and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}
    if type(value) is complex:
        return {"complex": [_encode_scalar(value.real), _encode_scalar(value.imag)]}
    if type(value) is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if type(value) is str and not _is_unicode(value):
        return {"str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    plain: Json = value
    return plain


def _decode(tag: str, body: Any, leaves: Mapping[str, TensorLeaf]) -> object:
    match tag:
        case "dict":
            return {key: unflatten(value, leaves) for key, value in body.items()}
        case "items":
            return {unflatten(key, leaves): unflatten(value, leaves) for key, value in body}
        case "tuple":
            return tuple(unflatten(item, leaves) for item in body)
        case "set":
            return {unflatten(item, leaves) for item in body}
        case "tensor":
            return _find(body, leaves)
    return _decode_scalar(tag, body)


def _find(name: str, leaves: Mapping[str, TensorLeaf]) -> object:
    if name not in leaves:
        raise CorruptCheckpoint(f"The state names the tensor {name!r}, which isn't stored.")
    leaf = leaves[name]
    return leaf.array if leaf.torch_dtype is None else leaf


def _decode_float(body: Any) -> float:
    if isinstance(body, float):
        return body
    [number] = struct.unpack(">d", bytes.fromhex(body["float"]))
    return float(number)


def _decode_scalar(tag: str, body: Any) -> object:
    match tag:
        case "int":
            return int(body, 16)
        case "float":
            return _decode_float({tag: body})
        case "complex":
            return complex(*(_decode_float(part) for part in body))
        case "bytes":
            return base64.b64decode(body, validate=True)
        case "str":
            return base64.b64decode(body, validate=True).decode("utf-8", "surrogatepass")
        case "numpy":
            dtype, data = np.dtype(body[0]), base64.b64decode(body[1], validate=True)
            if dtype.name not in STORABLE_DTYPES:
                raise ValueError(f"no storable dtype: {dtype}")
            return np.frombuffer(data, dtype).reshape(())[()]
    raise CheckpointError(f"The state document has the unknown tag {tag!r}. Update resilient_nb.")
