"""The audit's gates: each holds what was measured against one law and says what it found. Pure functions.

`evaluate` runs them all; those of one objective are named by its class.
"""

from transforms.gates.gate import Evidence, Gate

__all__ = ["Evidence", "Gate"]
