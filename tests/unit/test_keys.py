"""Keyed draws: the same bits for the same name in any batch, and nothing alike for any other name."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import FALSE_ALARM, cases, fits

from schemas.keys import below, document_keys, draw, happens, text_key, validation_mask

MASK = 2**64 - 1
INTEGERS = st.integers(-(2**63), 2**64 - 1)


def reference_mix(x: int) -> int:
    """SplitMix64's finaliser in Python integers, as printed in the paper."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference_draw(seed: int, purpose: str, *parts: int) -> int:
    name = "\0".join(("draw", str(seed), purpose)).encode()
    h = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    for part in parts:
        h = reference_mix(((h ^ (part * 0x9E3779B97F4A7C15 & MASK)) + 0x9E3779B97F4A7C15) & MASK)
    return h


def test_the_reference_is_splitmix64() -> None:
    # The first outputs of SplitMix64 for seed 1234567, as published with Vigna's C code (Rosetta Code, splitmix64).
    state, outputs = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        outputs.append(reference_mix(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@cases(200)
@given(st.integers(0, 2**63 - 1), st.text(max_size=9), st.lists(INTEGERS, max_size=4))
def test_draws_equal_an_independent_splitmix64(seed: int, purpose: str, parts: list[int]) -> None:
    assert draw(seed, purpose, *parts).tolist() == [reference_draw(seed, purpose, *parts)]


@cases(100)
@given(st.lists(INTEGERS, min_size=1, max_size=6), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=6))
def test_bits_are_the_same_alone_and_in_a_batch(keys: list[int], positions: list[int]) -> None:
    rows = np.array([k & MASK for k in keys], dtype=np.uint64)
    for columns in (np.array(positions, np.int64), np.array(positions, np.int32)):
        batch = draw(3, "p", rows[:, None], 5, columns)
        assert batch.shape == (len(keys), len(positions))
        assert batch.tolist() == [[reference_draw(3, "p", k, 5, c) for c in positions] for k in keys]
    assert rows.tolist() == [k & MASK for k in keys], "the caller's array was changed"


def test_a_draw_named_by_a_float_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        draw(1, "p", np.array([1.0]))


def test_draws_of_other_names_are_independent_bit_by_bit() -> None:
    n = 20_000
    x = np.arange(n)
    base = draw(1, "mask", x, 7)
    others = {
        "itself": np.zeros(n, np.uint64),
        "seed": draw(2, "mask", x, 7),
        "purpose": draw(1, "mast", x, 7),
        "second part": draw(1, "mask", x, 8),
        "order of parts": draw(1, "mask", 7, x),
        "one more part": draw(1, "mask", x, 7, 0),
        "next position": np.roll(base, 1),
        "text or key": draw(1, "mask", x + (7 << 32)),
    }
    # 8 names of 64 bits are tested, each a binomial(n, 1/2); Bonferroni keeps the false alarm.
    bound = FALSE_ALARM / (64 * len(others))
    for name, other in others.items():
        bits = np.unpackbits((base ^ other).view(np.uint8)).reshape(n, 64).sum(axis=0)
        z = np.abs(bits - n / 2) / math.sqrt(n / 4)
        assert math.erfc(float(z.max()) / math.sqrt(2)) > bound, name


def test_no_two_positions_of_a_document_share_a_draw() -> None:
    keys = np.arange(2000, dtype=np.uint64) * np.uint64(2**40)
    assert len(np.unique(draw(0, "mask", keys[:, None], np.arange(100)))) == 200_000


@cases(100)
@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20), st.integers(1, 2**31 - 1))
def test_below_is_the_product_rule_and_in_range(bits: list[int], bound: int) -> None:
    drawn = below(np.array(bits, np.uint64), bound).tolist()
    assert drawn == [(b >> 32) * bound >> 32 for b in bits]
    assert all(0 <= d < bound for d in drawn)


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 97])
def test_below_is_uniform(bound: int) -> None:
    counts = Counter(below(draw(11, "uniform", np.arange(60_000)), bound).tolist())
    assert set(counts) == set(range(bound))
    if bound > 1:
        assert fits([counts[i] for i in range(bound)], [60_000 / bound] * bound)


def test_happens_is_exact_at_the_ends_and_fair_between() -> None:
    extremes = np.array([0, 1, 2**11, 2**63, MASK - 2**11, MASK], dtype=np.uint64)
    assert not happens(extremes, 0.0).any()
    assert happens(extremes, 1.0).all()
    bits = draw(1, "coin", np.arange(100_000))
    for p in (0.01, 0.15, 0.5, 0.9):
        hits = int(happens(bits, p).sum())
        assert fits([hits, 100_000 - hits], [100_000 * p, 100_000 * (1 - p)])


@cases(60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_larger_validation_share_only_adds_documents(shares: list[float]) -> None:
    keys = document_keys("s", (str(i) for i in range(3000)))
    masks = [validation_mask(keys, s) for s in sorted(shares)]
    assert all((b | ~a).all() for a, b in pairwise(masks))
    assert not validation_mask(keys, 0.0).any()
    assert validation_mask(keys, 1.0).all()


def test_the_split_has_the_share_asked_for() -> None:
    keys = document_keys("s", (str(i) for i in range(50_000)))
    held = int(validation_mask(keys, 0.03).sum())
    assert fits([held, 50_000 - held], [1500, 48_500])


def test_keys_of_texts_are_blake2b_of_the_parts() -> None:
    digest = hashlib.blake2b(b"document\0wiki\0caf\xc3\xa9", digest_size=8).digest()
    assert document_keys("wiki", ["café"]).tolist() == [int.from_bytes(digest, "little")]
    assert document_keys("wiki", ["café"]).dtype == np.uint64
    assert document_keys("wiki", []).tolist() == []
    assert len({text_key("ab", "c"), text_key("a", "bc"), text_key("abc"), text_key("abc", "")}) == 4
