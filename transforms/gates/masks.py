"""Gates on the random part of masking: how masked places are shown, and where they lie.

A gate fails only if the deviation is both improbable (`FALSE_ALARM` divided by the number of tests) and larger than
an effect floor: a good dataset passes at any size, and a huge one is not failed for a deviation of no consequence.
"""

from __future__ import annotations

import numpy as np

from transforms.gates.chance import FALSE_ALARM, Share, places_gate, worst_shard
from transforms.gates.gate import Evidence, Gate
from transforms.gates.passes import passes_differ
from transforms.objectives.masking import MaskingParameters
from transforms.objectives.selection import ngram_law, span_length_law
from transforms.statistics.judged_rows import words_are_judged
from transforms.statistics.left_out import left_out_is_judged
from transforms.statistics.mask_law import REPLACEMENT_FLOOR, clustering, expected_shares, position_floor
from transforms.statistics.mask_positions import FIXED_POINT
from transforms.statistics.significance import (
    detectable_proportion,
    proportion_tail,
)

LEAST_OF_BUDGET = 0.75
"""Share of the law's places that rows of n-grams or spans have at least, taken together. What exceeds the rest of a
row's budget is skipped, which leaves less than a hundredth unused where most words are of few tokens."""

RUNS_FLOOR = 0.02
"""Smallest deviation that fails of the share of masked places that follow another."""

LEAST_OF_RUNS = 0.4
"""Of the share that n-grams and spans add to it by their law, the part that rows have at least; less where much is
masked, see `_least_of_runs`."""


def mask_gates(e: Evidence) -> list[Gate]:
    """`mask_counts`, `mask_replacement`, `mask_uniformity`, `mask_runs` and `passes_differ`."""
    sources = sorted({group.source for group, _ in e.found.select()})
    tests = 3 * (len(sources) + 1) + 3 + 3  # the last three are shares of the worst shard
    level = FALSE_ALARM / tests
    return [
        _counts(e, level),
        _replacement(e, sources, level),
        _uniformity(e, tests),
        _runs(e, level),
        passes_differ(e),
    ]


def _parameters(e: Evidence) -> MaskingParameters:
    parameters = e.context.parameters
    assert isinstance(parameters, MaskingParameters)
    return parameters


def _counts(e: Evidence, level: float) -> Gate:
    """The number of masked places of each row is the law's; with words and runs at most that, and as many as fit."""
    parameters = _parameters(e)
    wrong, masked, law = (e.found.total(f) for f in ("mask_count_errors", "masked", "mask_law"))
    formula = f"{parameters.mask_rate:g} · length"
    formula = f"⌈{formula}⌉" if parameters.selection == "span" else f"max(1, round({formula}))"
    if parameters.max_predictions is not None:
        formula = f"min({parameters.max_predictions}, {formula})"
    unused, most_unused = 0.0, ""
    expected, passed, bound = f"{formula} masked places a row, {law:,} in all", True, "0 exceptions"
    if not parameters.exact_count:
        expected = f"at most {expected}"
        unused, most_unused = e.found.worst.get("mask_budget_unused", (0.0, ""))
        passed = masked >= LEAST_OF_BUDGET * law and unused <= 1 - LEAST_OF_BUDGET
        bound = f"0 exceptions, and at least {LEAST_OF_BUDGET:.0%} in all and in each shard"
    observed = f"{masked:,} masked; rows that break the law: {wrong:,}"
    figures: tuple[str, ...] = ("mask_count_errors",)
    if left_out_is_judged(e.context):
        left_out = e.found.total("mask_left_out")
        passed, bound, most_unused = left_out == 0, "0 exceptions", e.worst("mask_left_out") or ""
        expected += ", and no word left out that the rest would hold"
        observed += f"; words left out: {left_out:,}"
        figures = ("mask_count_errors", "mask_left_out")
    elif unused > 1 - LEAST_OF_BUDGET:
        observed += f"; a shard has {1 - unused:.0%} alone"
    if parameters.selection == "bernoulli":
        candidates = e.found.total("mask_candidates")
        share = masked / candidates if candidates else 0.0
        spread = clustering(e.found) if parameters.whole_word else 1.0
        tail = proportion_tail(round(masked / spread), round(candidates / spread), parameters.mask_rate)
        passed = tail >= level or abs(share - parameters.mask_rate) <= REPLACEMENT_FLOOR
        expected = f"{parameters.mask_rate:.3%} of the places that may be masked, a coin each"
        observed = f"{share:.3%} of {candidates:,}; rows that break the law: {wrong:,}"
        bound = f"binomial tail ≥ {level:.0e} or deviation ≤ {REPLACEMENT_FLOOR:.1%}"
    return Gate(
        name="mask_counts",
        passed=wrong == 0 and passed,
        expected=expected,
        observed=observed,
        bound=bound,
        n=e.found.total("rows"),
        effect=float(wrong),
        worst_shard=e.worst("mask_count_errors") or most_unused or None,
        figures=figures,
    )


