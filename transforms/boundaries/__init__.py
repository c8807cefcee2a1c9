"""Where a text can be cut so that its parts, encoded each for itself, have together the ids of the whole.

A tokenizer of `tokenizers` normalizes a text, divides it into words, and looks at one word at a time from then on.
So a cut is safe where it lies between two words and neither the normalizer nor what divides the text sees across it.
Each of the rules says why that is so of its cuts: `byte_level`, `bert` and `metaspace`.
"""

from transforms.boundaries.cuts import Boundaries
from transforms.boundaries.detect import boundaries_of

__all__ = ["Boundaries", "boundaries_of"]
