"""Pairs: both texts of a record are read, tokenized and counted, and each bad record is one reject with a reason."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from unit_helpers import cases, input_range, job

import transforms.objectives.registry  # noqa: F401  (makes the objectives known)
import transforms.parts as parts
import transforms.read as read
from schemas.errors import RequestError
from schemas.fingerprint import dataset_fingerprint
from schemas.job import Job, TrainTokenizer
from schemas.source import Source
from schemas.storage import Location
from schemas.store import InputRange, PartSidecar, part_location, rejects_location
from schemas.tables import token_store_schema
from transforms.estimate import estimate_source
from transforms.inputs import cut_ranges, find_inputs
from transforms.records import Records
from transforms.tokenize import TokenizeOptions, finished_range, range_fingerprint, tokenize_range
from transforms.tokenizer_training import sample_texts, train_tokenizer

PREFIX = "translate English to French: "
GOOD = [
    {"en": f"the mill grinds {i} sacks", "fr": f"le moulin moud {i} sacs é", "n": i, "key": f"pair {i}"}
    for i in range(30)
]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("missing_input", {"fr": "le moulin"}),
    ("missing_input", {"en": None, "fr": None}),
    ("missing_target", {"en": "the mill"}),
    ("missing_target", {"en": "the mill", "fr": None}),
    ("input_not_string", {"en": 5, "fr": "cinq"}),
    ("input_not_string", {"en": ["the"], "fr": 5}),
    ("target_not_string", {"en": "five", "fr": {"text": "cinq"}}),
    ("empty_input", {"en": "", "fr": "vide"}),
    ("empty_input", {"en": " \n", "fr": ""}),
    ("empty_target", {"en": "empty", "fr": "\t"}),
]
NO_TOKENS = [{"en": "\u0007", "fr": "le moulin"}, {"en": "the mill", "fr": "\u0007\u0001"}]
"""BERT's normalizer drops control characters."""


def pairs_source(**changes: Any) -> Source:
    raw = {"name": "s", "files": ["x"], "input": "en", "target": "fr", "prefix": PREFIX}
    return Source.model_validate({**raw, **changes})


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(json.dumps(r, ensure_ascii=bool(i % 2)).encode() + b"\n" for i, r in enumerate(rows)))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], rows_a_group: int = 4) -> Path:
    columns = {k: pa.array([r.get(k) for r in rows], pa.string()) for k in ("en", "fr", "key")}
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return path


def parquet_range(path: Path) -> InputRange:
    return input_range(path, "parquet", end=pq.read_metadata(path).num_row_groups)


def batches_of(piece: InputRange, source: Source, limit: int = 10_000) -> list[Records]:
    batches = list(read.read_records(piece, source, limit))
    for batch in batches:
        assert len(batch.texts) == len(batch.targets) == len(batch.sizes) == len(batch.ids)
        assert batch.text_bytes == sum(batch.sizes)
        assert batch.format_bytes >= 0
        rejected = sum(r.size_bytes for r in batch.rejects)
        assert batch.read_bytes == batch.text_bytes + batch.format_bytes + rejected
    return batches


def read_all(piece: InputRange, source: Source, limit: int = 10_000) -> tuple[list[tuple[str, str]], Counter[str]]:
    batches = batches_of(piece, source, limit)
    found = [(t, u) for b in batches for t, u in zip(b.texts, b.targets, strict=True)]
    return found, Counter(r.reason for b in batches for r in b.rejects)


