"""Small oracles and builders that the unit tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings

from schemas.job import Job
from schemas.source import Source
from schemas.store import InputRange, PartSidecar
from transforms.objectives.base import Documents
from transforms.ragged import Ragged
from transforms.vocabulary import Vocabulary

FALSE_ALARM = 1e-6
"""Chance that a test of a distribution fails though the code is right; with fixed seeds, always or never."""


def cases(examples: int) -> settings:
    """Hypothesis settings: reproducible, nothing written to disk, no clock."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(X >= statistic) of a chi-square variable: the regularised upper incomplete gamma function Q(k/2, x/2)."""
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:  # the series of P converges quickly here
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-15:
            n += 1
            term *= x / n
            total += term
        return 1 - front * total
    # Lentz's continued fraction of Q.
    b = x + 1 - a
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 10_000):
        an = -i * (i - a)
        b += 2
        d = 1 / (an * d + b)
        c = b + an / c
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * h


def fits(observed: Sequence[float], expected: Sequence[float]) -> bool:
    """False if these counts would come from these expectations with a chance below `FALSE_ALARM`."""
    assert len(observed) == len(expected)
    assert min(expected) > 5, "too few draws for a chi-square test"
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return chi_square_tail(statistic, len(expected) - 1) >= FALSE_ALARM


def lists(ragged: Ragged) -> list[list[int]]:
    """A ragged array as Python lists, by slicing only."""
    flat, offsets = ragged.flat.tolist(), ragged.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(offsets)]


def ragged(rows: Sequence[Sequence[int]], dtype: Any = np.int32) -> Ragged:
    """Python lists as a ragged array."""
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row))
    return Ragged(np.array([x for row in rows for x in row], dtype=dtype), np.array(offsets, dtype=np.int64))


def corpus(
    documents: Sequence[Sequence[int]],
    *,
    keys: Sequence[int] | None = None,
    copy: int = 0,
    ends: Sequence[Sequence[int]] | None = None,
) -> Documents:
    """Documents of these ids, with keys 0, 1, … and, if given, these ends of sentences."""
    return Documents(
        ids=ragged(documents),
        keys=np.array(range(len(documents)) if keys is None else keys, dtype=np.uint64),
        copy=copy,
        sentence_ends=None if ends is None else ragged(ends),
    )


SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 5}
FIRST_TEXT_ID = 6


def vocabulary(
    size: int = 60, *, continuing: Sequence[int] = (), tells_words: bool = True, roles: dict[str, int] | None = None
) -> Vocabulary:
    """A vocabulary whose ids from `FIRST_TEXT_ID` on stand for text."""
    special = np.zeros(size, dtype=bool)
    special[:FIRST_TEXT_ID] = True
    starts = np.ones(size, dtype=bool)
    starts[list(continuing)] = False
    return Vocabulary(
        sha256="",
        size=size,
        special_ids=SPECIAL_IDS if roles is None else roles,
        is_special=special,
        sentinel_ids=np.zeros(0, np.int32),
        starts_word=starts if tells_words else None,
    )


def job(**changes: Any) -> Job:
    """A valid job with these top-level keys replaced."""
    raw = {
        "name": "unit",
        "output": "/nowhere/out",
        "tokenizer": {"file": "/nowhere/tokenizer.json"},
        "sources": [{"name": "a", "files": ["/nowhere/a.txt"]}],
    }
    return Job.model_validate({**raw, **changes})


def input_range(
    path: Path,
    kind: str,
    *,
    begin: int = 0,
    end: int | None = None,
    compression: str | None = None,
    part: int = 0,
    file: str = "corpus/file",
    source: str = "s",
) -> InputRange:
    """A range of a local file; the whole file by default."""
    size = path.stat().st_size
    return InputRange(
        source=source,
        part=part,
        uri=str(path),
        file=file,
        format=kind,  # type: ignore[arg-type]
        compression=compression,  # type: ignore[arg-type]
        begin=begin,
        end=size if end is None else end,
        size_bytes=size,
        mtime_ns=0,
        cost_bytes=size,
    )


def source(**changes: Any) -> Source:
    """A source that reads files."""
    return Source.model_validate({"name": "s", "files": ["x"], **changes})


def sidecar(
    name: str,
    part: int,
    chunks: Sequence[tuple[int, int]],
    *,
    file: str | None = None,
    begin: int = 0,
    lengths: Sequence[tuple[int, int]] = (),
    **changes: Any,
) -> PartSidecar:
    """A part's sidecar that claims these (documents, tokens) of each row group."""
    return PartSidecar.model_validate(
        {
            "fingerprint": "0" * 32,
            "source": name,
            "split": "train",
            "part": part,
            "file": f"file-{part}" if file is None else file,
            "begin": begin,
            "documents": sum(d for d, _ in chunks),
            "tokens": sum(t for _, t in chunks),
            "text_bytes": 1,
            "size_bytes": 1,
            "sha256": "0" * 64,
            "chunk_documents": [d for d, _ in chunks],
            "chunk_tokens": [t for _, t in chunks],
            "length_tokens": [n for n, _ in lengths],
            "length_documents": [d for _, d in lengths],
            **changes,
        }
    )
