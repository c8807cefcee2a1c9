"""Gates on rows with sentinels: lengths of spans, and that further passes hide others."""

from __future__ import annotations

from transforms.gates.chance import places_gate
from transforms.gates.gate import Evidence, Gate
from transforms.gates.passes import passes_differ
from transforms.statistics.sentinels import SHARED_SPANS


def span_gates(e: Evidence, tests: int = 1) -> list[Gate]:
    """`span_lengths` and `passes_differ`.

    Args:
      e: what was measured.
      tests: statistical tests of all gates of the objective, which share the false-alarm level.
    """
    law = "spans of k tokens with P(k) = C(noise − k − 1, spans − 2) / C(noise − 1, spans − 1), each row by its own"
    return [places_gate(e, "span_lengths", "span_length", law, tests, spread=SHARED_SPANS), passes_differ(e)]
