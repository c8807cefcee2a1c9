"""Tokenizes an input range into one part of the token store for each split.

`tokenize_range` is a pure function of (range, tokenizer, options) but for the files it commits: the parts, the
rejects, then the sidecars that say the range is done. The Beam side only deals out ranges.
"""

from __future__ import annotations

import contextlib
import functools
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.fingerprint import fingerprint, text_identity
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
from schemas.tables import FORMAT_VERSION, REJECTS, token_store_schema
from transforms.encode import Encoder, encode_batch
from transforms.lines import EXCERPT_BYTES
from transforms.memory import keep_freed_memory
from transforms.parts import PartWriter, Tokenized
from transforms.ragged import Ragged
from transforms.read import read_records
from transforms.records import Records, Reject
from transforms.selfcheck import check_ids
from transforms.sentences import sentence_bounds, sentence_fingerprint
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
    sentences: bool = False
    """Write sentence ends."""
    pairs: bool = False
    """Records are an input and a target."""


def range_fingerprint(piece: InputRange, options: TokenizeOptions) -> str:
    """What the documents and ids of a range are made from; a sidecar with another fingerprint is stale.

    How sentences are found is not part of it, so that a job that reads none takes a part that has them.
    """
    return fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "chunk_tokens": CHUNK_TOKENS,
            "tokenizer": options.tokenizer_sha256,
            "validation": options.validation,
            "max_record_bytes": options.max_record_bytes,
            **text_identity(options.source),
            "id": options.source.id,
            "range": piece.model_dump(exclude={"uri", "cost_bytes", "part"}),
        }
    )


def finished_range(piece: InputRange, options: TokenizeOptions) -> dict[Split, PartSidecar] | None:
    """The sidecars of a range that is done and still matches; None if there is work to do."""
    store, wanted = Location(options.store), range_fingerprint(piece, options)
    sentences = sentence_fingerprint(options.source) if options.sentences else None
    found: dict[Split, PartSidecar] = {}
    for split in SPLITS:
        try:
            data = sidecar_location(store, piece.source, split, piece.part).read_bytes()
            sidecar = PartSidecar.model_validate_json(data)
        except (FileNotFoundError, ValueError):
            return None  # never begun, or a sidecar of another version
        if sidecar.fingerprint != wanted or sentences not in (None, sidecar.sentences):
            return None
        if sidecar.size_bytes:
            info = part_location(store, piece.source, split, piece.part).info()
            if info is None or info.size_bytes != sidecar.size_bytes:
                return None
        found[split] = sidecar
    return found


@functools.lru_cache(maxsize=1)
def _encoder(uri: str, sha256: str) -> Encoder:
    """One a process, so that a range finds what others met; the digest makes a replaced file seen."""
    return Encoder(load_tokenizer(Location(uri).read_bytes(), where=uri))


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
    keep_freed_memory()
    store, wanted = Location(options.store), range_fingerprint(piece, options)
    places = {s: part_location(store, piece.source, s, piece.part) for s in SPLITS}
    # Sidecars go first: a stale one must not vouch for a part that is being replaced.
    for split in SPLITS:
        sidecar_location(store, piece.source, split, piece.part).remove()
    totals = _Totals()
    schema = token_store_schema(sentences=options.sentences, pairs=options.pairs)
    with contextlib.ExitStack() as stack:
        writers = {s: PartWriter(places[s], schema, stack) for s in SPLITS}
        for batch in _tokenized(piece, options, totals):
            for split, documents in batch.items():
                writers[split].add(documents)
        for writer in writers.values():
            writer.close()
    _write_rejects(rejects_location(store, piece.source, piece.part), piece, totals.rejects)
    sidecars: dict[Split, PartSidecar] = {}
    for split in reversed(SPLITS):
        part = writers[split]
        sidecars[split] = PartSidecar(
            fingerprint=wanted,
            sentences=sentence_fingerprint(options.source) if options.sentences else "",
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
            chunk_documents=array("q", [d for d, _ in part.chunks]),
            chunk_tokens=array("q", [t for _, t in part.chunks]),
            length_tokens=array("q", sorted(part.lengths)),
            length_documents=array("q", [part.lengths[n] for n in sorted(part.lengths)]),
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


def _tokenized(piece: InputRange, options: TokenizeOptions, totals: _Totals) -> Iterator[dict[Split, Tokenized]]:
    """Each batch of the range's documents by split."""
    encoder = _encoder(options.tokenizer_uri, options.tokenizer_sha256)
    for records in read_records(piece, options.source, options.max_record_bytes):
        totals.records += len(records.ids) + len(records.rejects)
        totals.read_bytes += records.read_bytes
        totals.format_bytes += records.format_bytes
        totals.rejects += records.rejects
        if records.ids:
            yield _tokenize_records(encoder, records, options, totals)


def _tokenize_records(
    encoder: Encoder, records: Records, options: TokenizeOptions, totals: _Totals
) -> dict[Split, Tokenized]:
    keys = document_keys(options.source.name, records.ids)
    lists = _encode(encoder, records, keys, options)
    sizes = np.array(records.sizes, dtype=np.int64)
    has_tokens = _has_tokens(encoder, lists, options.source.prefix)
    for i in np.flatnonzero(~has_tokens).tolist():
        # Say, a text of control characters only, which BERT's normalizer drops.
        excerpt = " ".join(records.texts_of(i))[:EXCERPT_BYTES]
        totals.rejects.append(Reject(records.offsets[i], "no_tokens", records.ids[i], int(sizes[i]), excerpt))
    documents = Tokenized(keys, records.ids, sizes, lists)
    held_out = validation_mask(keys, options.validation)
    split_rows: tuple[tuple[Split, Any], ...] = (("train", ~held_out), ("validation", held_out))
    return {split: documents.take(np.flatnonzero(wanted & has_tokens)) for split, wanted in split_rows}


def _encode(
    encoder: Encoder, records: Records, keys: npt.NDArray[np.uint64], options: TokenizeOptions
) -> dict[str, Ragged]:
    """The lists of a part's rows, by column."""
    texts, where = records.texts_utf8, f"source {options.source.name!r}"
    if options.sentences:
        bounds = [sentence_bounds(text, options.source) for text in records.texts]
        ids, ends = encoder.encode_sentences(texts, bounds)
        lists = {"ids": ids, "sentence_ends": ends}
    else:
        lists = {"ids": encoder.encode(texts)}
    check_ids(encoder, texts, lists["ids"], keys, records.ids, where)
    if options.pairs:
        targets = records.targets_utf8
        lists["target_ids"] = encoder.encode(targets)
        check_ids(encoder, targets, lists["target_ids"], keys, records.ids, where)
    return lists


def _has_tokens(encoder: Encoder, lists: dict[str, Ragged], prefix: str) -> npt.NDArray[np.bool_]:
    """bool [documents]; False where a text, or one of a pair's, has no token beside those of the prefix."""
    ids, alone = lists["ids"], encode_batch(encoder.tokenizer, [prefix]).flat
    has_tokens = np.ones(len(ids), dtype=bool)
    for i in np.flatnonzero(ids.lengths == len(alone)).tolist():
        has_tokens[i] = not np.array_equal(ids.flat[ids.offsets[i] : ids.offsets[i + 1]], alone)
    if "target_ids" in lists:
        has_tokens &= lists["target_ids"].lengths > 0
    return has_tokens


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
