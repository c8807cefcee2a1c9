"""Names of the audit's figures that a job file's `gates` may bound, with what each one is."""

from __future__ import annotations

GATES = {
    "padding": "share of padding when every row is padded to its bucket's length",
    "rejected": "share of records rejected while reading",
    "duplicates": "share of rows that repeat an earlier row's input exactly",
    "overlap": "share of validation rows whose text, as it was before masking, is a train row's too",
    "truncation": "share of pieces of documents that begin inside their document, cut by the piece before",
    "concatenation": "share of rows that hold more than one document",
    "bytes_per_token": "bytes of text a token that is not special; 0 where the tokenizer is not known",
    "vocabulary": "share of the ids that stand for text which occur",
    "unknown": "share of tokens that are the unknown token",
    "rows": "rows of the train split",
    "tokens": "corpus tokens of the train split",
    "repetition": "most passes over any source",
}