def test_a_json_pair_is_its_prefix_with_the_input_and_its_target(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a", GOOD)
    found, rejects = read_all(input_range(path, "jsonl"), pairs_source(id="key"))
    assert found == [(PREFIX + r["en"], r["fr"]) for r in GOOD]
    assert not rejects
    (batch,) = batches_of(input_range(path, "jsonl"), pairs_source(id="key"))
    assert batch.ids == [r["key"] for r in GOOD]
    assert batch.sizes == [len((r["en"] + r["fr"]).encode()) for r in GOOD], "the prefix is no input data"
    assert batch.read_bytes == path.stat().st_size


def test_a_parquet_pair_is_the_same(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", GOOD)
    found, rejects = read_all(parquet_range(path), pairs_source(id="key"))
    assert found == [(PREFIX + r["en"], r["fr"]) for r in GOOD]
    assert not rejects
    assert [i for b in batches_of(parquet_range(path), pairs_source()) for i in b.ids] == [
        f"corpus/file:{i}" for i in range(len(GOOD))
    ]


def test_each_bad_json_record_is_one_reject_with_its_reason(tmp_path: Path) -> None:
    rows = [row for bad, good in zip(BAD, GOOD, strict=False) for row in (bad[1], good)]
    path = write_jsonl(tmp_path / "a", rows)
    path.write_bytes(path.read_bytes() + b'{"en": "x"\n["a", "b"]\n{"en": "\xff", "fr": "b"}\n' + b"\n")
    found, rejects = read_all(input_range(path, "jsonl"), pairs_source())
    assert len(found) == len(BAD)
    assert rejects == Counter([reason for reason, _ in BAD]) + Counter(invalid_json=2, invalid_utf8=1)
    (batch,) = batches_of(input_range(path, "jsonl"), pairs_source())
    missing = next(r for r in batch.rejects if r.reason == "missing_target")
    assert "'fr'" in missing.detail
    assert "en" in missing.detail.split("fields:")[1]


def test_each_bad_parquet_row_is_one_reject_with_its_reason(tmp_path: Path) -> None:
    bad = [(reason, row) for reason, row in BAD if "not_string" not in reason]
    rows = [row for _, row in bad] + GOOD[:3] + [{"en": "x" * 300, "fr": "y" * 300}]
    path = write_parquet(tmp_path / "a.parquet", rows)
    found, rejects = read_all(parquet_range(path), pairs_source(), limit=500)
    assert len(found) == 3
    assert rejects == Counter([*(reason for reason, _ in bad), "too_long"])
    raw = pa.table({"en": pa.array([b"\xff", b"a", b"b"]), "fr": pa.array([b"a", b"\xff", b"b"])})
    pq.write_table(raw, tmp_path / "b.parquet")
    assert read_all(parquet_range(tmp_path / "b.parquet"), pairs_source()) == (
        [(PREFIX + "b", "b")],
        Counter(invalid_utf8=2),
    )


TEXT = st.text(st.sampled_from('ab é中😀\n\\"\u0007'), max_size=8)


@cases(80)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["en", "fr", "x"]), st.none() | TEXT | st.integers()), max_size=12),
    cuts=st.lists(st.integers(1, 500), max_size=3),
    batch_bytes=st.sampled_from([1, 60, 2**20]),
)
def test_every_record_is_a_pair_or_one_reject_wherever_the_file_is_cut(
    tmp_path: Path, rows: list[dict[str, Any]], cuts: list[int], batch_bytes: int
) -> None:
    path = write_jsonl(tmp_path / "a", rows)
    size = path.stat().st_size
    edges = sorted({0, size, *(c for c in cuts if c < size)})
    expected: list[tuple[str, str]] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        problem = ""
        for key, name in (("input", "en"), ("target", "fr")):
            value = row.get(name)
            problem = problem or (f"missing_{key}" if value is None else "")
            problem = problem or ("" if isinstance(value, str) else f"{key}_not_string")
        for key, name in (("input", "en"), ("target", "fr")):
            problem = problem or ("" if str(row[name]).strip() else f"empty_{key}")
        reasons[problem] += 1
        if not problem:
            expected.append((PREFIX + row["en"], row["fr"]))
    del reasons[""]
    found: list[tuple[str, str]] = []
    rejects: Counter[str] = Counter()
    with patch.object(read, "BATCH_BYTES", batch_bytes):
        for a, b in pairwise(edges):
            more, others = read_all(input_range(path, "jsonl", begin=a, end=b), pairs_source())
            found, rejects = found + more, rejects + others
    assert (found, rejects) == (expected, reasons)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bytes]]:
    texts = [PREFIX, *(row[side] for row in GOOD for side in ("en", "fr"))]
    made = {}
    for model in ("bpe", "wordpiece"):
        data = train_tokenizer(TrainTokenizer(model=model, vocab_size=420), texts)  # type: ignore[arg-type]
        path = tmp_path_factory.mktemp("tokenizers") / f"{model}.json"
        path.write_bytes(data)
        made[model] = (path, data)
    return made


def options(tmp_path: Path, made: dict[str, tuple[Path, bytes]], model: str = "wordpiece", **changes: Any) -> Any:
    path, data = made[model]
    return TokenizeOptions(
        **{
            "store": str(tmp_path / "store"),
            "source": pairs_source(),
            "tokenizer_uri": str(path),
            "tokenizer_sha256": hashlib.sha256(data).hexdigest(),
            "validation": 0.2,
            "max_record_bytes": 10_000,
            "pairs": True,
            **changes,
        }
    )


