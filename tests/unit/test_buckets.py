"""Padding of length buckets against arithmetic by hand, and the saving against what others measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

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


@pytest.mark.parametrize(
    ("lengths", "counts", "edges"),
    [([0], [1], [8]), ([9], [1], [8]), ([1], [-1], [8]), ([1, 2], [1], [8]), ([1], [1], [8, 8]), ([1], [1], [])],
)
def test_histograms_and_edges_that_make_no_sense_are_refused(
    lengths: list[int], counts: list[int], edges: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"lengths|counts|edges"):
        padding(np.array(lengths), np.array(counts), edges)
