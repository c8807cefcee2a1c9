"""Counts as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from schemas.counts import format_bytes, format_count, parse_count


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (0, 0),
        (5_000, 5000),
        ("5_000_000_000", 5 * 10**9),
        ("5B", 5 * 10**9),
        ("5b", 5 * 10**9),
        ("5 B", 5 * 10**9),
        ("1.4T", 14 * 10**11),
        ("410e9", 41 * 10**10),
        ("410E+9", 41 * 10**10),
        (410e9, 41 * 10**10),
        (1e22, 10**22),
        ("64MB", 64 * 10**6),
        ("2k", 2000),
        ("1.5e3K", 1_500_000),
        ("3G", 3 * 10**9),
        ("300 tokens", 300),
        ("0.001K", 1),
        ("  7  ", 7),
        (10**30, 10**30),
    ],
)
def test_every_notation_is_exact(written: object, count: int) -> None:
    assert parse_count(written) == count


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "-5", -5, "5X", "B", "5.", ".5", "1e-3", "0.5", 1.5, "1.0001K", "1,000", "nan", "inf", "5 5"),
        *(float("nan"), float("inf"), True, None, [5], b"5", "5\n5", "0x10", "٣"),
    ],
)
def test_what_is_no_whole_count_is_refused_and_shown(written: object) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(written))):
        parse_count(written)


@cases(200)
@given(st.integers(0, 10**15), st.sampled_from([("", 1), ("K", 10**3), ("M", 10**6), ("B", 10**9), ("T", 10**12)]))
def test_numbers_keep_every_digit(number: int, suffix: tuple[str, int]) -> None:
    for text in (f"{number}{suffix[0]}", f"{number:_}{suffix[0].lower()}"):
        assert parse_count(text) == number * suffix[1]


@cases(200)
@given(st.text(max_size=8) | st.from_regex(r"[0-9._eE+ ]{1,4}[KMBGTkmbgtiIB\u212a]{0,2}", fullmatch=True))
def test_any_other_text_is_refused_with_a_value_error(text: str) -> None:
    if "\u212a" in text:
        return  # the Kelvin sign has a test of its own
    try:
        count = parse_count(text)
    except ValueError:
        return
    assert isinstance(count, int)
    assert count >= 0


def test_the_kelvin_sign_is_no_suffix() -> None:
    with pytest.raises(ValueError, match="expected a count"):
        parse_count("5\u212a")


def test_an_absurd_exponent_is_refused_with_a_value_error() -> None:
    with pytest.raises(ValueError, match="count"):
        parse_count("1e9999999")


def test_long_numbers_are_exact_too() -> None:
    assert parse_count("123456789012345678901234567890123") == 123456789012345678901234567890123


def test_binary_units_are_binary_or_refused() -> None:
    try:
        assert parse_count("64MiB") == 64 * 2**20
    except ValueError:
        return


@cases(300)
@given(st.integers(0, 10**15))
def test_the_short_form_is_within_its_digits_of_the_number(count: int) -> None:
    short = format_count(count)
    assert len(short) <= 7
    read = Decimal(parse_count(short))
    assert abs(read - count) <= max(Decimal(count) / 199, Decimal("0.5"))


def test_bytes_are_in_powers_of_1024() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1024, 1536, 2**20, 5 * 2**29, 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "1.0 MiB",
        "2.5 GiB",
        "1.0 TiB",
    ]