def rows_of(sidecar: PartSidecar, store: str) -> list[dict[str, Any]]:
    table = pq.read_table(part_location(Location(store), "s", sidecar.split, 0).uri, partitioning=None)
    assert table.schema.remove_metadata() == token_store_schema(sentences=False, pairs=True)
    return list(table.to_pylist())


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ids_are_prefix_and_input_as_one_text_and_everything_counts_both_sides(
    tmp_path: Path, tokenizers: dict[str, tuple[Path, bytes]], kind: str, model: str
) -> None:
    if kind == "jsonl":
        piece = input_range(write_jsonl(tmp_path / "a", GOOD), kind)
    else:
        piece = parquet_range(write_parquet(tmp_path / "a.parquet", GOOD))
    opts = options(tmp_path, tokenizers, model, source=pairs_source(id="key"))
    with patch.object(parts, "CHUNK_TOKENS", 60):
        sidecars = tokenize_range(piece, opts)
    reference = Tokenizer.from_str(tokenizers[model][1].decode())
    found = {}
    for sidecar in sidecars.values():
        rows = rows_of(sidecar, opts.store)
        sizes = [len(r["ids"]) + len(r["target_ids"]) for r in rows]
        assert sidecar.tokens == sum(sizes) == sum(t for _, t in sidecar.chunks)
        assert dict(sidecar.lengths) == Counter(sizes)
        first = 0
        for documents, tokens in sidecar.chunks:
            assert sum(sizes[first : first + documents]) == tokens
            assert sum(sizes[first : first + documents - 1]) < 60
            first += documents
        assert [t >= 60 for _, t in sidecar.chunks[:-1]] == [True] * (len(sidecar.chunks) - 1)
        found.update({r["doc_id"]: (r["ids"], r["target_ids"]) for r in rows})
    encode = {t: reference.encode(t, add_special_tokens=False).ids for r in GOOD for t in (PREFIX + r["en"], r["fr"])}
    assert found == {r["key"]: (encode[PREFIX + r["en"]], encode[r["fr"]]) for r in GOOD}
    expected_bytes = sum(len((r["en"] + r["fr"]).encode()) for r in GOOD)
    assert sum(s.text_bytes for s in sidecars.values()) == expected_bytes
    assert finished_range(piece, opts) == sidecars


@pytest.mark.parametrize("prefix", ["", PREFIX, "\u0007"])
def test_a_pair_with_a_side_without_tokens_is_a_reject_and_the_ledger_closes(
    tmp_path: Path, tokenizers: dict[str, tuple[Path, bytes]], prefix: str
) -> None:
    path = write_jsonl(tmp_path / "a", [*NO_TOKENS, *(row for _, row in BAD), *GOOD])
    opts = options(tmp_path, tokenizers, source=pairs_source(prefix=prefix))
    sidecars = tokenize_range(input_range(path, "jsonl"), opts)
    train, documents = sidecars["train"], sum(s.documents for s in sidecars.values())
    assert train.rejected == Counter([*(reason for reason, _ in BAD), "no_tokens", "no_tokens"])
    assert documents == len(GOOD)
    assert train.range_records == documents + sum(train.rejected.values())
    text_bytes = sum(s.text_bytes for s in sidecars.values())
    assert train.range_bytes_read == path.stat().st_size
    assert train.range_bytes_read == text_bytes + train.format_bytes + sum(train.rejected_bytes.values())
    rejects = pq.read_table(rejects_location(Location(opts.store), "s", 0).uri).to_pylist()
    assert [r["offset"] for r in rejects if r["reason"] == "no_tokens"] == [0, len(json.dumps(NO_TOKENS[0])) + 1]
    for sidecar in sidecars.values():
        assert all(r["ids"] and r["target_ids"] for r in rows_of(sidecar, opts.store))


def test_a_range_is_stale_when_the_fields_or_the_prefix_change_and_not_else(
    tmp_path: Path, tokenizers: dict[str, tuple[Path, bytes]]
) -> None:
    piece = input_range(write_jsonl(tmp_path / "a", GOOD), "jsonl")
    prints = [
        range_fingerprint(piece, options(tmp_path, tokenizers, source=pairs_source(**changes)))
        for changes in ({}, {"prefix": ""}, {"input": "fr", "target": "en"}, {"target": "key"}, {"id": "key"})
    ]
    assert len({*prints}) == len(prints)
    same = pairs_source(weight=2.0, language="fr", sentences="lines")
    assert range_fingerprint(piece, options(tmp_path, tokenizers, source=same)) == prints[0]


def pairs_job(path: Path, **source: Any) -> Job:
    raw = {"name": "s", "files": [str(path)], "input": "en", "target": "fr", "prefix": PREFIX, **source}
    train = {"train": {"model": "bpe", "vocab_size": 400, "sample_bytes": 10_000}}
    return job(sources=[raw], objective={"kind": "seq2seq"}, tokenizer=train, splits={"validation": 0.0})


