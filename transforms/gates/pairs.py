"""Gates on pairs of segments: how often B follows A, and whether the labels are those of fair coins.

Counted in the train split: validation has the same documents, and so the same coins, in every stage.
"""

from __future__ import annotations

from typing import Literal

from transforms.gates.chance import FALSE_ALARM
from transforms.gates.gate import Evidence, Gate
from transforms.statistics.significance import detectable_proportion, proportion_tail

LABEL_FLOOR = 0.005
"""Smallest deviation of a share of pairs that fails: 0.5 percentage points."""

FORCED_BOUND = 0.001
"""Largest share of random pairs that contradict what is known of their document.

Not zero, since two documents of a corpus may have one id, and are one document to the audit.
"""

_LEVEL = FALSE_ALARM / 3


def pair_gates(e: Evidence, task: Literal["nsp", "sop"], coin_prob: float) -> list[Gate]:
    """`random_next`, `pair_coin_share` and `one_sentence_chunks` of nsp; `swapped_share` of sop."""
    n, not_next = _train(e, "rows"), _train(e, "pairs_not_next")
    if task == "sop":
        return [_share("swapped_share", "pairs with their segments swapped", not_next, n, coin_prob)]
    coins = _share(
        "pair_coin_share",
        "coins that say random, of pairs whose coin can be told without looking at the label",
        _train(e, "pair_coins_random"),
        _train(e, "pair_coins"),
        coin_prob,
    )
    return [_random_next(e, not_next, n, coin_prob), coins, _one_sentence_chunks(e)]


def _train(e: Evidence, figure: str) -> int:
    return e.found.total(figure, split="train")


def _share(name: str, what: str, count: int, n: int, probability: float) -> Gate:
    """A share against its law, too many and too few."""
    observed = count / n if n else probability
    effect = abs(observed - probability)
    improbable = proportion_tail(count, n, probability) < _LEVEL
    return Gate(
        name=name,
        passed=not (improbable and (effect > LABEL_FLOOR or probability in (0.0, 1.0))),
        expected=f"{probability:.2%} {what}, a coin each",
        observed=f"{observed:.2%} of {n:,}",
        bound=f"binomial tail ≥ {_LEVEL:.0e} or deviation ≤ {LABEL_FLOOR:.1%}; "
        f"smallest deviation detectable: {detectable_proportion(n, probability, _LEVEL):.2%}",
        n=n,
        effect=effect,
    )


def _random_next(e: Evidence, count: int, n: int, p: float) -> Gate:
    """P(random) = p + (1 − p) · q with q the share of chunks of one sentence, so p at least.

    Of the pairs that have a choice: a B that follows is all there is where a source has no other document.
    """
    alone = _train(e, "pairs_alone")
    n -= alone
    observed = count / n if n else p
    lone = (observed - p) / (1 - p) if p < 1 else 0.0
    notes = [f"so q = {lone:.2%} have one sentence"] if lone > 0 else []
    notes += [f"beside {alone:,} with no other document of their source in sight"] if alone else []
    short = max(0.0, p - observed)
    return Gate(
        name="random_next",
        passed=proportion_tail(count, n, p) >= _LEVEL or short <= LABEL_FLOOR,
        expected=f"at least {p:.2%} of pairs with a B from another document, where there is one: p + (1 − p) · q, q "
        "of the chunks having one sentence",
        observed="; ".join([f"{observed:.2%} of {n:,}", *notes]),
        bound=f"binomial tail ≥ {_LEVEL:.0e} or at most {LABEL_FLOOR:.1%} too few; "
        f"smallest lack detectable: {detectable_proportion(n, p, _LEVEL):.2%}",
        n=n,
        effect=short,
    )


def _one_sentence_chunks(e: Evidence) -> Gate:
    """Where B is random though the coin says next, A is one sentence that fills the chunk or ends its document."""
    forced, wrong = e.found.total("pairs_forced"), e.found.total("pairs_forced_errors")
    share = wrong / forced if forced else 0.0
    return Gate(
        name="one_sentence_chunks",
        passed=share <= FORCED_BOUND,
        expected="a random B against the coin only where A filled its chunk or its document goes on no further",
        observed=f"{wrong:,} exceptions in {forced:,} such pairs whose coin can be told",
        bound=f"share ≤ {FORCED_BOUND:g}, since two documents may have one id",
        n=forced,
        effect=share,
        worst_shard=e.worst("pairs_forced_errors"),
    )
