"""causal: every document and one end-of-sequence token behind it are in the rows, cut and packed as `pack` says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from audit_helpers import Audited, Columns, audited, audited_columns, columns_of
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, lists, ragged, vocabulary

from schemas.errors import RequestError
from schemas.manifest import TokenizerRecord
from transforms.objectives.base import Documents, Examples
from transforms.objectives.causal import Causal
from transforms.objectives.registry import objective_for, schema_of
from transforms.packing import best_fit

EOS = SPECIAL_IDS["eos"]
PACKS = ("concat", "best_fit", "decompose")
TEXTS = st.lists(st.lists(st.integers(FIRST_TEXT_ID, 59), min_size=1, max_size=30), max_size=12)
LENGTHS = st.lists(st.integers(2, 24), min_size=1, max_size=3, unique=True).map(sorted)
FIRST_KEY = 2**63


def build(documents: Sequence[Sequence[int]], lengths: list[int], pack: str = "concat", copy: int = 0) -> Examples:
    keys = np.arange(len(documents), dtype=np.uint64) + np.uint64(FIRST_KEY)
    objective = objective_for(Causal(pack=pack), vocabulary())  # type: ignore[arg-type]
    return objective.build(Documents(ids=ragged(documents), keys=keys, copy=copy), lengths=lengths, seed=1)


def pieces_of(examples: Examples) -> list[list[tuple[int, int, int]]]:
    """By row, (document, first token, tokens) of each piece."""
    columns = (lists(c) for c in (examples.doc_keys, examples.doc_offsets, examples.doc_lengths))
    return [
        [(key - FIRST_KEY, begin, n) for key, begin, n in zip(*row, strict=True)]
        for row in zip(*columns, strict=True)
    ]


def units_of(documents: Sequence[Sequence[int]], examples: Examples) -> list[list[tuple[int, int, int]]]:
    """By row, (document, first unit, units) of each piece, where a document's last unit is its EOS."""
    rows = pieces_of(examples)
    eos_alone = {(doc, begin) for row in rows for doc, begin, n in row if n == 0}
    return [
        [
            (doc, begin, n + (n == 0 or (begin + n == len(documents[doc]) and (doc, begin + n) not in eos_alone)))
            for doc, begin, n in row
        ]
        for row in rows
    ]


def ramp(count: int, seed: int = 0, longest: int = 90) -> list[list[int]]:
    """Documents of many lengths whose neighbouring tokens differ."""
    rng = np.random.default_rng(seed)
    return [
        [FIRST_TEXT_ID + (7 * d + i) % 50 for i in range(n)]
        for d, n in enumerate(rng.integers(1, longest, count).tolist())
    ]


# What rows hold.


@cases(150)
@given(documents=TEXTS, longest=st.integers(2, 40))
def test_rows_end_to_end_rebuild_every_document_and_one_eos_each(documents: list[list[int]], longest: int) -> None:
    rows = lists(build(documents, [longest]).input_ids)
    assert [t for row in rows for t in row] == [t for d in documents for t in [*d, EOS]]
    assert [len(row) for row in rows[:-1]] == [longest] * (len(rows) - 1) if rows else not documents
    assert all(1 <= len(row) <= longest for row in rows)


@cases(200)
@given(documents=TEXTS, lengths=LENGTHS, pack=st.sampled_from(PACKS))
def test_each_row_can_be_rebuilt_from_its_provenance_and_every_unit_is_in_one_row(
    documents: list[list[int]], lengths: list[int], pack: str
) -> None:
    examples = build(documents, lengths, pack, copy=3)
    found: Counter[tuple[int, int]] = Counter()
    for row, pieces in zip(lists(examples.input_ids), units_of(documents, examples), strict=True):
        whole = [[*documents[doc], EOS][begin : begin + units] for doc, begin, units in pieces]
        assert row == [t for piece in whole for t in piece]
        assert len(row) <= lengths[-1]
        found.update((doc, unit) for doc, begin, units in pieces for unit in range(begin, begin + units))
    assert found == Counter((doc, unit) for doc, d in enumerate(documents) for unit in range(len(d) + 1))
    assert examples.copy.tolist() == [3] * len(examples)


@cases(100)
@given(documents=TEXTS, lengths=LENGTHS, pack=st.sampled_from(PACKS))
def test_corpus_tokens_are_conserved_and_nothing_is_called_lost(
    documents: list[list[int]], lengths: list[int], pack: str
) -> None:
    examples = build(documents, lengths, pack)
    assert int(examples.doc_lengths.flat.sum()) == sum(map(len, documents))
    assert examples.losses == examples.gains == {}
    assert examples.to_table((), "a").schema == schema_of("causal")
    assert int((examples.input_ids.flat == EOS).sum()) == len(documents)


