"""Length buckets against every choice of buckets there is, and padding against arithmetic by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from transforms.best_lengths import best_lengths
from transforms.buckets import padding

HISTOGRAMS = st.dictionaries(st.integers(1, 60), st.integers(0, 1000) | st.integers(0, 3), max_size=20)

WIKIPEDIA_ROWS = [584835, 2278244, 1853320, 1297484, 1014430, 841112, 720373, 629192]
WIKIPEDIA_ROWS += [554205, 496001, 449775, 409734, 375272, 347246, 321394, 4106935]
"""BERT's pretraining sequences of Wikipedia at 512, by length: 1 to 32, 33 to 64, … 481 to 512. Summed from
`wikipedia_histogram` (graphcore/examples, tutorials/blogs_code/packedBERT/histograms.py; arXiv 2107.02027), whose
README says 16,279,552 sequences."""


def arrays(histogram: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(histogram), dtype=np.int64), np.array(list(histogram.values()), dtype=np.float64)


def padded(histogram: dict[int, int], edges: list[int]) -> int:
    return sum(count * min(e for e in edges if e >= length) for length, count in histogram.items())


def every_choice(longest: int, most: int, multiple: int) -> list[list[int]]:
    candidates = range(multiple, longest, multiple)
    return [[*c, longest] for k in range(most) for c in combinations(candidates, k)]


@cases(150)
@given(HISTOGRAMS, st.integers(0, 15), st.integers(1, 4), st.sampled_from([5, 8, 16]))
def test_no_other_choice_of_buckets_pads_less_and_none_as_good_is_smaller(
    histogram: dict[int, int], room: int, most: int, multiple: int
) -> None:
    longest = max(histogram, default=0) + room or 1
    edges = best_lengths(*arrays(histogram), longest, most, multiple)
    assert edges[-1] == longest
    assert len(edges) <= most
    assert edges == sorted(set(edges))
    assert all(e % multiple == 0 for e in edges[:-1])
    costs = {tuple(c): padded(histogram, c) for c in every_choice(longest, most, multiple)}
    assert padded(histogram, edges) == min(costs.values())
    assert len(edges) == min(len(c) for c, cost in costs.items() if cost == min(costs.values()))


def slow_best(lengths: np.ndarray, counts: np.ndarray, longest: int, most: int, multiple: int) -> float:
    """The same recurrence over all candidates and all origins."""
    edges = np.append(np.arange(0, longest, multiple), longest)
    up_to = np.array([counts[lengths <= e].sum() for e in edges])
    cost = np.where(edges[:, None] <= edges, edges * (up_to - up_to[:, None]), np.inf)
    best = np.where(edges == 0, 0.0, np.inf)
    least = np.inf
    for _ in range(most):
        best = (best[:, None] + cost).min(axis=0)
        least = min(least, best[-1])
    return least


@pytest.mark.parametrize("most", [1, 2, 5, 8, 40])
@pytest.mark.parametrize("shape", ["uniform", "short", "two humps", "all the longest"])
def test_a_thousand_lengths_are_cut_as_well_as_the_full_recurrence_does(most: int, shape: str) -> None:
    random = np.random.default_rng(5)
    rows = {
        "uniform": random.integers(1, 1001, 5000),
        "short": np.minimum(1000, random.lognormal(4, 1, 5000).astype(int) + 1),
        "two humps": np.clip(np.append(random.normal(100, 30, 4000), random.normal(800, 60, 1000)), 1, 1000).astype(
            int
        ),
        "all the longest": np.full(10, 1000),
    }[shape]
    lengths, counts = np.unique(rows, return_counts=True)
    edges = best_lengths(lengths, counts, 1000, most)
    assert len(edges) <= most
    assert padding(lengths, counts, edges).padded_tokens.sum() == slow_best(lengths, counts, 1000, most, 8)


@cases(50)
@given(HISTOGRAMS, st.integers(1, 7))
def test_another_bucket_never_adds_padding(histogram: dict[int, int], most: int) -> None:
    lengths, counts = arrays(histogram)
    fewer, more = best_lengths(lengths, counts, 64, most), best_lengths(lengths, counts, 64, most + 1)
    assert padding(lengths, counts, more).share <= padding(lengths, counts, fewer).share
    assert padding(lengths, counts, fewer).speed_up >= 1


@cases(50)
@given(HISTOGRAMS, st.randoms(use_true_random=False), st.sampled_from([1e-9, 3.0, 1e9]))
def test_neither_the_order_nor_the_unit_of_the_counts_matters(
    histogram: dict[int, int], order: object, unit: float
) -> None:
    lengths, counts = arrays(histogram)
    shuffled = np.random.default_rng(order.randint(0, 99)).permutation(len(lengths))  # type: ignore[attr-defined]
    edges = best_lengths(lengths, counts, 64, 3)
    assert best_lengths(lengths[shuffled], counts[shuffled], 64, 3) == edges
    scaled = best_lengths(lengths, counts * unit, 64, 3)
    # Equal padding may be told apart by rounding, where the unit is no power of two.
    assert padded(histogram, scaled) == padded(histogram, edges)
    assert best_lengths(lengths, counts * 2.0**40, 64, 3) == edges


def test_rows_of_a_million_tokens_are_no_trouble() -> None:
    lengths = np.arange(1, 2**20 + 1, 7)
    edges = best_lengths(lengths, np.ones(len(lengths)), 2**20, 4)
    # A flat histogram is cut best into equal parts.
    assert edges == pytest.approx([2**18, 2**19, 3 * 2**18, 2**20], abs=64)


def test_one_bucket_no_rows_or_rows_of_one_length_need_no_search() -> None:
    assert best_lengths(np.array([5, 60]), np.array([3, 1]), 64, most=1) == [64]
    assert best_lengths(np.zeros(0, np.int64), np.zeros(0), 64) == [64]
    assert best_lengths(np.array([5]), np.array([0]), 64) == [64]
    assert best_lengths(np.array([5]), np.array([9]), 64) == [8, 64]
    assert best_lengths(np.array([64]), np.array([9]), 64) == [64]
    assert best_lengths(np.array([61, 62]), np.array([9, 9]), 62) == [62], "a bucket above the longest"
    assert best_lengths(np.array([3]), np.array([1]), 4, multiple=8) == [4]


def test_the_last_bucket_costs_its_own_length_and_not_the_next_multiple() -> None:
    # 8·100 + 62·79 = 5698 against 32·178 + 62 = 5758; with 64 for 62, the second would be less: 5856 and 5760.
    assert best_lengths(np.array([5, 30, 61]), np.array([100, 78, 1]), 62, most=2) == [8, 62]


def test_padding_by_hand() -> None:
    found = padding(np.array([3, 10, 16, 17]), np.array([2, 1, 1, 4]), [8, 16, 24, 32])
    assert found.rows.tolist() == [2, 2, 4, 0]
    assert found.tokens.tolist() == [6, 26, 68, 0]
    assert found.padded_tokens.tolist() == [16, 32, 96, 0]
    assert found.shares == pytest.approx([10 / 16, 6 / 32, 28 / 96, 0])
    assert found.share == pytest.approx(44 / 144)
    assert found.speed_up == 8 * 32 / 144


def test_padding_of_nothing_is_nothing() -> None:
    found = padding(np.zeros(0, np.int64), np.zeros(0), [8, 16])
    assert found.share == 0
    assert found.shares.tolist() == [0, 0]
    assert found.speed_up == 1


@cases(60)
@given(HISTOGRAMS, st.lists(st.integers(1, 63), unique=True, max_size=6))
def test_the_share_of_padding_is_the_mean_of_the_buckets_by_positions(
    histogram: dict[int, int], edges: list[int]
) -> None:
    lengths, counts = arrays(histogram)
    found = padding(lengths, counts, [*sorted(edges), 64])
    assert found.rows.sum() == counts.sum()
    assert found.tokens.sum() == (lengths * counts).sum()
    assert found.padded_tokens.sum() == padded(histogram, [*sorted(edges), 64])
    if found.rows.sum():
        assert found.share == pytest.approx(float(np.average(found.shares, weights=found.padded_tokens)), abs=1e-12)
        # Positions saved by buckets and padding left in them are two sides of one sum.
        assert found.tokens.sum() == pytest.approx(64 * counts.sum() / found.speed_up * (1 - found.share))


def test_bins_of_wikipedia_save_what_was_measured_in_training() -> None:
    lengths, counts = np.arange(32, 513, 32), np.array(WIKIPEDIA_ROWS)
    assert counts.sum() == 16_279_552
    predicted = {width: padding(lengths, counts, range(width, 513, width)).speed_up for width in (256, 128, 64, 32)}
    # LDDL's bins on the same corpus, by the clock. Work in proportion to positions is what a clock can gain at most;
    # with two bins it gains all of it, with 16 it loses a little to smaller batches.
    measured = {256: 1.40, 128: 1.64, 64: 1.73, 32: 1.76}
    assert predicted[256] == pytest.approx(measured[256], abs=0.01)
    for width, seen in measured.items():
        assert seen - 0.01 < predicted[width] < seen * 1.1
    # As many buckets, better placed, save more.
    for width in (256, 128, 64):
        chosen = best_lengths(lengths, counts, 512, 512 // width, 32)
        assert padding(lengths, counts, chosen).speed_up > predicted[width]


@pytest.mark.parametrize(
    ("lengths", "counts", "edges"),
    [
        ([0], [1], [8]),
        ([9], [1], [8]),
        ([1], [-1], [8]),
        ([1], [float("nan")], [8]),
        ([1], [float("inf")], [8]),
        ([1, 2], [1], [8]),
        ([1], [1], [8, 8]),
        ([1], [1], []),
    ],
)
def test_histograms_and_edges_that_make_no_sense_are_refused(
    lengths: list[int], counts: list[float], edges: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"lengths|counts|edges"):
        padding(np.array(lengths), np.array(counts), edges)
    if edges == [8]:
        with pytest.raises(ValueError, match=r"lengths|counts"):
            best_lengths(np.array(lengths), np.array(counts), 8)
    with pytest.raises(ValueError, match="at least 1"):
        best_lengths(np.array([1]), np.array([1]), 8, most=0)
