"""`storage.tree`: any storable state survives the trip through strict JSON, bit for bit."""

from __future__ import annotations

import enum
import functools
import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resilient_nb.errors import CannotStore, CheckpointError, CorruptCheckpoint, InvalidRequest
from resilient_nb.storage.tree import MAX_DEPTH, STORABLE_DTYPES, TensorLeaf, flatten, unflatten


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


def same_array(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same(a: Any, b: Any) -> bool:
    """Equal in type and bits, all the way down; dicts in order."""
    if type(a) is not type(b):
        return False
    match a:
        case TensorLeaf():
            return a.torch_dtype == b.torch_dtype and same_array(a.array, b.array)
        case np.ndarray() | np.generic():
            return same_array(np.asarray(a), np.asarray(b))
        case dict():
            return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
        case list() | tuple():
            return len(a) == len(b) and all(map(same, a, b))
        case set():
            return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
        case float():
            return bits(a) == bits(b)
        case complex():
            return bits(a.real) == bits(b.real) and bits(a.imag) == bits(b.imag)
    return bool(a == b)


def there_and_back(state: object) -> object:
    document, leaves = flatten(state, "model")
    text = json.dumps(document, allow_nan=False)
    return unflatten(json.loads(text), leaves)


dtypes = st.sampled_from(sorted(STORABLE_DTYPES)).map(np.dtype)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
text = st.text(st.characters(exclude_categories=[]), max_size=6)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers().map(lambda n: n << 80),
    st.floats(),
    st.complex_numbers(),
    text,
    st.binary(max_size=6),
    dtypes.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda array: array[()]),
)
keys = st.one_of(scalars, st.tuples(scalars, scalars))
leaves = st.builds(TensorLeaf, arrays, st.sampled_from(["float32", "bfloat16"]))
states = st.recursive(
    st.one_of(scalars, arrays, leaves, st.sets(keys, max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(states)
@settings(max_examples=300, deadline=None)
def test_unflatten_is_the_inverse_of_flatten(state: object) -> None:
    assert same(there_and_back(state), state)


@given(states)
@settings(max_examples=50, deadline=None)
def test_flatten_is_deterministic(state: object) -> None:
    first, second = flatten(state, "model"), flatten(state, "model")
    assert json.dumps(first[0]) == json.dumps(second[0])
    assert list(first[1]) == list(second[1])


def leaf() -> TensorLeaf:
    return TensorLeaf(np.zeros(2, np.float32), "float32")


def names(state: object, root: str = "model") -> list[str]:
    return list(flatten(state, root)[1])


def test_tensors_are_named_by_the_keys_that_lead_to_them() -> None:
    assert names({"0.weight": leaf(), "0.bias": leaf()}) == ["model/0.weight", "model/0.bias"]
    optimizer = {"state": {0: {"exp_avg": leaf()}}, "param_groups": [{"lr": 0.1}]}
    assert names(optimizer, "optimizer") == ["optimizer/state.0.exp_avg"]
    assert names([leaf(), (leaf(),)]) == ["model/0", "model/1.0"]
    assert names(leaf()) == ["model/value"]


def test_names_that_would_be_equal_are_counted() -> None:
    state = {0: leaf(), "0": leaf(), "a": {"b": leaf()}, "a.b": leaf(), "0~2": leaf()}
    assert names(state) == ["model/0", "model/0~2", "model/a.b", "model/a.b~2", "model/0~2~2"]


def test_names_have_no_lone_surrogates() -> None:
    """Not all JSON can have them: msgspec's, for one."""
    keys = ["w\ud800", "w\\ud800", "é\udc00", ("\ud800", 1)]
    state = {key: leaf() for key in keys}
    assert names(state) == [
        "model/w\\ud800", "model/w\\ud800~2", "model/é\\udc00", "model/\\ud800,1",
    ]  # fmt: skip
    assert there_and_back(state).keys() == state.keys()  # type: ignore[attr-defined]


def test_each_leaf_gets_its_own_array_back() -> None:
    state = {0: np.array([1]), "0": np.array([2]), "a": {"b": np.array([3])}, "a.b": np.array([4])}
    assert same(there_and_back(state), state)


@pytest.mark.parametrize("number", [math.nan, -math.nan, math.inf, -0.0, 5e-324, 0.1])
def test_floats_keep_their_bits(number: float) -> None:
    assert same(there_and_back({"x": number}), {"x": number})


def test_a_nan_keeps_its_payload() -> None:
    number = struct.unpack(">d", bytes.fromhex("fff8000000abcdef"))[0]
    back = there_and_back([number])
    assert isinstance(back, list)
    assert bits(back[0]).hex() == "fff8000000abcdef"


def test_an_int_of_ten_thousand_digits() -> None:
    state = {10**10_000: [-(10**10_000), leaf()]}
    assert there_and_back({10**10_000: -(10**10_000)}) == {10**10_000: -(10**10_000)}
    assert len(names(state)) == 1


def test_other_dicts_of_the_standard_library_come_back_plain() -> None:
    back = there_and_back([OrderedDict(b=1, a=2), defaultdict(list, x=[1])])
    assert same(back, [{"b": 1, "a": 2}, {"x": [1]}])


def test_equal_sets_have_equal_documents() -> None:
    one, other = set(range(0, 9, 8)), set(range(8, -1, -8))
    assert list(one) != list(other), "the interpreter orders them alike: this shows nothing"
    assert flatten(one, "s") == flatten(other, "s")


def test_two_lone_surrogates_stay_two_characters() -> None:
    state = {"\ud83d\ude00": ["\ud83d\ude00", "\U0001f600"]}
    assert same(there_and_back(state), state)


def test_an_array_of_the_other_byte_order_is_a_leaf() -> None:
    array = np.arange(3, dtype=">i4")
    assert flatten(array, "x")[1]["x/value"].array is array


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"state": {0: {"fn": len}}}, "model.state[0]['fn'] is a builtin_function_or_method;"),
        ({"f": lambda: None}, "model.f is a function; it can't be stored without pickle."),
        ([Colour.RED], "model[0] is a"),
        ({"a b": Counter("x")}, "model['a b'] is a collections.Counter;"),
        ((1, object()), "model[1] is an object;"),
        ({"a": np.array([None])}, "model.a is an array of dtype object;"),
        ({"a": np.array(["x"])}, "model.a is an array of dtype <U1;"),
        ({"a": np.array(["2020"], "M8[D]")}, "model.a is an array of dtype datetime64[D];"),
        ({"a": np.ma.masked_array([1])}, "model.a is a numpy.ma.MaskedArray;"),
        ({"a": np.longdouble(1)}, "model.a is a numpy.longdouble;"),
        ({"a": {functools.partial(len): 1}}, "model.a has a functools.partial as a key"),
        ({"a": {frozenset()}}, "model.a has a frozenset as a key or element;"),
        (TensorLeaf(np.array([{}]), "float32"), "model is an array of dtype object;"),
    ],
)
def test_what_needs_pickle_is_refused_by_its_path(state: object, said: str) -> None:
    with pytest.raises(CannotStore) as refusal:
        flatten(state, "model")
    assert str(refusal.value).startswith(said)
    assert "Leave it out of the state" in str(refusal.value)