@pytest.mark.parametrize("pack", PACKS)
def test_one_document_of_every_length_up_keeps_all_its_tokens_at_every_row_length(pack: str) -> None:
    """Fails if a document that ends just before, at, or just behind a cut loses a token or its EOS."""
    for n in range(1, 35):
        document = [FIRST_TEXT_ID + i for i in range(n)]
        for longest in range(2, 18):
            lengths = [2, longest] if longest > 2 else [2]
            examples = build([document], lengths, pack)
            pieces = sorted(p for row in units_of([document], examples) for p in row)
            assert [b for _, b, _ in pieces] == np.cumsum([0, *(u for _, _, u in pieces)])[:-1].tolist()
            assert sum(u for _, _, u in pieces) == n + 1
            assert [t for row in lists(examples.input_ids) for t in row].count(EOS) == 1


@pytest.mark.parametrize("pack", PACKS)
def test_no_documents_give_no_rows(pack: str) -> None:
    examples = build([], [8, 16], pack)
    assert len(examples) == 0
    assert audited(examples, Causal(pack=pack), vocabulary(), [8, 16]).errors() == {}  # type: ignore[arg-type]


@cases(150)
@given(documents=TEXTS, longest=st.integers(2, 24))
def test_best_fit_cuts_only_documents_longer_than_a_row_and_needs_the_packers_rows(
    documents: list[list[int]], longest: int
) -> None:
    examples = build(documents, [longest], "best_fit")
    rows = units_of(documents, examples)
    for row in rows:
        for doc, begin, units in row:
            if units <= len(documents[doc]):  # the document is not whole here
                assert len(documents[doc]) + 1 > longest
                assert begin % longest == 0
                assert units == min(longest, len(documents[doc]) + 1 - begin)
    sizes = np.array([u for row in rows for _, _, u in row], dtype=np.int64)
    assert len(rows) == len(set(best_fit(sizes, longest).tolist()))
    # At most one row can be half empty: the contents of two such would have been put together.
    assert sum(2 * sum(u for _, _, u in row) < longest for row in rows) <= 1


@cases(150)
@given(documents=TEXTS, lengths=LENGTHS)
def test_decompose_makes_rows_of_one_document_of_powers_of_two_and_packs_only_what_is_shorter_than_a_bucket(
    documents: list[list[int]], lengths: list[int]
) -> None:
    examples = build(documents, lengths, "decompose")
    by_document = defaultdict(list)
    for row in units_of(documents, examples):
        assert len(row) == 1 or (all(u < lengths[0] for _, _, u in row) and sum(u for _, _, u in row) <= lengths[0])
        for doc, begin, units in row:
            by_document[doc].append((begin, units))
    for doc, pieces in by_document.items():
        sizes = [units for _, units in sorted(pieces)]
        left, expected = len(documents[doc]) + 1, []
        while left:  # the largest power of two that fits the rest and a row
            expected.append(max(2**k for k in range(12) if 2**k <= min(left, lengths[-1])))
            left -= expected[-1]
        assert sizes == expected


@pytest.mark.parametrize("pack", ["best_fit", "decompose"])
def test_pieces_of_a_document_do_not_depend_on_its_neighbours(pack: str) -> None:
    documents = ramp(40)
    together = {p for row in units_of(documents, build(documents, [8, 32], pack)) for p in row}
    alone = {
        (i, begin, units)
        for i, d in enumerate(documents)
        for row in units_of([d], build([d], [8, 32], pack))
        for _, begin, units in row
    }
    assert together == alone


# What is shown and asked.


def test_boundaries_are_drawn_where_pieces_begin_though_not_all_are_followed_by_eos() -> None:
    documents = ramp(60)
    record = TokenizerRecord(sha256="", vocab_size=60, special_ids=SPECIAL_IDS, special_token_ids=[])
    for pack in PACKS:
        parameters = Causal(pack=pack)  # type: ignore[arg-type]
        examples = build(documents, [16, 64], pack)
        objective, columns = objective_for(parameters, vocabulary()), columns_of(examples, parameters)
        for i, pieces in enumerate(units_of(documents, examples)):
            row: dict[str, Any] = {name: values[i] for name, values in columns.items()}
            begins = np.cumsum([0, *(u for _, _, u in pieces)]).tolist()
            marks = objective.draw(row, record).marks
            # EOS alone behind a piece without one may be drawn on either side of that boundary.
            exact = [b for b, p in zip(begins[1:-1], pieces[1:], strict=True) if p[2] > 1]
            assert [m.begin for m, p in zip(marks, pieces[1:], strict=True) if p[2] > 1] == exact


