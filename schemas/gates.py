"""Names of the audit's figures that a job file's `gates` may bound, with what each one is."""

from __future__ import annotations

GATES = {
    "padding": "share of padding when every row is padded to its bucket's length",
    "rejected": "share of records rejected while reading",
    "duplicates": "share of rows that repeat an earlier row's input exactly",
    "unknown": "share of tokens that are the unknown token",
    "rows": "rows of the train split",
    "tokens": "corpus tokens of the train split",
    "repetition": "most passes over any source",
}
