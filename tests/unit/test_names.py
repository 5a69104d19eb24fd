"""`core.names`: what people type is understood or refused, and never misread."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_nb.core.names import (
    Reference,
    check_name,
    checkpoint_id,
    job_id,
    parse_reference,
    split_job,
)
from resilient_nb.errors import InvalidRequest

valid = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
typed = st.text(st.sampled_from("ab1Z._-@#/ \n²٣é"), max_size=8) | st.text(max_size=8)


@given(valid)
def test_valid_names_pass_unchanged(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", [
    "", ".", "..", ".hidden", "-x", "_x", "a b", "a/b", "a@b", "a#1", "a\n", "a" * 65, "é", "²",
    "a\x00", "../x", "run é",
])  # fmt: skip
def test_what_could_be_a_path_or_a_reference_is_no_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"can't be a tag name\. Use 1 to 64 letters"):
        check_name(name, "tag")


@given(valid, st.integers(0, 10**9))
def test_a_job_is_split_as_it_was_joined(run: str, number: int) -> None:
    assert split_job(job_id(run, number)) == (run, number)
    assert split_job(run) == (run, None)


@given(typed)
@example("digits#²")  # str.isdigit says yes, int() raises
@example("digits#" + "1" * 5000)  # more digits than int() takes
def test_any_text_is_a_job_or_refused(text: str) -> None:
    try:
        run, number = split_job(text)
    except InvalidRequest:
        return
    assert check_name(run) == run
    assert number is None or text.isascii()


@pytest.mark.parametrize("text", ["digits#", "digits#x", "digits#-1", "digits#1#2", "digits#1.0"])
def test_a_bad_job_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"RUN#NUMBER, for example digits#1"):
        split_job(text)


@given(valid, st.none() | st.integers(0, 10**9), st.none() | valid)
def test_a_reference_is_parsed_as_it_was_written(
    run: str, step: int | None, tag: str | None
) -> None:
    reference = Reference(run, step, None if step is not None else tag)
    if tag is not None and tag.isdigit() and step is None:
        assert parse_reference(str(reference)) == Reference(run, step=int(tag))
    else:
        assert parse_reference(str(reference)) == reference


@given(typed)
@example("digits@²")
@example("digits@٣")  # an Arabic 3: int() takes it, and a different text would name one step
@example("digits@" + "1" * 5000)
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return
    assert text.isascii()
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("text", ["", "@5", "digits@", "digits@best@x", "digits@-1", "a b@1"])
def test_a_bad_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


@given(valid, st.integers(0, 10**10), st.integers(0, 10**6))
def test_a_checkpoints_id_is_a_reference_to_it(run: str, step: int, epoch: int) -> None:
    identity = checkpoint_id(run, step, epoch)
    assert parse_reference(identity) == Reference(run, step, epoch=epoch)
    assert str(parse_reference(identity)) == identity


@given(valid, st.integers(0, 10**10), st.integers(0, 10**6))
def test_a_checkpoints_id_is_one_folder_below_its_runs(run: str, step: int, epoch: int) -> None:
    first, second = checkpoint_id(run, step, epoch).split("/")
    assert first == run
    assert second == f"{step:08d}-e{epoch}"


def test_ids_of_two_attempts_differ_and_steps_sort() -> None:
    assert checkpoint_id("a", 5, 1) != checkpoint_id("a", 5, 2)
    ids = [checkpoint_id("a", step, 1) for step in (2, 10, 100)]
    assert ids == sorted(ids)