def test_a_dataset_is_another_when_the_fields_or_the_prefix_change() -> None:
    def of(made: Job) -> str:
        return dataset_fingerprint(made, {}, {"s": [("a", 1)]})

    path = Path("/nowhere/a.jsonl")
    changed = ({}, {"prefix": ""}, {"input": "fr", "target": "en"}, {"target": "key"}, {"id": "key"})
    prints = [of(pairs_job(path, **changes)) for changes in changed]
    assert len({*prints}) == len(prints)
    assert of(pairs_job(path, language="fr", sentences="lines")) == prints[0], "the objective reads no sentences"


def test_a_dataset_is_another_when_its_sentences_are_found_in_another_way_and_the_objective_reads_them() -> None:
    def of(objective: dict[str, Any], **source: Any) -> str:
        made = job(sources=[{"name": "s", "files": ["/nowhere/a.txt"], **source}], objective=objective)
        return dataset_fingerprint(made, {}, {"s": [("a", 1)]})

    reads = {"kind": "sentence_pair"}
    assert len({of(reads), of(reads, language="de"), of(reads, sentences="lines")}) == 3
    assert of(reads, sentences="lines", language="de") == of(reads, sentences="lines")
    assert of({"kind": "mlm"}) == of({"kind": "mlm"}, language="de", sentences="lines")


def test_plain_text_holds_no_pairs(tmp_path: Path) -> None:
    for name in ("a.txt", "a.txt.gz"):
        (tmp_path / name).write_bytes(b"x\n")
        with pytest.raises(RequestError) as error:
            find_inputs(pairs_job(tmp_path / name))
        paragraph = error.value.paragraph()
        assert "'s'" in paragraph
        assert name in paragraph
        assert "jsonl" in paragraph
        assert "'en'" in paragraph


def test_both_columns_of_a_parquet_file_are_checked_and_weighed(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", GOOD, rows_a_group=5)
    made = pairs_job(path)
    (piece,) = cut_ranges(made, find_inputs(made))["s"]
    metadata = pq.read_metadata(path)
    columns = [metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in (0, 1)]
    assert piece.cost_bytes == sum(c.total_uncompressed_size for c in columns)
    for key, changes in (("target", {"target": "frr"}), ("input", {"input": "eng"})):
        made = pairs_job(path, **changes)
        with pytest.raises(RequestError) as error:
            cut_ranges(made, find_inputs(made))
        assert f"`{key}`" in error.value.paragraph()
        assert "did you mean" in error.value.paragraph().lower()
    pq.write_table(pa.table({"en": ["a"], "fr": [5]}), path)
    made = pairs_job(path)
    with pytest.raises(RequestError, match="'fr' holds no text"):
        cut_ranges(made, find_inputs(made))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_estimate_of_a_small_source_is_its_tokens_of_both_sides(
    tmp_path: Path, tokenizers: dict[str, tuple[Path, bytes]], kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    write_jsonl(path, GOOD) if kind == "jsonl" else write_parquet(path, GOOD, rows_a_group=99)
    made = pairs_job(path)
    ranges = cut_ranges(made, find_inputs(made))["s"]
    opts = options(tmp_path, tokenizers, validation=0.0)
    exact = tokenize_range(ranges[0], opts)["train"]
    tokens, lengths = estimate_source(made, made.sources[0], ranges, tokenizers["wordpiece"][1])
    assert lengths == dict(exact.lengths)
    if kind == "jsonl":
        assert tokens == exact.tokens
    else:  # scaled by uncompressed pages, which have levels and lengths beside the text
        assert exact.tokens <= tokens < 2 * exact.tokens
    roughly, _ = estimate_source(made, made.sources[0], ranges, None)
    assert roughly == pytest.approx(sum(len(PREFIX + r["en"] + r["fr"]) for r in GOOD) / 4, rel=0.5)


def test_a_tokenizer_is_trained_on_prefix_with_input_and_on_targets(tmp_path: Path) -> None:
    made = pairs_job(write_jsonl(tmp_path / "a.jsonl", GOOD))
    ranges = cut_ranges(made, find_inputs(made))
    sizes: list[int] = []
    texts = sample_texts(made, ranges, sizes.append)
    assert sorted(texts) == sorted([PREFIX + r["en"] for r in GOOD] + [r["fr"] for r in GOOD])
    assert sizes == [sum(len(t.encode()) for t in texts)]
