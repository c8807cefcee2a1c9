"""Counts of tokens and bytes as people write them: `410e9`, `5_000_000_000`, `5B`, `1.4T`, `64MB`."""

from __future__ import annotations

import re
from fractions import Fraction

_POWER = {"": 0, "K": 1, "M": 2, "B": 3, "G": 3, "T": 4}
_COUNT = re.compile(
    r"(?P<number>[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,3})?)\s*(?:(?P<suffix>[KMBGTkmbgt])(?P<binary>iB|ib|)[Bb]?)?"
    r"(?:\s*tokens)?"
)


def parse_count(value: object) -> int:
    """An exact integer from a number or text such as `1.4T`; `MiB` and its like are powers of 1024.

    >>> parse_count("1.4T"), parse_count("410e9"), parse_count(5_000), parse_count("64MiB")
    (1400000000000, 410000000000, 5000, 67108864)

    Raises:
      ValueError: the value is not a count, is negative or is not a whole number.
    """
    expected = f"expected a count such as 5_000_000, 410e9, 5B or 1.4T, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(expected)
    match = _COUNT.fullmatch(str(value).strip())
    if not match:
        raise ValueError(expected)
    power = _POWER[(match["suffix"] or "").upper()]
    number = Fraction(match["number"].replace("_", "")) * (1024 if match["binary"] else 1000) ** power
    if number.denominator != 1:
        raise ValueError(f"expected a whole number, got {value!r} = {float(number):g}")
    return int(number)


def format_count(count: float) -> str:
    """A short form for people: `1.40T`, `12.3M`, `950`."""
    for suffix, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(count) >= scale:
            return f"{count / scale:.3g}{suffix}" if count / scale < 100 else f"{count / scale:.0f}{suffix}"
    return f"{count:.0f}"


def format_bytes(count: float) -> str:
    """Bytes in powers of 1024: `3.4 MiB`."""
    for suffix, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= scale:
            return f"{count / scale:.1f} {suffix}"
    return f"{count:.0f} B"
