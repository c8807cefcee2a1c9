"""Errors: one readable paragraph, and the same error on the other side of a runner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from schemas.errors import DataError, RequestError, ShardmillError, did_you_mean, error_from_wire

FIELDS = ("what", "where", "expected", "got", "remedy")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NASTY = st.text(st.sampled_from("a]}\"'[{\\\n\t:é😀"), max_size=20)


def fields(error: ShardmillError) -> tuple[type, tuple[str, ...]]:
    return type(error), tuple(getattr(error, f) for f in FIELDS)


def test_the_paragraph_says_what_where_expected_got_and_remedy_in_this_order() -> None:
    error = RequestError("It broke", where="file x", expected="a number", got="'y'", remedy="Mend it")
    assert error.paragraph() == "It broke. Where: file x. Expected: a number. Got: 'y'. Mend it."
    assert str(error) == error.paragraph()
    assert RequestError("It broke", got="'y'").paragraph() == "It broke. Got: 'y'."


@cases(200)
@given(st.lists(TEXT, min_size=5, max_size=5))
def test_a_paragraph_is_one_line_whatever_it_quotes(texts: list[str]) -> None:
    error = DataError(texts[0], **dict(zip(FIELDS[1:], texts[1:], strict=True)))
    assert len(error.paragraph().splitlines()) <= 1
    assert "  " not in error.paragraph()


def test_requests_and_data_have_their_exit_codes() -> None:
    assert (RequestError("x").exit_code, DataError("x").exit_code) == (2, 1)


@cases(200)
@given(st.lists(TEXT | NASTY, min_size=5, max_size=5), st.sampled_from([RequestError, DataError]), TEXT, TEXT)
def test_an_error_survives_the_wire_unchanged(
    texts: list[str], kind: type[ShardmillError], before: str, after: str
) -> None:
    error = kind(texts[0], **dict(zip(FIELDS[1:], texts[1:], strict=True)))
    if "[[shardmill:" in before:
        return
    found = error_from_wire(f"{before} RuntimeError: {error.to_wire()} [while running 'x'] {after}")
    assert found is not None
    assert fields(found) == fields(error)


def test_an_error_of_plain_letters_survives_being_quoted() -> None:
    error = RequestError("The disk is full", where="/data/out", got="No space left on device")
    for text in (repr(error.to_wire()), repr([repr(error.to_wire())])):
        found = error_from_wire(text)
        assert found is not None
        assert fields(found) == fields(error)


@cases(150)
@given(st.lists(TEXT | NASTY, min_size=5, max_size=5), st.integers(1, 4))
def test_an_error_survives_being_quoted_any_number_of_times(texts: list[str], hops: int) -> None:
    error = RequestError(texts[0], **dict(zip(FIELDS[1:], texts[1:], strict=True)))
    text = error.to_wire()
    for _ in range(hops):
        text = repr([f"it's {text}"])
    found = error_from_wire(text)
    assert found is not None
    assert fields(found) == fields(error)


@pytest.mark.parametrize("text", ["[[shardmill:abc]]", "[[shardmill:QUJD]]", "[[shardmill:e30=]]"])
def test_a_mark_that_is_no_error_does_not_hide_the_message_behind_another(text: str) -> None:
    assert error_from_wire(text) is None


@pytest.mark.parametrize("text", ["", "plain", "[[shardmill:{broken}]]", "[[shardmill:", "[[shardmill:{}x]]"])
def test_other_messages_are_no_wired_error(text: str) -> None:
    assert error_from_wire(text) is None


def test_the_first_of_two_wired_errors_is_found() -> None:
    text = DataError("first").to_wire() + DataError("second").to_wire()
    found = error_from_wire(text)
    assert found is not None
    assert found.what == "first"


def test_a_near_name_is_offered_and_else_all_are() -> None:
    assert did_you_mean("lenght", ["length", "stage"]) == "did you mean 'length'?"
    assert did_you_mean("zzz", {"stage", "length"}) == "known: length, stage"
