"""What the plan says of rows before there are any: lengths chosen by histogram, shares of each source by length."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases, job

from schemas.objectives import parse_objective
from schemas.plan import StagePlan
from transforms.buckets import padding
from transforms.objectives.base import Objective
from transforms.objectives.registry import objective_for
from transforms.prediction import KnownSource, predict_stage, with_lengths
from transforms.vocabulary import future_vocabulary

VOCABULARY = future_vocabulary(1000)


def objective(kind: str, **parameters: Any) -> Objective:
    return objective_for(parse_objective({"kind": kind, **parameters}), VOCABULARY)


def known(histogram: dict[int, int]) -> KnownSource:
    return KnownSource(tokens=sum(n * d for n, d in histogram.items()), lengths=histogram)


def chosen(
    kind: str, sources: dict[str, KnownSource], most: int, *, budget: int = 10**6, **changes: Any
) -> list[int]:
    """The lengths of one automatic stage over these sources, in proportion to their tokens."""
    total = sum(s.tokens for s in sources.values())
    shares = {n: Fraction(s.tokens, total) for n, s in sources.items()}
    stage = StagePlan(
        name="main", lengths=(most,), shares=shares, tokens={n: round(budget * f) for n, f in shares.items()}
    )
    made = job(
        sources=[{"name": n, "files": [n]} for n in sources],
        curriculum=[{"stage": "main", "lengths": "auto", "max_length": most}],
        objective={"kind": kind},
    )
    return list(with_lengths(made, objective(kind, **changes), [stage], sources)[0].lengths)


HISTOGRAM = st.dictionaries(st.integers(1, 700), st.integers(1, 50), min_size=1, max_size=30)


@cases(100)
@given(HISTOGRAM, HISTOGRAM, st.sampled_from([64, 100, 512]), st.integers(100, 10**9))
def test_automatic_lengths_pad_no_more_than_equal_steps_and_do_not_follow_the_budget(
    a: dict[int, int], b: dict[int, int], most: int, budget: int
) -> None:
    sources = {"a": known(a), "b": known(b)}
    lengths = chosen("mlm", sources, most, budget=budget)
    assert lengths == chosen("mlm", sources, most)
    assert lengths == sorted(set(lengths))
    assert 1 <= len(lengths) <= 8
    assert lengths[-1] <= most
    assert all(n % 8 == 0 for n in lengths[:-1])
    stage = StagePlan(
        name="main", lengths=tuple(lengths), shares={}, tokens={n: s.tokens for n, s in sources.items()}
    )
    predicted = predict_stage(objective("mlm"), stage, sources).padding
    rows = [r for s in sources.values() for r in _rows(s, lengths[-1])]
    steps = sorted({-(-(lengths[-1] * i // 8) // 8) * 8 for i in range(1, 8)} - {0} | {lengths[-1]})
    steps = [n for n in steps if n <= lengths[-1]]
    uniform = padding(np.array([n for n, _ in rows]), np.array([c for _, c in rows]), steps)
    assert float(predicted.padded_tokens.sum()) <= float(uniform.padded_tokens.sum()) * (1 + 1e-3)


def _rows(source: KnownSource, longest: int) -> list[tuple[int, int]]:
    """(row length, rows) of documents cut for this length, [CLS] and [SEP] counted, one document after another."""
    found = []
    for n, count in source.lengths.items():
        found += [(min(longest - 2, n - at) + 2, count) for at in range(0, n, longest - 2)]
    return found


@cases(60)
@given(HISTOGRAM, HISTOGRAM)
def test_expected_rows_hold_the_stages_tokens_and_shares_of_a_bucket_add_to_one(
    a: dict[int, int], b: dict[int, int]
) -> None:
    sources = {"a": known(a), "b": known(b)}
    stage = StagePlan(name="main", lengths=(32, 64, 128), shares={}, tokens={"a": 3 * sources["a"].tokens, "b": 77})
    predicted = predict_stage(objective("mlm"), stage, sources)
    corpus = predicted.padding.tokens.sum() - 2 * predicted.padding.rows.sum()
    assert corpus == pytest.approx(stage.total_tokens)
    for bucket in range(3):
        shares = predicted.shares(bucket)
        assert sum(shares.values()) == pytest.approx(1) or (shares == {} and predicted.padding.rows[bucket] == 0)


def test_a_length_curriculum_does_not_change_a_stages_mixture_but_that_of_its_lengths() -> None:
    """Documents of 20 and of 400 tokens, half of the tokens each: short rows are of the one, long of the other."""
    sources = {"short": known({20: 1000}), "long": known({400: 50})}
    stage = StagePlan(name="main", lengths=(32, 128), shares={}, tokens={"short": 20_000, "long": 20_000})
    predicted = predict_stage(objective("mlm"), stage, sources)
    assert predicted.shares(0)["short"] > 0.9
    assert predicted.shares(1) == {"short": 0.0, "long": 1.0}


def test_a_bucket_that_saves_next_to_nothing_is_not_added() -> None:
    assert chosen("mlm", {"a": known({510: 10_000, 30: 1})}, 512) == [512]
    assert chosen("mlm", {"a": known({510: 100, 30: 100})}, 512) == [32, 512]


def test_lengths_end_where_the_longest_row_does() -> None:
    assert chosen("mlm", {"a": known({50: 10})}, 512) == [56]
    assert chosen("causal", {"a": known({50: 10})}, 512) == [512], "rows of several documents are full"


def test_pieces_of_powers_of_two_get_their_own_lengths() -> None:
    assert chosen("causal", {"a": known({1000: 50, 90: 300})}, 512, pack="decompose") == [64, 128, 256, 512]


def test_a_source_of_which_only_tokens_are_known_has_full_rows() -> None:
    assert chosen("mlm", {"a": KnownSource(tokens=10**9, lengths={})}, 512) == [512]