def test_a_list_in_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CannotStore, match="contains itself"):
        flatten(loop, "model")


def test_the_deepest_state_survives_and_one_more_level_is_refused() -> None:
    state: object = 1
    for level in range(MAX_DEPTH):
        state = {level: state}
    assert same(there_and_back(state), state)
    with pytest.raises(CannotStore, match="levels deep"):
        flatten([state], "model")


@pytest.mark.parametrize("root", ["", "a/b"])
def test_a_root_with_a_slash_is_refused(root: str) -> None:
    with pytest.raises(InvalidRequest, match="without '/'"):
        flatten({}, root)


def test_a_missing_tensor_is_named() -> None:
    document, _ = flatten({"w": leaf()}, "model")
    with pytest.raises(CorruptCheckpoint, match="'model/w'"):
        unflatten(document, {})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"dict": {}, "list": []},
        {"pickle": "gASVAA=="},
        {"int": "zz"},
        {"float": "00"},
        {"numpy": ["|O", "AAAAAAAAAAA="]},
        {"numpy": ["<f4", "AAA="]},
        {"items": [[[1], 2]]},
        {"dict": [1]},
        {"complex": [1.0, "x"]},
    ],
)
def test_a_document_of_somebody_else_is_refused(document: Any) -> None:
    with pytest.raises(CheckpointError, match="state document"):
        unflatten(document, {})
