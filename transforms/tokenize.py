"""Tokenizes an input range into one part of the token store for each split.

`tokenize_range` is a pure function of (range, tokenizer, options) but for the files it commits: the parts, the
rejects, then the sidecars that say the range is done. The Beam side only deals out ranges.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from schemas.fingerprint import fingerprint
from schemas.job import Source
from schemas.keys import document_keys, validation_mask
from schemas.storage import Location, atomic_output
from schemas.store import (
    CHUNK_TOKENS,
    SPLITS,
    InputRange,
    PartSidecar,
    Split,
    part_location,
    rejects_location,
    sidecar_location,
)
from schemas.tables import FORMAT_VERSION, REJECTS
from transforms.parts import PartWriter
from transforms.ragged import Ragged
from transforms.read import Records, Reject, read_records
from transforms.vocabulary import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """What, beside the range, a part's bytes depend on."""

    store: str
    """URI of the token store."""
    source: Source
    tokenizer_uri: str
    tokenizer_sha256: str
    validation: float
    """Share of documents in the validation split."""
    max_record_bytes: int


def range_fingerprint(piece: InputRange, options: TokenizeOptions) -> str:
    """What a range's parts are made from; a sidecar with another fingerprint is stale."""
    return fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "chunk_tokens": CHUNK_TOKENS,
            "tokenizer": options.tokenizer_sha256,
            "validation": options.validation,
            "max_record_bytes": options.max_record_bytes,
            "text": options.source.text,
            "id": options.source.id,
            "range": piece.model_dump(exclude={"uri", "cost_bytes", "part"}),
        }
    )


