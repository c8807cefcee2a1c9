"""Merging gives the same statistics in any order; figures are those a plain loop finds."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.audit import ShardMapper, context_of, group_members, merge_bytes
from schemas.manifest import read_manifest, read_shards
from schemas.objectives import parse_objective
from schemas.storage import Location
from transforms.ragged import Ragged
from transforms.statistics import Accumulator, AuditContext, Group, HashSample, Measures
from transforms.statistics.marked_ids import MarkedIds
from transforms.statistics.mask_positions import FIXED_POINT, POSITION_BINS
from transforms.statistics.masks import RUN_PLACES
from transforms.statistics.powers import row_sums, row_tiles

_HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=30)


def sample_of(values: list[int], limit: int = 8) -> HashSample:
    sample = HashSample.create(limit)
    sample.add(np.array(values, np.uint64))
    return sample


@settings(max_examples=100, deadline=None)
@given(_HASHES, _HASHES, _HASHES)
def test_samples_merge_associatively_and_commutatively_beyond_their_limit(
    a: list[int], b: list[int], c: list[int]
) -> None:
    x, y, z = sample_of(a), sample_of(b), sample_of(c)
    expected = sample_of(a + b + c).to_json()
    assert x.merge(y).merge(z).to_json() == x.merge(y.merge(z)).to_json() == expected
    assert z.merge(x).merge(y).to_json() == expected
    assert HashSample.from_json(expected).to_json() == expected


@given(_HASHES)
def test_a_sample_within_its_limit_is_exact(values: list[int]) -> None:
    sample = sample_of(values, limit=100)
    assert sample.level == 0
    assert dict(zip(sample.hashes.tolist(), sample.counts.tolist(), strict=True)) == Counter(values)
    assert sample.repeated == len(values) - len(set(values))


_PAIRS = st.lists(st.tuples(st.sampled_from([0, 1, 5, 2**63]), st.integers(0, 2)), max_size=12)


@given(_PAIRS, _PAIRS)
def test_hashes_of_one_first_word_are_told_apart_by_their_second(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    """Fails if rows are taken for repeats though only half of their 128 bits agree."""
    x, y = HashSample.create(), HashSample.create()
    for sample, pairs in ((x, a), (y, b)):
        sample.add(np.array(pairs, np.uint64).reshape(-1, 2).T)
    merged = x.merge(y)
    found = zip(merged.hashes.tolist(), merged.others.tolist(), merged.counts.tolist(), strict=True)
    assert {(h, o): n for h, o, n in found} == Counter(a + b)
    assert x.shared_with(y) == y.shared_with(x) == len(set(a) & set(b))
    assert HashSample.from_json(merged.to_json()).to_json() == merged.to_json()


def test_merging_does_not_change_what_is_merged() -> None:
    x, y = sample_of([1, 2, 3]), sample_of([3, 4])
    before = x.to_json(), y.to_json()
    x.merge(y)
    assert (x.to_json(), y.to_json()) == before


_WORDS = st.sampled_from(["books", "code"])
_COUNTS = st.dictionaries(st.sampled_from(["rows", "tokens", "wrong_split"]), st.integers(1, 10**12), max_size=3)


@st.composite
def accumulators(draw: st.DrawFn) -> Accumulator:
    found = Accumulator.create()
    for _ in range(draw(st.integers(0, 3))):
        group = Group(draw(st.sampled_from(["train", "validation"])), draw(st.integers(0, 1)), 128, draw(_WORDS))
        bins = draw(st.lists(st.integers(0, 10**15), min_size=3, max_size=3))
        found.add(
            group, Measures(Counter(draw(_COUNTS)), {"longest_row": draw(st.integers(0, 99))}, {"length": bins})
        )
    for path in draw(st.lists(st.sampled_from([f"{i:05d}" for i in range(40)]), max_size=30)):
        found.add_problem(draw(st.sampled_from(["missing", "unreadable"])), path, "gone")
        found.add_worst("padding_share", draw(st.sampled_from([0.1, 0.2])), path)
    found.add_hashes("rows/train", np.array(draw(_HASHES), np.uint64))
    return found


@pytest.mark.parametrize("group_shards", [2, 3, 1000])
def test_shards_measured_together_have_the_statistics_of_each_alone(mlm_dataset: Location, group_shards: int) -> None:
    shards = read_shards(mlm_dataset).num_rows
    alone = merge_bytes(*(ShardMapper(mlm_dataset.uri)(shard) for shard in range(shards)))
    mapper = pickle.loads(pickle.dumps(ShardMapper(mlm_dataset.uri, group_shards)))
    groups = range(-(-shards // group_shards))
    assert [i for g in groups for i in group_members(g, group_shards, shards)] == list(range(shards))
    assert merge_bytes(*map(mapper, groups)) == alone


@settings(max_examples=100, deadline=None)
@given(accumulators(), accumulators(), accumulators())
def test_accumulators_merge_associatively_and_commutatively_to_the_byte(
    a: Accumulator, b: Accumulator, c: Accumulator
) -> None:
    expected = a.merge(b).merge(c).to_bytes()
    assert a.merge(b.merge(c)).to_bytes() == expected
    assert c.merge(b).merge(a).to_bytes() == expected
    assert merge_bytes(merge_bytes(c.to_bytes(), a.to_bytes()), b.to_bytes()) == expected
    assert Accumulator.create().merge(a).to_bytes() == a.to_bytes()


def test_any_split_into_bundles_gives_the_same_bytes(mlm_dataset: Location) -> None:
    mapper = ShardMapper(mlm_dataset.uri)
    parts = [mapper(i) for i in range(read_shards(mlm_dataset).num_rows)]
    one_by_one = parts[0]
    for part in parts[1:]:
        one_by_one = merge_bytes(one_by_one, part)
    rng = np.random.default_rng(0)
    while len(parts) > 1:
        i, j = rng.choice(len(parts), 2, replace=False).tolist()
        merged = merge_bytes(parts[i], parts[j])
        parts = [p for k, p in enumerate(parts) if k not in (i, j)] + [merged]
    assert parts[0] == one_by_one


@pytest.mark.parametrize("index", [3, 8])
@pytest.mark.parametrize("fixture", ["mlm_dataset", "causal_dataset"])
def test_figures_are_those_a_plain_loop_finds(fixture: str, index: int, request: pytest.FixtureRequest) -> None:
    import pyarrow.parquet as pq

    dataset: Location = request.getfixturevalue(fixture)
    manifest = read_manifest(dataset)
    special, roles = set(manifest.tokenizer.special_token_ids), manifest.tokenizer.special_ids
    shard = read_shards(dataset).to_pylist()[index]
    found = Accumulator.from_bytes(ShardMapper(dataset.uri)(index))
    rows = pq.read_table((dataset / shard["path"]).uri, partitioning=None).to_pylist()
    for source in {r["source"] for r in rows}:
        mine = [r for r in rows if r["source"] == source]
        ids = [i for r in mine for i in r["input_ids"]]
        counted = {
            "rows": len(mine),
            "tokens": len(ids),
            "corpus_tokens": sum(sum(r["doc_lengths"]) for r in mine),
            "pieces": sum(len(r["doc_keys"]) for r in mine),
            "unknown_tokens": ids.count(roles["unk"]),
            "special_tokens": sum(i in special for i in ids),
        }
        if fixture == "mlm_dataset":
            shown = [
                (r["input_ids"][p], label)
                for r in mine
                for p, label in zip(r["mask_positions"], r["mask_labels"], strict=True)
            ]
            counted |= {
                "masked": len(shown),
                "shown_mask": sum(s == roles["mask"] for s, _ in shown),
                "shown_unchanged": sum(s == label for s, label in shown),
                "shown_random": sum(s not in (label, roles["mask"]) for s, label in shown),
            }
            expected = [0.0] * POSITION_BINS
            observed = [0] * POSITION_BINS
            for r in mine:
                restored = list(r["input_ids"])
                for p, label in zip(r["mask_positions"], r["mask_labels"], strict=True):
                    restored[p] = label
                    observed[p * POSITION_BINS // len(restored)] += 1
                places = [p for p, i in enumerate(restored) if i not in special]
                for p in places:
                    expected[p * POSITION_BINS // len(restored)] += len(r["mask_positions"]) / len(places)
            behind, by_chance = 0, 0.0
            for r in mine:
                masked, labels = (
                    set(r["mask_positions"]),
                    dict(zip(r["mask_positions"], r["mask_labels"], strict=True)),
                )
                free = {p for p, i in enumerate(r["input_ids"]) if labels.get(p, i) not in special}
                m, c, pairs = len(masked), len(free), sum(p - 1 in free for p in free)
                if m >= RUN_PLACES:
                    behind += sum(p - 1 in masked for p in masked)
                    by_chance += pairs * m * (m - 1) / (c * (c - 1))
            assert found.total("mask_neighbours", source=source) == behind
            assert behind > 0 or shard["length"] < 64, "no row is long enough to be judged"
            chance = found.total("mask_neighbours_expected", source=source) / FIXED_POINT
            assert chance == pytest.approx(by_chance, abs=1e-5)
            assert found.histogram("mask_position", source=source) == observed
            fixed = [x / FIXED_POINT for x in found.histogram("mask_position_expected", source=source)]
            assert fixed == pytest.approx(expected, abs=1e-5)
        else:
            counted["eos_tokens"] = ids.count(roles["eos"])
        for figure, count in counted.items():
            assert found.total(figure, source=source) == count, figure
        assert sum(found.histogram("length", source=source)) == len(mine)
        longest = max(o + n for r in mine for o, n in zip(r["doc_offsets"], r["doc_lengths"], strict=True))
        assert found.greatest("longest_document", source=source) == longest


_LENGTHS = st.lists(st.integers(0, 5), max_size=20)


@given(_LENGTHS)
def test_sums_of_rows_are_those_of_their_items_where_rows_are_empty_too(lengths: list[int]) -> None:
    rows = Ragged.from_lengths(np.arange(1, sum(lengths) + 1), np.array(lengths, np.int64))
    expected = [sum(rows.flat[a:b].tolist()) for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    assert row_sums(rows.flat.astype(np.int64), rows.offsets).tolist() == expected


@given(_LENGTHS, st.integers(1, 12))
def test_tiles_cover_all_rows_and_what_they_hold_once(lengths: list[int], items: int) -> None:
    offsets = np.append(0, np.cumsum(np.array(lengths, np.int64)))
    found = list(row_tiles(offsets, items))
    assert [i for rows, _ in found for i in range(rows.start, rows.stop)] == list(range(len(lengths)))
    assert [i for _, held in found for i in range(held.start, held.stop)] == list(range(sum(lengths)))
    assert all(offsets[rows.stop - 1] - offsets[rows.start] < items for rows, _ in found)


def test_special_ids_are_found_at_their_places_and_ids_outside_the_vocabulary_are_named(
    mlm_dataset: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a place of a tile is not the place among all ids."""
    monkeypatch.setattr("transforms.statistics.marked_ids._TILE_IDS", 3)
    context = context_of(mlm_dataset)
    special, text = int(np.flatnonzero(context.is_special)[0]), context.any_text_id
    rows = [[text, special], [], [special, text, -5, special], [text], [context.vocab_size, special]]
    found = MarkedIds.of(Ragged.from_lengths(np.concatenate(rows), np.array([len(r) for r in rows])), context)
    assert found.special_at.tolist() == [1, 2, 5, 8]
    assert found.special_row.tolist() == [0, 2, 2, 4]
    assert found.outside.tolist() == [4, 7]
    assert found.ids[found.outside].tolist() == [text, text]
    assert found.ends_alone(special).tolist() == [True, False, False, False, True]


@given(
    special=st.sets(st.integers(0, 39), max_size=12),
    ids=st.lists(st.integers(0, 39), max_size=60),
)
def test_special_ids_are_found_wherever_a_vocabulary_has_them(special: set[int], ids: list[int]) -> None:
    context = AuditContext(
        parameters=parse_objective({"kind": "causal"}),
        vocab_size=40,
        special_ids={},
        sentinel_ids=(),
        is_special=np.isin(np.arange(40), list(special)),
        sources=(),
        lengths={},
        validation_share=0.0,
        fingerprint="",
    )
    found = context.special_places(np.array(ids, dtype=np.int32))
    assert found.tolist() == [place for place, i in enumerate(ids) if i in special]


def test_ids_are_counted_alike_in_one_go_and_source_by_source(
    mlm_dataset: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the way that many sources of a large vocabulary take counts for another source."""
    expected = ShardMapper(mlm_dataset.uri)(3)
    monkeypatch.setattr("transforms.statistics.rows._MOST_COUNTERS", 0)
    assert ShardMapper(mlm_dataset.uri)(3) == expected
