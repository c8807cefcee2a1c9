"""sentence_pair: the walk against a slow reading of BERT's script, the laws of its draws, the audit of its rows."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise
from math import comb
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, fits, lists, ragged, vocabulary

import transforms.objectives.pairing as pairing
from schemas.errors import RequestError
from schemas.keys import below, draw, happens
from schemas.tables import example_schema
from transforms.gates import Evidence
from transforms.gates.pairs import pair_gates
from transforms.objectives.base import Documents, Examples
from transforms.objectives.layout import short_targets
from transforms.objectives.pairing import Pairs, Walk
from transforms.objectives.sentence_pair import SentencePair, SentencePairObjective
from transforms.statistics import Accumulator, AuditContext
from transforms.statistics.rows import Rows

CLS, SEP, MASK, UNK = (SPECIAL_IDS[r] for r in ("cls", "sep", "mask", "unk"))
VOCABULARY = vocabulary(60)

Corpus = list[list[int]]
"""Documents as the lengths of their sentences; token t of document d is `text(d, t)`."""

SENTENCES = st.lists(st.integers(1, 9), min_size=1, max_size=9) | st.lists(st.just(1), min_size=1, max_size=30)
CORPUS = st.lists(SENTENCES, min_size=1, max_size=6)
PARAMETERS = st.builds(
    SentencePair, short_sequence_rate=st.sampled_from([0.0, 0.1, 0.6]), random_next_prob=st.sampled_from([0, 0.5, 1])
) | st.builds(
    SentencePair,
    task=st.just("sop"),
    short_sequence_rate=st.sampled_from([0.0, 0.1, 0.6]),
    swap_prob=st.sampled_from([0, 0.5, 1]),
)


class Row(NamedTuple):
    """A row with its labels put back."""

    keys: tuple[int, int]
    offsets: tuple[int, int]
    tokens: tuple[int, int]
    is_next: bool


def text(key: int, token: int) -> int:
    return UNK if (key + token) % 7 == 0 else FIRST_TEXT_ID + (key * 11 + token * 5) % (60 - FIRST_TEXT_ID)


def documents_of(corpus: Corpus, keys: list[int] | None = None, copy: int = 0) -> Documents:
    names = list(range(len(corpus))) if keys is None else keys
    ids = [[text(key, t) for t in range(sum(sentences))] for key, sentences in zip(names, corpus, strict=True)]
    ends = [np.cumsum(sentences, dtype=np.int64).tolist() for sentences in corpus]
    return Documents(ids=ragged(ids), keys=np.array(names, np.uint64), copy=copy, sentence_ends=ragged(ends))


def build(parameters: SentencePair, documents: Documents, longest: int, seed: int = 1) -> Examples:
    return SentencePairObjective.of(parameters, VOCABULARY).build(documents, lengths=[longest], seed=seed)


def rows_of(examples: Examples) -> list[Row]:
    """The rows, their frame and text checked."""
    rows = []
    columns = (examples.input_ids, *(examples.lists[c] for c in ("mask_positions", "mask_labels")))
    provenance = (examples.doc_keys, examples.doc_offsets, examples.doc_lengths)
    scalars = (examples.scalars[c].tolist() for c in ("segment_a_length", "is_next"))  # type: ignore[union-attr]
    for ids, places, labels, keys, offsets, tokens, segment_a, is_next in zip(
        *map(lists, columns), *map(lists, provenance), *scalars, strict=True
    ):
        for place, label in zip(places, labels, strict=True):
            ids[place] = label
        a, b = ([text(k, o + t) for t in range(n)] for k, o, n in zip(keys, offsets, tokens, strict=True))
        assert ids == [CLS, *a, SEP, *b, SEP], "labels put back do not give the documents' text"
        assert segment_a == len(a) + 2
        assert min(tokens) >= 1
        rows.append(Row(tuple(keys), tuple(offsets), tuple(tokens), is_next))
    return rows


def bits(seed: int, purpose: str, *name: Any) -> Any:
    return draw(seed, purpose, *(np.array([n], np.uint64 if n >= 2**63 else np.int64) for n in name))


def pick(seed: int, purpose: str, name: int, bound: int) -> int:
    return int(below(bits(seed, purpose, name), bound)[0])


def truncated(pair: list[list[int]], most: int, name: int, seed: int) -> list[list[int]]:
    """truncate_seq_pair of google-research/bert, token by token; the k-th cut of a segment looks at its k-th bit."""
    pair = [list(tokens) for tokens in pair]
    coins = []
    a, b = map(len, pair)
    while a + b > most:  # how many are cut, since the bits of the last word are its high ones
        a, b = (a - 1, b) if a > b else (a, b - 1)
    for segment, cut in enumerate((len(pair[0]) - a, len(pair[1]) - b)):
        words = [int(bits(seed, "pair.cut", name, segment, w)[0]) for w in range(-(-cut // 64))]
        coins.append([words[k // 64] >> (63 - k % 64) & 1 for k in range(cut)])
    while len(pair[0]) + len(pair[1]) > most:
        longer = 0 if len(pair[0]) > len(pair[1]) else 1
        pair[longer].pop(0 if coins[longer].pop() else -1)
    return pair


def oracle(
    parameters: SentencePair, documents: Documents, longest: int, seed: int
) -> tuple[list[Row], dict[str, int], dict[str, int]]:
    """create_instances_from_document of google-research/bert, one document and one sentence at a time."""
    p, most = parameters, longest - 3
    assert documents.sentence_ends is not None
    everything = {}
    for key, ends in zip(documents.keys.tolist(), lists(documents.sentence_ends), strict=True):
        everything[key] = [list(range(a, b)) for a, b in pairwise([0, *ends])]
    rows: list[Row] = []
    losses: Counter[str] = Counter()
    gains: Counter[str] = Counter()
    for key, document in everything.items():
        others = sorted(set(everything) - {key})
        i = 0
        while i < len(document):
            name = int(bits(seed, "row", key, document[i][0], documents.copy)[0])
            target = int(short_targets(np.array([name], np.uint64), most, p.short_sequence_rate)[0])
            chunk: Corpus = []
            while i < len(document) and sum(map(len, chunk)) < target:
                chunk.append(document[i])
                i += 1
            a_end = 1 + pick(seed, "pair.split", name, len(chunk) - 1) if len(chunk) > 1 else 1
            a, b = list(chain(*chunk[:a_end])), list(chain(*chunk[a_end:]))
            coin = bool(happens(bits(seed, "pair.coin", name), p.coin_prob)[0])
            keys, is_next = [key, key], True
            if p.task == "sop":
                if not b:
                    losses["one_sentence_chunks"] += len(a)
                    continue
                is_next = not coin
                a, b = (b, a) if coin else (a, b)
            elif others and (coin or not b):
                is_next = False
                i -= len(chunk) - a_end  # the rest goes back to the walk
                keys[1] = others[pick(seed, "pair.document", name, len(others))]
                sentences = everything[keys[1]]
                b = []
                for sentence in sentences[pick(seed, "pair.sentence", name, len(sentences)) :]:
                    b += sentence
                    if len(b) >= target - len(a):
                        break
            elif not b:
                losses["no_other_document"] += len(a)
                continue
            short_a, short_b = truncated([a, b], most, name, seed)
            losses["truncated"] += len(a) - len(short_a)
            if keys[0] == keys[1]:
                losses["truncated"] += len(b) - len(short_b)
            else:
                gains["random_next"] += len(short_b)
            firsts, counts = (short_a[0], short_b[0]), (len(short_a), len(short_b))
            rows.append(Row((keys[0], keys[1]), firsts, counts, is_next))
    return rows, dict(+losses), dict(+gains)


@cases(250)
@given(
    corpus=CORPUS,
    parameters=PARAMETERS,
    longest=st.integers(5, 40),
    copy=st.integers(0, 3),
    tile=st.sampled_from([1, 5, 2**15]),
)
@example(corpus=[[1]], parameters=SentencePair(), longest=5, copy=0, tile=1)
@example(corpus=[[300, 2], [1]], parameters=SentencePair(), longest=5, copy=0, tile=1)
@example(corpus=[[300, 200], [150]], parameters=SentencePair(task="sop"), longest=12, copy=0, tile=1)
def test_rows_and_accounts_are_those_of_a_walk_sentence_by_sentence(
    corpus: Corpus, parameters: SentencePair, longest: int, copy: int, tile: int
) -> None:
    documents = documents_of(corpus, copy=copy)
    with patch.object(pairing, "_TILE_SENTENCES", tile):
        examples = build(parameters, documents, longest)
    rows, losses, gains = oracle(parameters, documents, longest, seed=1)
    assert sorted(rows_of(examples)) == sorted(rows)
    assert (examples.losses, examples.gains) == (losses, gains)
    out = sum(sum(r.tokens) for r in rows)
    assert documents.tokens + sum(gains.values()) == out + sum(losses.values()), "the ledger does not close"
    assert examples.input_ids.lengths.max(initial=0) <= longest
    assert examples.to_table(SentencePairObjective.columns, "s").schema == example_schema(
        SentencePairObjective.columns
    )


@cases(120)
@given(corpus=CORPUS, parameters=PARAMETERS, longest=st.integers(5, 30))
def test_no_token_is_in_two_rows_but_those_counted_as_gained(
    corpus: Corpus, parameters: SentencePair, longest: int
) -> None:
    examples = build(parameters, documents_of(corpus), longest)
    seen: Counter[tuple[int, int]] = Counter()
    gained = 0
    for row in rows_of(examples):
        own = 2 if row.keys[0] == row.keys[1] else 1
        for key, offset, count in list(zip(row.keys, row.offsets, row.tokens, strict=True))[:own]:
            seen.update((key, offset + t) for t in range(count))
        gained += sum(row.tokens[own:])
    assert set(seen.values()) <= {1}
    assert sum(examples.gains.values()) == gained
    assert sum(map(sum, corpus)) - len(seen) == sum(examples.losses.values())


@cases(100)
@given(corpus=CORPUS, parameters=PARAMETERS, longest=st.integers(5, 30), order=st.randoms(use_true_random=False))
def test_the_order_of_the_documents_changes_no_row_and_no_mask(
    corpus: Corpus, parameters: SentencePair, longest: int, order: Any
) -> None:
    def table(keys: list[int]) -> list[dict[str, Any]]:
        examples = build(parameters, documents_of([corpus[k] for k in keys], keys), longest)
        return examples.to_table(SentencePairObjective.columns, "s").to_pylist()

    def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(rows, key=lambda r: (r["doc_keys"], r["doc_offsets"]))

    straight, shuffled = list(range(len(corpus))), list(range(len(corpus)))
    order.shuffle(shuffled)
    assert named(table(straight)) == named(table(shuffled))


@cases(100)
@given(corpus=CORPUS, parameters=PARAMETERS, room=st.integers(2, 30))
def test_chunks_do_not_depend_on_what_other_documents_are_there(
    corpus: Corpus, parameters: SentencePair, room: int
) -> None:
    def chunks(documents: Documents) -> dict[tuple[int, int], list[int]]:
        walk = Walk(documents, room, parameters.short_sequence_rate, parameters.coin_prob, seed=3)
        c = walk.chunks(splits_return=parameters.task == "nsp")
        origin = documents.ids.offsets[c.doc]
        columns = (c.begin - origin, c.split - origin, c.end - origin, c.target, c.coin.astype(int))
        found = zip(documents.keys[c.doc].tolist(), *(x.tolist() for x in columns), strict=True)
        return {(key, begin): rest for key, begin, *rest in found}

    alone: dict[tuple[int, int], list[int]] = {}
    for key, sentences in enumerate(corpus):
        alone |= chunks(documents_of([sentences], [key]))
    assert chunks(documents_of(corpus)) == alone


def test_rows_with_the_real_b_keep_their_masks_beside_other_documents() -> None:
    corpus = [[1 + (3 * d + s) % 8 for s in range(60)] for d in range(8)]

    def next_rows(keys: list[int]) -> dict[tuple[int, int], list[int]]:
        examples = build(SentencePair(), documents_of([corpus[k] for k in keys], keys), 30)
        return {
            (row.keys[0], row.offsets[0]): ids
            for row, ids in zip(rows_of(examples), lists(examples.input_ids), strict=True)
            if row.is_next
        }

    together = next_rows(list(range(8)))
    assert len(together) > 50
    for pair in ([0, 1], [2, 5], [7, 3]):
        apart = next_rows(pair)
        assert apart == {name: ids for name, ids in together.items() if name[0] in pair}


def test_documents_that_share_a_key_are_never_each_others_random_b() -> None:
    corpus = [[3] * 20, [4] * 30, [5] * 20, [2] * 9]
    rows = rows_of(build(SentencePair(random_next_prob=1), documents_of(corpus, [7, 7, 8, 7]), 20))
    assert {r.keys for r in rows} == {(7, 8), (8, 7)}
    lonely = build(SentencePair(random_next_prob=1), documents_of([*corpus, [5]], [7] * 5), 20)
    assert all(r.is_next for r in rows_of(lonely))
    assert lonely.losses["no_other_document"] >= 5
    assert lonely.gains == {}


def test_documents_of_one_sentence_are_random_pairs_for_nsp_and_no_pairs_for_sop() -> None:
    documents = documents_of([[5], [1], [30], [2]])
    nsp = build(SentencePair(random_next_prob=0, short_sequence_rate=0), documents, 16)
    assert [r.is_next for r in rows_of(nsp)] == [False] * 4
    sop = build(SentencePair(task="sop"), documents, 16)
    assert (len(sop), sop.losses) == (0, {"one_sentence_chunks": 38})
    alone = build(SentencePair(), documents_of([[5]]), 16)
    assert (len(alone), alone.losses) == (0, {"no_other_document": 5})


@pytest.mark.parametrize("task", ["nsp", "sop"])
def test_no_documents_give_no_rows(task: Any) -> None:
    examples = build(SentencePair(task=task), documents_of([]), 16)
    assert (len(examples), examples.losses, examples.gains) == (0, {}, {})
    assert examples.to_table(SentencePairObjective.columns, "s").num_rows == 0


def test_a_pair_too_long_loses_tokens_of_the_longer_segment_one_by_one() -> None:
    a, b = (x.reshape(-1) for x in np.mgrid[1:40, 1:40])
    lengths = np.stack([a, b])
    for most in range(2, 30):
        pairs = Pairs(np.arange(len(a), dtype=np.uint64), lengths * 0, lengths * 0, lengths, a > 0)
        found = pairs.cut(most, seed=0)
        for before, after in zip(lengths.T.tolist(), found.length.T.tolist(), strict=True):
            while sum(before) > most:
                before[0 if before[0] > before[1] else 1] -= 1
            assert before == after


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_of_the_tokens_cut_binomially_many_are_in_front(cut: int) -> None:
    n = 40_000
    lengths = np.stack([np.full(n, 4 + cut), np.full(n, 3 + cut)])
    pairs = Pairs(np.arange(n, dtype=np.uint64), lengths * 0, lengths * 0, lengths, np.ones(n, bool))
    found = pairs.cut(7, seed=5)
    assert (found.length == [[4], [3]]).all()
    joint = Counter(zip(*found.begin.tolist(), strict=True))
    cells = [(i, j) for i in range(cut + 1) for j in range(cut + 1)]
    law = [comb(cut, i) * comb(cut, j) / 4**cut for i, j in cells]
    likely = [c for c, q in enumerate(law) if q * n > 10]
    rest = sum(joint[cells[c]] for c in range(len(cells)) if c not in likely), 1 - sum(law[c] for c in likely)
    more = ([rest[0]], [rest[1] * n]) if rest[1] * n > 5 else ([], [])
    assert fits([joint[cells[c]] for c in likely] + more[0], [law[c] * n for c in likely] + more[1])


def test_a_long_cut_has_the_variance_of_as_many_coins() -> None:
    n, cut = 20_000, 200  # several words of bits
    lengths = np.stack([np.full(n, cut + 1), np.ones(n, np.int64)])
    found = Pairs(np.arange(n, dtype=np.uint64), lengths * 0, lengths * 0, lengths, np.ones(n, bool)).cut(2, seed=5)
    front = found.begin[0]
    assert abs(front.mean() - cut / 2) < 5 * (cut / 4 / n) ** 0.5
    assert abs(front.var() / (cut / 4) - 1) < 5 * (2 / n) ** 0.5


def test_splits_documents_and_sentences_are_drawn_uniformly() -> None:
    corpus = [[1] * 60 for _ in range(400)]
    documents = documents_of(corpus)
    walk = Walk(documents, 12, 0.0, 0.5, seed=2)
    chunks = walk.chunks(splits_return=True)
    whole = chunks.take(chunks.end - chunks.begin == 12)
    splits = Counter((whole.split - whole.begin).tolist())
    n = len(whole.name)
    assert set(splits) == set(range(1, 12))
    assert fits([splits[k] for k in range(1, 12)], [n / 11] * 11)
    assert fits([int(whole.coin.sum()), n - int(whole.coin.sum())], [n / 2, n / 2])

    pairs, _ = walk.next_sentence()
    strange = ~pairs.is_next
    distance = (pairs.doc[1, strange] - pairs.doc[0, strange]) % 400
    assert (distance > 0).all(), "B is from A's document"
    counted = np.bincount((distance - 1) // 21, minlength=19)  # 399 others in 19 equal parts
    assert fits(counted.tolist(), [strange.sum() / 19] * 19)
    sentence = (pairs.begin[1, strange] - documents.ids.offsets[pairs.doc[1, strange]]).tolist()
    counts = Counter(sentence)
    assert fits([counts[s] for s in range(60)], [len(sentence) / 60] * 60)


def test_short_targets_are_uniform_and_drawn_for_each_chunk() -> None:
    documents = documents_of([[1] * 6000 for _ in range(20)])
    chunks = Walk(documents, 11, 1.0, 0.5, seed=4).chunks(splits_return=False)
    inner = chunks.take(chunks.end - documents.ids.offsets[chunks.doc] < 6000)
    counts = Counter((inner.end - inner.begin).tolist())
    assert set(counts) == set(range(2, 12))
    assert fits([counts[k] for k in range(2, 12)], [len(inner.name) / 10] * 10)


@pytest.mark.parametrize("prob", [0.5, 0.2])
def test_the_share_of_random_pairs_is_p_and_what_chunks_of_one_sentence_add(prob: float) -> None:
    # Half of the documents are one sentence, which is always random; the others fill one chunk of two.
    corpus = [[8] if d % 2 else [4, 4] for d in range(6000)]
    parameters = SentencePair(random_next_prob=prob, short_sequence_rate=0)
    rows = rows_of(build(parameters, documents_of(corpus), 11, seed=8))
    two = [r for r in rows if r.keys[0] % 2 == 0 and r.offsets[0] < 4]
    assert len(two) == 3000
    assert fits([sum(not r.is_next for r in two), sum(r.is_next for r in two)], [3000 * prob, 3000 * (1 - prob)])
    assert sum(r.is_next for r in rows) == sum(r.is_next for r in two)


def test_a_new_copy_and_a_new_seed_pair_anew() -> None:
    corpus = [[1 + s % 5 for s in range(200)] for _ in range(20)]
    first = set(rows_of(build(SentencePair(), documents_of(corpus), 24)))
    for documents, seed in ((documents_of(corpus, copy=1), 1), (documents_of(corpus), 2)):
        other = set(rows_of(build(SentencePair(), documents, 24, seed)))
        assert len(first & other) < 0.1 * len(first)


def test_swapped_pairs_are_half_of_all_and_each_row_is_one_stretch() -> None:
    corpus = [[2 + (d + s) % 3 for s in range(300)] for d in range(60)]
    parameters = SentencePair(task="sop", short_sequence_rate=0)
    rows = rows_of(build(parameters, documents_of(corpus), 43, seed=6))
    swapped = sum(not r.is_next for r in rows)
    assert fits([swapped, len(rows) - swapped], [len(rows) / 2] * 2)
    for r in rows:
        assert r.keys[0] == r.keys[1]
        assert r.is_next == (r.offsets[0] < r.offsets[1])


def test_requests_that_cannot_be_met_are_refused() -> None:
    objective = SentencePairObjective.of(SentencePair(), VOCABULARY)
    assert objective.resolve(128) == {"length": 128, "predictions": 19, "pair_tokens": 125}
    assert objective.resolve(5)["pair_tokens"] == 2
    with pytest.raises(RequestError, match="too short"):
        objective.resolve(4)
    for role in ("cls", "sep", "mask"):
        roles = {r: i for r, i in SPECIAL_IDS.items() if r != role}
        with pytest.raises(RequestError, match=role):
            SentencePairObjective.of(SentencePair(), vocabulary(60, roles=roles))
    for wrong in ({"swap_prob": 0.3}, {"task": "sop", "random_next_prob": 0.3}):
        with pytest.raises(ValidationError, match="is for task"):
            SentencePair(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("parameters", [SentencePair(), SentencePair(task="sop")])
@pytest.mark.parametrize("longest", [64, 256])
def test_the_preview_is_near_what_is_built(parameters: SentencePair, longest: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1, 1500).astype(np.int64) + 2
    corpus = [[6] * (n // 6) + ([n % 6] if n % 6 else []) for n in lengths.tolist()]
    built = len(build(parameters, documents_of(corpus), longest))
    objective = SentencePairObjective.of(parameters, VOCABULARY)
    row_lengths, counts = objective.row_lengths(lengths, np.ones_like(lengths), lengths=[longest])
    assert row_lengths.max() <= longest
    assert abs(float(counts.sum()) / built - 1) < 0.25


# What the audit makes of rows.

RICH: Corpus = [[1 + (d * 5 + s * 3) % 9 for s in range(1 + d * 3 % 50)] for d in range(120)]
LENGTHS = (16, 40)


def context_of(parameters: SentencePair, seed: int = 1) -> AuditContext:
    return AuditContext(
        parameters=parameters,
        vocab_size=60,
        special_ids=dict(SPECIAL_IDS),
        sentinel_ids=(),
        is_special=VOCABULARY.is_special,
        sources=("s",),
        lengths={0: LENGTHS},
        validation_share=0.0,
        fingerprint="",
        seed=seed,
    )


def measured(table: pa.Table, parameters: SentencePair, seed: int = 1) -> dict[str, int]:
    rows = Rows.of(table, context_of(parameters, seed))
    SentencePairObjective.measure(rows, table)
    return {name: int(values.sum()) for name, values in rows.per_row.items()}


def table_of(parameters: SentencePair, corpus: Corpus = RICH, keys: list[int] | None = None) -> pa.Table:
    return build(parameters, documents_of(corpus, keys), LENGTHS[-1]).to_table(SentencePairObjective.columns, "s")


def broken(figures: dict[str, int]) -> set[str]:
    return {name for name, (counts, _) in SentencePairObjective.laws.items() if any(figures[c] for c in counts)}


def changed(table: pa.Table, change: Any, which: Any = lambda row: True) -> pa.Table:
    """The table with every row for which this is true changed in place."""
    rows = table.to_pylist()
    touched = [change(row) for row in rows if which(row)]
    assert touched, "nothing was changed"
    return pa.Table.from_pylist(rows, schema=table.schema)


@cases(60)
@given(corpus=CORPUS, parameters=PARAMETERS, copy=st.integers(0, 2))
@example(corpus=RICH, parameters=SentencePair(), copy=0)
@example(corpus=RICH, parameters=SentencePair(task="sop"), copy=0)
def test_the_audit_finds_nothing_wrong_with_what_is_built(
    corpus: Corpus, parameters: SentencePair, copy: int
) -> None:
    examples = build(parameters, documents_of(corpus, copy=copy), LENGTHS[-1])
    table = examples.to_table(SentencePairObjective.columns, "s")
    figures = measured(table, parameters)
    assert broken(figures) == set()
    assert figures["provenance_mismatch"] == figures.get("pairs_forced_errors", 0) == 0


def flip(row: dict[str, Any]) -> None:
    row["is_next"] = not row["is_next"]


def lengthen_a(row: dict[str, Any]) -> None:
    row["segment_a_length"] += 1


def third_piece(row: dict[str, Any]) -> None:
    for column in ("doc_keys", "doc_offsets", "doc_lengths"):
        row[column] = [*row[column], 1]


def swap_provenance(row: dict[str, Any]) -> None:
    for column in ("doc_keys", "doc_offsets", "doc_lengths"):
        row[column] = row[column][::-1]


def leave_a_gap(row: dict[str, Any]) -> None:
    later = row["doc_offsets"].index(max(row["doc_offsets"]))
    row["doc_offsets"][later] += 1


def own_document(row: dict[str, Any]) -> None:
    row["doc_keys"] = [row["doc_keys"][0]] * 2


def other_document(row: dict[str, Any]) -> None:
    row["doc_keys"][1] += 1


def empty_a(row: dict[str, Any]) -> None:
    row["doc_lengths"][0], row["segment_a_length"] = 0, 2


@pytest.mark.parametrize(
    ("task", "change", "which", "law"),
    [
        ("nsp", flip, lambda r: True, "pair_labels"),
        ("sop", flip, lambda r: True, "pair_labels"),
        ("nsp", lengthen_a, lambda r: True, "segments"),
        ("nsp", third_piece, lambda r: True, "segments"),
        ("nsp", swap_provenance, lambda r: r["is_next"], "pair_labels"),
        ("nsp", leave_a_gap, lambda r: r["is_next"] and r["length"] < LENGTHS[-1], "pair_labels"),
        ("nsp", own_document, lambda r: not r["is_next"], "pair_labels"),
        ("nsp", other_document, lambda r: r["is_next"], "pair_labels"),
        ("nsp", empty_a, lambda r: True, "segments"),
        ("sop", swap_provenance, lambda r: True, "pair_labels"),
        ("sop", other_document, lambda r: True, "pair_labels"),
        ("sop", leave_a_gap, lambda r: r["length"] < LENGTHS[-1] and not r["is_next"], "pair_labels"),
    ],
)
def test_the_audit_sees_rows_that_are_not_pairs(task: Any, change: Any, which: Any, law: str) -> None:
    parameters = SentencePair(task=task)
    assert law in broken(measured(changed(table_of(parameters), change, which), parameters))


def test_the_audit_sees_labels_that_are_not_the_coins() -> None:
    # As if another seed, or no coin at all, had decided.
    for parameters in (SentencePair(), SentencePair(task="sop")):
        assert broken(measured(table_of(parameters), parameters, seed=2)) == {"pair_coins"}
    always_next = table_of(SentencePair(random_next_prob=0))
    assert broken(measured(always_next, SentencePair())) == {"pair_coins"}
    always_random = measured(table_of(SentencePair(random_next_prob=1)), SentencePair())
    assert broken(always_random) == set()
    assert always_random["pairs_forced_errors"] > 0.1 * always_random["pairs_forced"] > 0


def test_a_lone_document_may_have_real_pairs_against_the_coin() -> None:
    figures = measured(table_of(SentencePair(), [[3] * 500]), SentencePair())
    assert broken(figures) == set()
    assert figures["pairs_alone"] > 30


@cases(80)
@given(data=st.data(), parameters=PARAMETERS)
def test_the_audit_survives_damaged_rows(data: Any, parameters: SentencePair) -> None:
    schema = example_schema(SentencePairObjective.columns)
    small, wild = st.integers(-3, 70), st.integers(-(2**31), 2**31 - 1)
    values: dict[str, Any] = {
        "source": st.just("s"),
        "doc_keys": st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 1), max_size=3),
        "doc_offsets": st.lists(st.integers(-(2**62), 2**62) | small, max_size=3),
        "is_next": st.booleans(),
    }
    row = {
        f.name: values.get(f.name, st.lists(small | wild, max_size=9) if pa.types.is_list(f.type) else small | wild)
        for f in schema
    }
    rows = data.draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=5))
    measured(pa.Table.from_pylist(rows, schema=schema), parameters)


def gates_of(table: pa.Table, parameters: SentencePair) -> dict[str, bool]:
    rows = Rows.of(table, context_of(parameters))
    rows.per_row["rows"] = np.ones(len(rows), np.int64)
    SentencePairObjective.measure(rows, table)
    found = Accumulator.create()
    rows.collect(found, "train", 0, LENGTHS[-1])
    nothing: Any = None  # these gates look at nothing else
    evidence = Evidence(found=found, manifest=nothing, context=context_of(parameters), tokenizer=None, index_shards=1)
    return {g.name: g.passed for g in pair_gates(evidence, parameters.task, parameters.coin_prob)}


def test_gates_pass_what_is_built_and_fail_biased_labels() -> None:
    many = [[1 + (d * 5 + s * 3) % 9 for s in range(20 + d % 40)] for d in range(900)]
    for parameters in (SentencePair(), SentencePair(task="sop"), SentencePair(random_next_prob=0.3)):
        assert all(gates_of(table_of(parameters, many), parameters).values())
    rare = table_of(SentencePair(random_next_prob=0.1), many)
    assert not gates_of(rare, SentencePair())["random_next"]
    often = table_of(SentencePair(task="sop", swap_prob=0.6), many)
    assert not gates_of(often, SentencePair(task="sop"))["swapped_share"]
    built = table_of(SentencePair(), many)
    keep = np.array([not r["is_next"] or r["doc_offsets"][0] % 2 == 0 for r in built.to_pylist()])
    assert not gates_of(built.filter(pa.array(keep)), SentencePair())["pair_coin_share"], "half of the next rows gone"
    forced = table_of(SentencePair(random_next_prob=1), many)
    assert not gates_of(forced, SentencePair())["one_sentence_chunks"]


@pytest.mark.parametrize("parameters", [SentencePair(), SentencePair(task="sop", selection="ngram")])
def test_marks_show_the_second_segment_and_every_masked_place_once(parameters: SentencePair) -> None:
    tokenizer: Any = type("Record", (), {"special_ids": SPECIAL_IDS})
    notes = set()
    for row in table_of(parameters).to_pylist():
        drawing = SentencePairObjective.draw(row, tokenizer)
        marked = [(m.kind, place) for m in drawing.marks for place in range(m.begin, m.end)]
        places = [place for _, place in marked]
        assert places == sorted(set(places)), "marks overlap"
        second = {place for kind, place in marked if kind == "second"}
        masked = {place for kind, place in marked if kind != "second"}
        assert masked == set(row["mask_positions"])
        assert second | {m for m in masked if m >= row["segment_a_length"]} == set(
            range(row["segment_a_length"], row["length"] - 1)
        )
        notes |= set(drawing.notes)
    other = "B is from another document" if parameters.task == "nsp" else "swapped"
    assert notes == {"B follows A", other}