def _replacement(e: Evidence, sources: list[str], level: float) -> Gate:
    overall = _shares(e, None)
    failing = [
        (source, share)
        for source in (None, *sources)
        for share in _shares(e, source).values()
        if share.fails(level, REPLACEMENT_FLOOR)
    ]
    where = sorted({source for source, _ in failing if source is not None})
    alone, worst = worst_shard(e, "replacement_surprise", level)
    return Gate(
        name="mask_replacement",
        passed=not failing and alone == "",
        expected=", ".join(f"{s.probability:.3%} {name}" for name, s in overall.items()),
        observed=", ".join(f"{s.observed:.3%} {name}" for name, s in overall.items())
        + (f"; off in {', '.join(where)}" if where else "")
        + alone,
        bound=f"binomial tail ≥ {level:.0e} or deviation ≤ {REPLACEMENT_FLOOR:.1%}; smallest deviation detectable: "
        f"{max(detectable_proportion(s.n, s.probability, level) for s in overall.values()):.2%}",
        n=e.found.total("masked"),
        effect=max((s.effect for _, s in failing), default=max(s.effect for s in overall.values())),
        worst_shard=worst,
        figures=tuple(f"shown_{name}" for name, s in _excess(overall)),
    )


def _excess(shares: dict[str, Share]) -> list[tuple[str, Share]]:
    """The share that is furthest above its law, by name."""
    return sorted(shares.items(), key=lambda found: found[1].probability - found[1].observed)[:1]


def _shares(e: Evidence, source: str | None) -> dict[str, Share]:
    """The three shares in one source, or in all."""
    where: dict[str, str | int] = {} if source is None else {"source": source}
    parameters = _parameters(e)
    # A span is shown alike throughout, so its places count as one draw.
    spread = clustering(e.found, **where) if parameters.selection == "span" else 1.0
    n = e.found.total("masked", **where)
    expected = expected_shares(parameters, e.context.text_ids)
    return {name: Share(e.found.total(f"shown_{name}", **where), n, p, spread) for name, p in expected.items()}


def _uniformity(e: Evidence, tests: int) -> Gate:
    """Masked places by relative position.

    Places of a row are drawn without replacement, which makes chi-square smaller; whole words make it larger, by at
    most their mean squared size over size.
    """
    words = "words of the same size" if words_are_judged(e.context) else "places"
    return places_gate(
        e,
        "mask_uniformity",
        "mask_position",
        f"masked places spread over rows like the {words} that may be masked",
        tests,
        position_floor(_parameters(e)),
        clustering(e.found),
    )


def _least_of_runs(masked_share: float) -> float:
    """Of the share of places behind a masked one that the law of runs adds to chance, the part that is asked for.

    Runs are cut at special tokens, at the budget and at each other, and what is too narrow for one stays free, which
    breaks runs where much is masked. Bigrams, which have least of it, had .84 of the law's share at 15 % masked, .52
    at 40 %, .20 at 60 % and −.1 at 75 %; half of the line through these is asked for.
    """
    return min(LEAST_OF_RUNS, max(0.0, (1 - 1.5 * masked_share) / 2))


def _runs(e: Evidence, level: float) -> Gate:
    """As many masked places follow a masked one as by chance, or more by what the law of runs adds.

    A place drawn alone follows one by chance; of an n-gram or span of k units, k − 1 follow one for sure.
    """
    parameters = _parameters(e)
    places, candidates, pairs, observed = (
        e.found.total(f) for f in ("run_places", "run_candidates", "run_pairs", "mask_neighbours")
    )
    n = max(1, places)
    chance, share = e.found.total("mask_neighbours_expected") / FIXED_POINT / n, observed / n
    laws = {
        "ngram": ngram_law(parameters.max_ngram),
        "span": span_length_law(parameters.span_geometric_p, parameters.max_span_words),
    }
    law = laws.get(parameters.selection, np.ones(1))
    inner = 1 - 1 / float(law @ np.arange(1, len(law) + 1))
    part = _least_of_runs(places / max(1, candidates))
    least = chance + part * inner * (1 - chance) * pairs / max(1, candidates)
    spread = clustering(e.found)
    improbable = proportion_tail(round(share * n / spread), round(n / spread), least) < level
    lone = inner == 0 and not parameters.whole_word and parameters.selection != "span"
    deviation = max(least - share, (share - least) if lone else 0.0)
    wrong, judged = (e.found.total(f) for f in ("mask_run_errors", "mask_runs_judged"))
    lengths = ", and every run ends where a draw says, but for the budget's sake" if judged else ""
    return Gate(
        name="mask_runs",
        passed=wrong == 0 and not (improbable and deviation > RUNS_FLOOR),
        expected=f"{'' if lone else 'at least '}{least:.2%} of masked places behind another, {chance:.2%} by chance"
        + lengths,
        observed=f"{share:.2%} of {places:,}" + (f"; {wrong:,} of {judged:,} runs end elsewhere" if judged else ""),
        bound=f"binomial tail ≥ {level:.0e} or deviation ≤ {RUNS_FLOOR:.0%}; smallest deviation detectable: "
        f"{detectable_proportion(round(n / spread), min(least, 0.5), level):.2%}",
        n=places,
        effect=max(deviation, 0.0),
        worst_shard=e.worst("mask_run_errors"),
        figures=("mask_run_errors",) if judged else (),
    )
