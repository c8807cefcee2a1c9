"""replaced_token: replaced token detection (ELECTRA, Clark et al. 2020), as far as data goes.

Rows are those of mlm with ELECTRA's rates: 15 % of the places are predicted, of which 85 % are shown as the mask
token and 15 % as they are (section 3.1 and google-research/electra, pretrain/pretrain_helpers.py). The trainer's
generator fills in the masked places and its discriminator labels every token; a replacement that equals the original
is labelled original, which is why the original ids are all a shard has to hold.
"""

from __future__ import annotations

from typing import Literal

from schemas.base import Share
from transforms.objectives.mlm import MlmObjective, PackedMaskingParameters


class ReplacedToken(PackedMaskingParameters):
    """Replaced token detection (ELECTRA): masked rows for a generator and a discriminator."""

    kind: Literal["replaced_token"] = "replaced_token"
    mask_replace_prob: Share = 0.85
    """Share of predicted positions shown as the mask token."""
    random_replace_prob: Share = 0.0
    """Share of predicted positions shown as a random non-special token; the rest stay as they are."""


class ReplacedTokenObjective(MlmObjective):
    """Builds masked rows for replaced token detection."""

    parameters_class = ReplacedToken