def test_the_preview_predicts_the_rows_of_a_block() -> None:
    lengths, counts = np.array([1, 5, 30]), np.array([4, 3, 2])
    documents = [[7] * n for n, c in zip(lengths, counts, strict=True) for _ in range(c)]
    shown, rows = objective_for(Causal(), vocabulary()).row_lengths(lengths, counts, lengths=[8, 16])
    assert shown.tolist() == [16]
    assert float(rows[0]) == pytest.approx(sum(len(d) + 1 for d in documents) / 16)
    assert len(build(documents, [8, 16])) == -(-sum(len(d) + 1 for d in documents) // 16)


@cases(60)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True),
    lengths=LENGTHS,
    pack=st.sampled_from(["best_fit", "decompose"]),
)
def test_the_preview_of_packed_rows_is_the_rows_of_a_large_block_by_length(
    sizes: list[int], lengths: list[int], pack: str
) -> None:
    copies = 256
    objective = objective_for(Causal(pack=pack), vocabulary())  # type: ignore[arg-type]
    shown, rows = objective.row_lengths(np.array(sizes), np.ones(len(sizes), np.int64), lengths=lengths)
    preview: Counter[int] = Counter()
    for length, n in zip(shown.tolist(), rows.tolist(), strict=True):
        preview[length] += n * copies
    block = build([[FIRST_TEXT_ID] * n for n in sizes for _ in range(copies)], lengths, pack)
    built = Counter(len(row) for row in lists(block.input_ids))
    # Whole items leave a remainder of a row or two for each length of a piece.
    slack = 2 * len({n for row in units_of([[0] * n for n in sizes for _ in range(copies)], block) for *_, n in row})
    assert all(abs(preview[n] - built[n]) <= slack for n in preview | built), (preview, built)
    assert sum(n * rows for n, rows in preview.items()) == pytest.approx(len(block.input_ids.flat), rel=1e-5)


@pytest.mark.parametrize("pack", ["best_fit", "decompose"])
def test_a_sample_of_one_document_does_not_make_the_rows_of_a_corpus_look_empty(pack: str) -> None:
    objective = objective_for(Causal(pack=pack), vocabulary())  # type: ignore[arg-type]
    shown, rows = objective.row_lengths(np.array([300]), np.array([1]), lengths=[8192])
    assert (shown * rows).sum() == pytest.approx(301)
    assert (shown * rows).sum() / (8192 * rows).sum() > 0.99


def test_a_length_that_predicts_nothing_is_refused() -> None:
    objective = objective_for(Causal(), vocabulary())
    assert objective.resolve(2)["predictions"] == 1
    with pytest.raises(RequestError, match="at least 2"):
        objective.resolve(1)


def test_a_tokenizer_without_eos_is_refused_with_the_way_to_name_one() -> None:
    with pytest.raises(RequestError) as error:
        objective_for(Causal(), vocabulary(roles={"cls": 2}))
    assert "special_tokens" in error.value.paragraph()
    assert "eos" in error.value.paragraph()


# The audit.


@cases(150)
@given(documents=TEXTS, lengths=LENGTHS, pack=st.sampled_from(PACKS))
def test_a_good_dataset_breaks_no_law(documents: list[list[int]], lengths: list[int], pack: str) -> None:
    parameters = Causal(pack=pack)  # type: ignore[arg-type]
    assert audited(build(documents, lengths, pack), parameters, vocabulary(), lengths).failed() == set()


Row = dict[str, Any]


def eos_dropped(row: Row, at: int) -> bool:
    del row["input_ids"][at]
    return True


def eos_overwritten(row: Row, at: int) -> bool:
    row["input_ids"][at] = FIRST_TEXT_ID
    return True


def eos_early(row: Row, at: int) -> bool:
    ids = row["input_ids"]
    if at == 0 or ids[at - 1] == EOS:
        return False
    ids[at - 1], ids[at] = ids[at], ids[at - 1]
    return True


def eos_late(row: Row, at: int) -> bool:
    ids = row["input_ids"]
    if at + 1 == len(ids) or ids[at + 1] == EOS:
        return False
    ids[at + 1], ids[at] = ids[at], ids[at + 1]
    return True


def eos_to_the_front(row: Row, at: int) -> bool:
    ids = row["input_ids"]
    if set(ids[:at]) <= {EOS}:
        return False
    ids.insert(0, ids.pop(at))
    return True


def eos_twice(row: Row, at: int) -> bool:
    row["input_ids"].insert(at, EOS)
    return True


def length_off_by_one(row: Row, at: int) -> bool:
    row["doc_lengths"][0] += 1
    return True


def length_negative(row: Row, at: int) -> bool:
    row["doc_lengths"][0] = -1
    return True


def token_counted_for_the_next_piece(row: Row, at: int) -> bool:
    counts = row["doc_lengths"]
    if len(counts) < 2 or counts[0] == 0:
        return False
    counts[0], counts[1] = counts[0] - 1, counts[1] + 1
    return True