def finished_range(piece: InputRange, options: TokenizeOptions) -> dict[Split, PartSidecar] | None:
    """The sidecars of a range that is done and still matches; None if there is work to do."""
    store, wanted = Location(options.store), range_fingerprint(piece, options)
    found: dict[Split, PartSidecar] = {}
    for split in SPLITS:
        try:
            data = sidecar_location(store, piece.source, split, piece.part).read_bytes()
            sidecar = PartSidecar.model_validate_json(data)
        except (FileNotFoundError, ValueError):
            return None  # never begun, or a sidecar of another version
        if sidecar.fingerprint != wanted:
            return None
        if sidecar.size_bytes:
            info = part_location(store, piece.source, split, piece.part).info()
            if info is None or info.size_bytes != sidecar.size_bytes:
                return None
        found[split] = sidecar
    return found


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> Ragged:
    """Ids of texts without special tokens, int32 flat."""
    encodings = [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
    flat = np.fromiter(chain.from_iterable(encodings), dtype=np.int32, count=int(lengths.sum()))
    return Ragged.from_lengths(flat, lengths)


@functools.lru_cache(maxsize=4)
def _tokenizer(uri: str, sha256: str) -> Tokenizer:
    """One load a process; the digest is part of the key so that a replaced file is seen."""
    return load_tokenizer(Location(uri).read_bytes(), where=uri)


def tokenize_range(piece: InputRange, options: TokenizeOptions) -> dict[Split, PartSidecar]:
    """Tokenize one range into the store, unless that is done already.

    Returns:
      The sidecars, one a split.

    Raises:
      DataError: the input cannot be read.
      RequestError: the store cannot be written.
    """
    if done := finished_range(piece, options):
        return done
    store, wanted = Location(options.store), range_fingerprint(piece, options)
    places = {s: part_location(store, piece.source, s, piece.part) for s in SPLITS}
    # Sidecars go first: a stale one must not vouch for a part that is being replaced.
    for split in SPLITS:
        sidecar_location(store, piece.source, split, piece.part).remove()
    totals = _Totals()
    with contextlib.ExitStack() as stack:
        writers = {s: PartWriter(places[s], stack) for s in SPLITS}
        for batch in _tokenized(piece, options, totals):
            for split, (keys, ids, doc_ids, text_bytes) in batch.items():
                writers[split].add(keys, ids, doc_ids, text_bytes)
        for writer in writers.values():
            writer.close()
    _write_rejects(rejects_location(store, piece.source, piece.part), piece, totals.rejects)
    sidecars: dict[Split, PartSidecar] = {}
    for split in reversed(SPLITS):
        part = writers[split]
        sidecars[split] = PartSidecar(
            fingerprint=wanted,
            source=piece.source,
            split=split,
            part=piece.part,
            file=piece.file,
            begin=piece.begin,
            documents=sum(d for d, _ in part.chunks),
            tokens=sum(t for _, t in part.chunks),
            text_bytes=part.text_bytes,
            size_bytes=part.sink.size_bytes if part.sink else 0,
            sha256=part.sink.sha256 if part.sink else "",
            chunks=part.chunks,
            lengths=sorted(part.lengths.items()),
            **(totals.of_range() if split == "train" else {}),
        )
        if part.sink is None:
            places[split].remove()
        data = orjson.dumps(sidecars[split].model_dump())
        sidecar_location(store, piece.source, split, piece.part).write_bytes(data)
    return sidecars


@dataclass
class _Totals:
    """What a range's batches add up to."""

    rejects: list[Reject] = field(default_factory=list)
    records: int = 0
    read_bytes: int = 0
    format_bytes: int = 0

    def of_range(self) -> dict[str, Any]:
        rejected, rejected_bytes = Counter[str](), Counter[str]()
        for reject in self.rejects:
            rejected[reject.reason] += 1
            rejected_bytes[reject.reason] += reject.size_bytes
        return {
            "range_bytes_read": self.read_bytes,
            "range_records": self.records,
            "format_bytes": self.format_bytes,
            "rejected": dict(sorted(rejected.items())),
            "rejected_bytes": dict(sorted(rejected_bytes.items())),
        }


_Batch = dict[Split, tuple[npt.NDArray[np.uint64], Ragged, list[str], int]]


def _tokenized(piece: InputRange, options: TokenizeOptions, totals: _Totals) -> Iterator[_Batch]:
    """Each batch of the range's documents by split, as (keys, ids, document ids, text bytes)."""
    tokenizer = _tokenizer(options.tokenizer_uri, options.tokenizer_sha256)
    for records in read_records(piece, options.source, options.max_record_bytes):
        totals.records += len(records.ids) + len(records.rejects)
        totals.read_bytes += records.read_bytes
        totals.format_bytes += records.format_bytes
        totals.rejects += records.rejects
        if records.ids:
            yield _tokenize_records(tokenizer, records, options, totals)


def _tokenize_records(tokenizer: Tokenizer, records: Records, options: TokenizeOptions, totals: _Totals) -> _Batch:
    ids = encode_batch(tokenizer, records.texts)
    keys = document_keys(options.source.name, records.ids)
    sizes = np.fromiter((len(t.encode()) for t in records.texts), dtype=np.int64, count=len(records.texts))
    has_tokens = ids.lengths > 0
    for i in np.flatnonzero(~has_tokens).tolist():
        # Say, a text of control characters only, which BERT's normalizer drops.
        excerpt = records.texts[i][:200]
        totals.rejects.append(Reject(records.offsets[i], "no_tokens", records.ids[i], int(sizes[i]), excerpt))
    held_out = validation_mask(keys, options.validation)
    batch: _Batch = {}
    for split, wanted in (("train", ~held_out), ("validation", held_out)):
        rows = np.flatnonzero(wanted & has_tokens)
        if len(rows):
            batch[split] = keys[rows], ids.take(rows), [records.ids[i] for i in rows.tolist()], int(sizes[rows].sum())  # type: ignore[index]
    return batch


def _write_rejects(place: Location, piece: InputRange, rejects: list[Reject]) -> None:
    if not rejects:
        place.remove()
        return
    table = pa.table(
        {
            "source": [piece.source] * len(rejects),
            "file": [piece.file] * len(rejects),
            "offset": [r.offset for r in rejects],
            "reason": [r.reason for r in rejects],
            "detail": [r.detail for r in rejects],
            "size_bytes": [r.size_bytes for r in rejects],
            "excerpt": [r.excerpt for r in rejects],
        },
        schema=REJECTS,
    )
    with atomic_output(place) as sink:
        pq.write_table(table, pa.PythonFile(sink, mode="w"), compression="zstd")
