"""Tokenizing a range: the ids of `tokenizers`, chunks that do not depend on reading, sidecars that do not lie."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from unit_helpers import cases, input_range, source

import transforms.parts as parts
import transforms.read as read
import transforms.sentences as sentences
import transforms.tokenize as tokenize
from schemas.errors import DataError
from schemas.fingerprint import fingerprint
from schemas.job import TrainTokenizer
from schemas.keys import document_keys, validation_mask
from schemas.storage import Location
from schemas.store import InputRange, PartSidecar, part_location, rejects_location, sidecar_location
from schemas.tables import REJECTS, token_store_schema
from transforms.encode import Encoder, encode_with_ends
from transforms.sentences import sentence_bounds
from transforms.texts import utf8
from transforms.tokenize import TokenizeOptions, finished_range, range_fingerprint, tokenize_range
from transforms.tokenizer_training import train_tokenizer
from transforms.vocabulary import TRAINED_SPECIAL_TOKENS, load_tokenizer, read_vocabulary

WORDS = (*("the", "mill", "grinds", "each", "shard", "of", "corn", "into", "flour", "before", "some", "other"), "end")
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 3 + i % 40)) for i in range(400)]

Tokenizers = dict[str, tuple[Path, bytes]]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    made = {}
    for model in ("bpe", "wordpiece", "unigram"):
        data = train_tokenizer(TrainTokenizer(model=model, vocab_size=420), TEXTS)
        path = tmp_path_factory.mktemp("tokenizers") / f"{model}.json"
        path.write_bytes(data)
        made[model] = (path, data)
    return made


def options(tmp_path: Path, tokenizers: Tokenizers, model: str = "bpe", **changes: Any) -> TokenizeOptions:
    path, data = tokenizers[model]
    return TokenizeOptions(
        **{
            "store": str(tmp_path / "store"),
            "source": source(),
            "tokenizer_uri": str(path),
            "tokenizer_sha256": hashlib.sha256(data).hexdigest(),
            "validation": 0.2,
            "max_record_bytes": 100_000,
            **changes,
        }
    )


def corpus(tmp_path: Path, texts: list[str] = TEXTS, name: str = "corpus.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join(json.dumps({"text": t}).encode() + b"\n" for t in texts))
    return path


def rows_of(store: str, split: str, part: int = 0, *, sentences: bool = False) -> list[dict[str, Any]]:
    place = part_location(Location(store), "s", split, part)  # type: ignore[arg-type]
    if not place.exists():
        return []
    table = pq.read_table(place.uri, partitioning=None)
    assert table.schema.remove_metadata() == token_store_schema(sentences=sentences, pairs=False)
    return table.to_pylist()


def committed(store: str) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(Path(store).rglob("*")) if p.is_file()}


@pytest.mark.parametrize("model", ["bpe", "wordpiece", "unigram"])
def test_ids_are_those_of_tokenizers_and_every_document_is_in_one_split(
    tmp_path: Path, tokenizers: Tokenizers, model: str
) -> None:
    opts = options(tmp_path, tokenizers, model)
    tokenize_range(input_range(corpus(tmp_path), "jsonl"), opts)
    reference = Tokenizer.from_str(tokenizers[model][1].decode())
    found: dict[str, list[int]] = {}
    for split in ("train", "validation"):
        rows = rows_of(opts.store, split)
        ids = [r["doc_id"] for r in rows]
        keys = np.array([r["doc_key"] for r in rows], dtype=np.uint64)
        assert keys.tolist() == document_keys("s", ids).tolist()
        assert validation_mask(keys, 0.2).tolist() == [split == "validation"] * len(rows)
        places = [int(i.split(":")[1]) for i in ids]
        assert places == sorted(places), "documents keep the order of the file"
        found.update({r["doc_id"]: r["ids"] for r in rows})
    offset = 0
    expected = {}
    for text in TEXTS:
        expected[f"corpus/file:{offset}"] = reference.encode(text, add_special_tokens=False).ids
        offset += len(json.dumps({"text": text})) + 1
    assert found == expected


@pytest.mark.parametrize(
    "model",
    [
        "bpe",
        "wordpiece",
        pytest.param("unigram"),
    ],
)
def test_names_of_special_tokens_in_a_text_never_become_special_ids(tokenizers: Tokenizers, model: str) -> None:
    data = tokenizers[model][1]
    special = set(read_vocabulary(data).special_token_ids)
    unknown = read_vocabulary(data).special_ids["unk"]
    encoder = Encoder(load_tokenizer(data))
    for name in TRAINED_SPECIAL_TOKENS:
        for text in (name, f"the {name} mill", f"mill{name}mill", name * 3):
            assert not special.intersection(encoder.encode(utf8([text])).flat.tolist()) - {unknown}, text


@cases(25)
@given(
    seen=st.lists(st.integers(0, 60), min_size=1, max_size=60),
    chunk=st.sampled_from([1, 7, 40, 300, 10**6]),
    batches=st.lists(st.integers(1, 3000), min_size=2, max_size=2, unique=True),
)
def test_a_chunk_closes_at_the_document_that_fills_it_however_the_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, tokenizers: Tokenizers, seen: list[int], chunk: int, batches: list[int]
) -> None:
    tmp_path = tmp_path_factory.mktemp("chunks")
    path = corpus(tmp_path, [TEXTS[i] for i in seen])
    stores = []
    for i, batch_bytes in enumerate(batches):
        opts = options(tmp_path, tokenizers, store=str(tmp_path / f"store{i}"))
        with patch.object(read, "BATCH_BYTES", batch_bytes), patch.object(parts, "CHUNK_TOKENS", chunk):
            sidecars = tokenize_range(input_range(path, "jsonl"), opts)
        stores.append(committed(opts.store))
        for split, sidecar in sidecars.items():
            expected, documents, tokens = [], 0, 0
            for row in rows_of(opts.store, split):
                documents, tokens = documents + 1, tokens + len(row["ids"])
                if tokens >= chunk:
                    expected.append((documents, tokens))
                    documents = tokens = 0
            if documents:
                expected.append((documents, tokens))
            assert sidecar.chunks == expected
            if expected:
                place = part_location(Location(opts.store), "s", split, 0)
                metadata = pq.read_metadata(place.uri)
                groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
                assert groups == [d for d, _ in expected]
    assert stores[0] == stores[1], "the bytes depend on the size of a read"


def test_a_chunk_that_is_exactly_full_is_closed(tmp_path: Path, tokenizers: Tokenizers) -> None:
    path = corpus(tmp_path, ["~" * n for n in (3, 4, 2, 5, 1)])  # no merge of this letter was learnt: 1 token each
    with patch.object(parts, "CHUNK_TOKENS", 7):
        sidecars = tokenize_range(input_range(path, "jsonl"), options(tmp_path, tokenizers, validation=0.0))
    assert sidecars["train"].chunks == [(2, 7), (2, 7), (1, 1)]


MESSY = (
    b'{"text": "the mill"}\n\n{"text": ""}\n{"body": "x"}\n{"text": 5}\n{"text": "grinds each \xc3\xa9 corn"}\n'
    b'{"text": "\\u0000\\u0007"}\n{"text": "\xff"}\n{broken\n' + b'{"text": "' + b"z" * 2000 + b'"}\n'
)


def test_sidecars_count_what_the_files_hold_and_every_byte_is_accounted_for(
    tmp_path: Path, tokenizers: Tokenizers
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(MESSY * 3 + corpus(tmp_path).read_bytes())
    # WordPiece: BERT's normalizer drops control characters, so one of the texts has no tokens.
    opts = options(tmp_path, tokenizers, "wordpiece", max_record_bytes=1500)
    sidecars = tokenize_range(input_range(path, "jsonl"), opts)
    documents = text_bytes = 0
    for split, sidecar in sidecars.items():
        place = part_location(Location(opts.store), "s", split, 0)
        rows = rows_of(opts.store, split)
        lengths = [len(r["ids"]) for r in rows]
        assert min(lengths) > 0
        assert sidecar.documents == len(rows) == sum(d for d, _ in sidecar.chunks)
        assert sidecar.tokens == sum(lengths) == sum(t for _, t in sidecar.chunks)
        assert dict(sidecar.lengths) == Counter(lengths)
        data = place.read_bytes()
        assert (sidecar.sha256, sidecar.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        written = sidecar_location(Location(opts.store), "s", split, 0).read_bytes()
        assert PartSidecar.model_validate_json(written) == sidecar
        documents, text_bytes = documents + sidecar.documents, text_bytes + sidecar.text_bytes
    train = sidecars["train"]
    assert train.rejected == {
        "empty": 3,
        "invalid_json": 3,
        "invalid_utf8": 3,
        "missing_text": 3,
        "no_tokens": 3,
        "text_not_string": 3,
        "too_long": 3,
    }
    assert documents == len(TEXTS) + 6
    assert train.range_records == documents + sum(train.rejected.values())
    assert train.range_bytes_read == path.stat().st_size
    assert train.range_bytes_read == text_bytes + train.format_bytes + sum(train.rejected_bytes.values())
    assert text_bytes == sum(len(t) for t in TEXTS) + 3 * len("the mill" + "grinds each é corn".encode().decode()) + 3

    rejects = pq.read_table(rejects_location(Location(opts.store), "s", 0).uri)
    assert rejects.schema == REJECTS
    assert Counter(rejects["reason"].to_pylist()) == train.rejected
    raw = path.read_bytes()
    for row in rejects.to_pylist():
        if row["reason"] not in ("no_tokens", "too_long"):
            record = raw[row["offset"] : row["offset"] + row["size_bytes"]]
            assert record.endswith(b"\n")
            assert record.count(b"\n") == 1


def test_a_long_document_is_in_the_histogram_to_three_digits(tmp_path: Path, tokenizers: Tokenizers) -> None:
    lengths = [8192, 8193, 12_345, 99_999, 100_000]
    path = corpus(tmp_path, ["~" * n for n in lengths])
    opts = options(tmp_path, tokenizers, validation=0.0, max_record_bytes=10**6)
    histogram = dict(tokenize_range(input_range(path, "jsonl"), opts)["train"].lengths)
    stored = [len(r["ids"]) for r in rows_of(opts.store, "train")]
    assert stored == lengths, "one byte a token is what makes this test's lengths known"
    assert histogram == {8192: 1, 8190: 1, 12_300: 1, 99_900: 1, 100_000: 1}


def test_a_finished_range_is_not_tokenized_again(
    tmp_path: Path, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece, opts = input_range(corpus(tmp_path), "jsonl"), options(tmp_path, tokenizers)
    first = tokenize_range(piece, opts)
    before = committed(opts.store)

    def never(*_: object) -> None:
        raise AssertionError("the range was read again")

    monkeypatch.setattr(tokenize, "read_records", never)
    moved = piece.model_copy(update={"uri": "/elsewhere", "cost_bytes": 1})
    assert tokenize_range(moved, opts) == first
    assert committed(opts.store) == before


Change = Callable[[InputRange, TokenizeOptions], tuple[InputRange, dict[str, Any]]]


@pytest.mark.parametrize(
    "changes",
    [
        {"validation": 0.5},
        {"max_record_bytes": 99},
        {"source": source(id="id")},
        {"sentences": True},
        {"model": "wordpiece"},
        {"mtime_ns": 1},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_stale_part_is_done_again(tmp_path: Path, tokenizers: Tokenizers, changes: dict[str, Any]) -> None:
    piece, opts = input_range(corpus(tmp_path), "jsonl"), options(tmp_path, tokenizers)
    tokenize_range(piece, opts)
    stale = committed(opts.store)
    changes = dict(changes)
    if "mtime_ns" in changes:
        piece = piece.model_copy(update={"mtime_ns": changes.pop("mtime_ns")})
    other = options(tmp_path, tokenizers, **changes)
    assert finished_range(piece, other) is None
    tokenize_range(piece, other)
    assert finished_range(piece, other) is not None
    fresh = committed(opts.store)
    assert fresh != stale
    # The store is as if nothing had been there before.
    clean = options(tmp_path, tokenizers, **{**changes, "store": str(tmp_path / "clean")})
    tokenize_range(piece, clean)
    assert committed(clean.store) == fresh


@pytest.mark.parametrize("damage", ["missing part", "short part", "missing sidecar", "broken sidecar"])
def test_a_damaged_part_is_not_taken_for_finished(tmp_path: Path, tokenizers: Tokenizers, damage: str) -> None:
    piece, opts = input_range(corpus(tmp_path), "jsonl"), options(tmp_path, tokenizers)
    tokenize_range(piece, opts)
    good = committed(opts.store)
    part = Path(part_location(Location(opts.store), "s", "validation", 0).uri)
    card = Path(sidecar_location(Location(opts.store), "s", "validation", 0).uri)
    if damage == "missing part":
        part.unlink()
    elif damage == "short part":
        part.write_bytes(part.read_bytes()[:-1])
    elif damage == "missing sidecar":
        card.unlink()
    else:
        card.write_bytes(card.read_bytes()[:-9])
    assert finished_range(piece, opts) is None
    tokenize_range(piece, opts)
    assert committed(opts.store) == good


def test_what_a_stale_run_left_is_gone_when_the_range_holds_nothing_of_it(
    tmp_path: Path, tokenizers: Tokenizers
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(corpus(tmp_path, name="other.jsonl").read_bytes() + b"{broken\n")
    opts = options(tmp_path, tokenizers)
    tokenize_range(input_range(path, "jsonl"), opts)
    assert len(committed(opts.store)) == 5
    path.write_bytes(b"\n\n")
    sidecars = tokenize_range(input_range(path, "jsonl"), opts)
    assert sorted(committed(opts.store)) == ["s/split=train/part-00000.json", "s/split=validation/part-00000.json"]
    assert {s.documents for s in sidecars.values()} == {0}
    assert finished_range(input_range(path, "jsonl"), opts) == sidecars


def test_a_run_that_fails_commits_nothing(
    tmp_path: Path, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece, opts = input_range(corpus(tmp_path), "jsonl"), options(tmp_path, tokenizers)
    calls = 0
    real = Encoder.encode

    def fail_later(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("killed")
        return real(*args)

    monkeypatch.setattr(Encoder, "encode", fail_later)
    monkeypatch.setattr(parts, "CHUNK_TOKENS", 50)
    monkeypatch.setattr(read, "BATCH_BYTES", 500)
    with pytest.raises(RuntimeError, match="killed"):
        tokenize_range(piece, opts)
    assert committed(opts.store) == {}


def test_an_input_that_has_gone_is_said(tmp_path: Path, tokenizers: Tokenizers) -> None:
    path = corpus(tmp_path)
    piece = input_range(path, "jsonl")
    path.unlink()
    with pytest.raises(DataError, match="gone"):
        tokenize_range(piece, options(tmp_path, tokenizers))


def test_every_range_of_a_file_together_hold_each_document_once(tmp_path: Path, tokenizers: Tokenizers) -> None:
    path, opts = corpus(tmp_path), options(tmp_path, tokenizers)
    edges = [0, 1000, 1001, 5000, path.stat().st_size]
    for part, (a, b) in enumerate(pairwise(edges)):
        tokenize_range(input_range(path, "jsonl", begin=a, end=b, part=part), opts)
    cut = [r for split in ("train", "validation") for part in range(4) for r in rows_of(opts.store, split, part)]
    whole = options(tmp_path, tokenizers, store=str(tmp_path / "whole"))
    tokenize_range(input_range(path, "jsonl"), whole)
    assert cut == [r for split in ("train", "validation") for r in rows_of(whole.store, split)]
    assert len(cut) == len(TEXTS)


PROSE = [
    "The mill grinds. Each shard of corn! Into flour?",
    "one line\nand another.\n\nThe end",
    "flour",
    "corn. corn",
]


@pytest.mark.parametrize("model", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize("how", ["split", "lines"])
def test_sentence_ends_are_stored_and_change_nothing_else(
    tmp_path: Path, tokenizers: Tokenizers, model: str, how: str
) -> None:
    piece = input_range(corpus(tmp_path, PROSE * 20), "jsonl")
    plain = options(tmp_path, tokenizers, model, store=str(tmp_path / "plain"))
    cut = options(tmp_path, tokenizers, model, sentences=True, source=source(sentences=how))
    with patch.object(parts, "CHUNK_TOKENS", 100):
        without, sidecars = tokenize_range(piece, plain), tokenize_range(piece, cut)
    tokenizer = load_tokenizer(tokenizers[model][1])
    for split in ("train", "validation"):
        found = rows_of(cut.store, split, sentences=True)
        assert [{k: v for k, v in r.items() if k != "sentence_ends"} for r in found] == rows_of(plain.store, split)
        assert (sidecars[split].chunks, sidecars[split].lengths) == (without[split].chunks, without[split].lengths)
        for row in found:
            offset = int(row["doc_id"].split(":")[1])
            text = json.loads(Path(piece.uri).read_bytes()[offset:].split(b"\n")[0])["text"]
            _, ends = encode_with_ends(tokenizer, [text], [sentence_bounds(text, cut.source)])
            assert row["sentence_ends"] == sorted({*ends.flat.tolist()[:-1], len(row["ids"])} - {0})
    assert any(len(r["sentence_ends"]) > 1 for r in found)


def test_a_job_without_sentences_takes_a_store_that_has_them_and_not_the_other_way_round(
    tmp_path: Path, tokenizers: Tokenizers
) -> None:
    """Fails if two jobs that share a store would rewrite each other's parts for ever."""
    piece = input_range(corpus(tmp_path, PROSE * 9), "jsonl")
    plain = options(tmp_path, tokenizers)
    cut = options(tmp_path, tokenizers, sentences=True)
    lines = options(tmp_path, tokenizers, sentences=True, source=source(sentences="lines"))
    german = options(tmp_path, tokenizers, sentences=True, source=source(language="de"))
    tokenize_range(piece, plain)
    assert finished_range(piece, cut) is None
    tokenize_range(piece, cut)
    both = committed(plain.store)
    assert finished_range(piece, plain) is not None
    assert tokenize_range(piece, options(tmp_path, tokenizers, source=source(language="de"))) is not None
    tokenize_range(piece, plain)
    assert committed(plain.store) == both
    assert finished_range(piece, lines) is None
    assert finished_range(piece, german) is None
    with patch.object(sentences, "version", lambda _: "9.9"):
        assert finished_range(piece, cut) is None, "another splitter may divide otherwise"
        assert finished_range(piece, plain) is not None


def test_a_store_of_before_there_were_sentences_is_still_good(tmp_path: Path, tokenizers: Tokenizers) -> None:
    piece, opts = input_range(corpus(tmp_path), "jsonl"), options(tmp_path, tokenizers)
    tokenize_range(piece, opts)
    for split in ("train", "validation"):
        place = sidecar_location(Location(opts.store), "s", split, 0)  # type: ignore[arg-type]
        card = json.loads(place.read_bytes())
        assert card.pop("sentences") == ""
        place.write_bytes(json.dumps(card).encode())
    assert finished_range(piece, opts) is not None
    assert range_fingerprint(piece, opts) == fingerprint(
        {
            "format_version": 1,
            "chunk_tokens": 2**17,
            "tokenizer": opts.tokenizer_sha256,
            "validation": 0.2,
            "max_record_bytes": 100_000,
            "text": "text",
            "id": None,
            "range": piece.model_dump(exclude={"uri", "cost_bytes", "part"}),
        }
    ), "as it has always been"