def pieces_swapped(row: Row, at: int) -> bool:
    if len(row["doc_lengths"]) < 2 or row["doc_lengths"][0] == row["doc_lengths"][1]:
        return False
    for name in ("doc_keys", "doc_offsets", "doc_lengths"):
        row[name][:2] = row[name][1::-1]
    return True


DAMAGES: list[Callable[[Row, int], bool]] = [
    eos_dropped,
    eos_overwritten,
    eos_early,
    eos_late,
    eos_to_the_front,
    eos_twice,
    length_off_by_one,
    length_negative,
]
SHIFTS = [token_counted_for_the_next_piece, pieces_swapped]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("damage", [*DAMAGES, *SHIFTS], ids=lambda d: d.__name__)
def test_damage_to_any_one_row_is_found(damage: Callable[[Row, int], bool], pack: str) -> None:
    """EOS after EOS is damaged, one at a time; each time a law or a gate must see it."""
    parameters, lengths = Causal(pack=pack), [8, 32]  # type: ignore[arg-type]
    good = columns_of(build(ramp(40, longest=40), lengths, pack), parameters)
    assert audited_columns(good, parameters, vocabulary(), lengths).failed() == set()
    tried = 0
    for i in reversed(range(len(good["input_ids"]))):
        if tried >= 16:
            break
        for at in [p for p, t in enumerate(good["input_ids"][i]) if t == EOS]:
            row = {name: deepcopy(values[i]) for name, values in good.items()}
            if not damage(row, at):
                continue
            if damage in SHIFTS and pack == "decompose" and EOS not in row["input_ids"][: row["doc_lengths"][1] + 1]:
                continue  # between two pieces without EOS no id tells where one ends
            columns = {name: [*values[:i], row[name], *values[i + 1 :]] for name, values in good.items()}
            found = audited_columns(columns, parameters, vocabulary(), lengths)
            # A lone token is a power of two like a token and its EOS: only the number of documents tells.
            lone = pack == "decompose" and damage is eos_dropped
            assert found.failed() if lone else found.errors(), (i, at, row)
            tried += 1
    assert tried >= 3


@pytest.mark.parametrize("pack", PACKS)
def test_offsets_that_are_off_are_found(pack: str) -> None:
    parameters, lengths = Causal(pack=pack), [8, 32]  # type: ignore[arg-type]
    good = columns_of(build(ramp(40, longest=40), lengths, pack), parameters)
    for i, ids in enumerate(good["input_ids"][:24]):
        for k, n in enumerate(good["doc_lengths"][i]):
            for change in (-1, 1):
                columns = deepcopy(good)
                columns["doc_offsets"][i][k] += change
                found = audited_columns(columns, parameters, vocabulary(), lengths)
                # The row tells, unless it may begin anywhere: then the document's other pieces do, once it ends.
                if (pack == "concat" and k == 0) or (pack == "decompose" and n < 2):
                    assert found.failed() or ids[-1] != EOS, (i, k)
                else:
                    assert found.errors(), (i, k)


@pytest.mark.parametrize("pack", PACKS)
def test_a_row_that_is_missing_or_comes_twice_leaves_documents_incomplete(pack: str) -> None:
    parameters, lengths = Causal(pack=pack), [8, 32]  # type: ignore[arg-type]
    good = columns_of(build(ramp(40, longest=150), lengths, pack), parameters)
    cut = next(i for i, ids in enumerate(good["input_ids"]) if EOS not in ids)
    missing = {name: values[:cut] + values[cut + 1 :] for name, values in good.items()}
    twice = {name: [*values, values[cut]] for name, values in good.items()}
    for columns in (missing, twice):
        assert audited_columns(columns, parameters, vocabulary(), lengths).failed() == {"documents_whole"}


@pytest.mark.parametrize("pack", PACKS)
def test_damaged_rows_are_measured_without_a_crash(pack: str) -> None:
    """Lists of wrong lengths, ids outside the vocabulary and empty rows are counted, not raised."""
    parameters, lengths = Causal(pack=pack), [8, 32]  # type: ignore[arg-type]
    good = columns_of(build(ramp(10), lengths, pack), parameters)

    def spoiled(**changes: Any) -> Audited:
        columns: Columns = deepcopy(good)
        for name, value in changes.items():
            columns[name][0] = value
        return audited_columns(columns, parameters, vocabulary(), lengths)

    assert "id_range" in spoiled(input_ids=[-1, 10**6]).errors()
    for changes in (
        {"input_ids": []},
        {"doc_keys": []},
        {"doc_lengths": []},
        {"doc_offsets": []},
        {"doc_keys": [], "doc_lengths": [], "doc_offsets": []},
        {"doc_lengths": [2**31 - 1, -(2**31)], "doc_offsets": [-1, -(2**62)], "doc_keys": [0, 0]},
        {"doc_offsets": [-5] * len(good["doc_offsets"][0])},
    ):
        assert spoiled(**changes).errors()  # type: ignore[arg-type]
