"""fim: pieces are cut in three at random and rearranged, whole, so that all tokens can be put back in place."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from audit_helpers import audited, audited_columns, columns_of
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import SPECIAL_IDS, cases, fits, lists, ragged, vocabulary

from schemas.errors import RequestError
from schemas.manifest import TokenizerRecord
from transforms.objectives.base import Documents, Examples
from transforms.objectives.fim import Fim
from transforms.objectives.registry import objective_for, schema_of
from transforms.packing import best_fit
from transforms.ragged import Ragged
from transforms.vocabulary import Vocabulary, read_vocabulary

ROLES = {**SPECIAL_IDS, "fim_prefix": 6, "fim_middle": 7, "fim_suffix": 8}
PRE, MID, SUF, EOS, UNK = (ROLES[r] for r in ("fim_prefix", "fim_middle", "fim_suffix", "eos", "unk"))
FIRST = 9
TEXTS = st.lists(st.lists(st.integers(FIRST, 59) | st.just(UNK), min_size=1, max_size=40), max_size=10)
LONGEST = st.integers(5, 30)


def with_fim() -> Vocabulary:
    special = np.zeros(60, dtype=bool)
    special[:FIRST] = True
    return dataclasses.replace(vocabulary(roles=ROLES), is_special=special)


def of(documents: list[list[int]], keys: list[int] | None = None, copy: int = 0) -> Documents:
    return Documents(ids=ragged(documents), keys=np.array(keys or range(len(documents)), np.uint64), copy=copy)


def build(documents: Documents, longest: int, seed: int = 1, **parameters: Any) -> Examples:
    return objective_for(Fim(**parameters), with_fim()).build(documents, lengths=[longest], seed=seed)


def ramp(count: int, longest: int = 60, seed: int = 0) -> list[list[int]]:
    sizes = np.random.default_rng(seed).integers(1, longest, count).tolist()
    return [[FIRST + (7 * d + i) % 50 for i in range(n)] for d, n in enumerate(sizes)]


def equal(count: int, n: int) -> Documents:
    """Many documents of n tokens each."""
    flat = np.tile(np.arange(n, dtype=np.int32) + FIRST, count)
    return Documents(ids=Ragged(flat, np.arange(count + 1) * n), keys=np.arange(count, dtype=np.uint64), copy=0)


class Piece(NamedTuple):
    key: int
    begin: int
    tokens: int
    ids: tuple[int, ...]
    """With special tokens, without EOS."""
    ended: bool

    @property
    def parts(self) -> tuple[list[int], list[int], list[int]] | None:
        """What follows each of the three special tokens; None of a piece that was left as it is."""
        ids = list(self.ids)
        if PRE not in ids:
            return None
        assert ids[0] == PRE
        assert [t for t in ids if t in (PRE, MID, SUF)] == [PRE, SUF, MID]
        suffix, middle = ids.index(SUF), ids.index(MID)
        return ids[1:suffix], ids[suffix + 1 : middle], ids[middle + 1 :]

    @property
    def text(self) -> list[int]:
        """As it was: the suffix goes behind everything else, in either order."""
        if self.parts is None:
            return list(self.ids)
        first, suffix, rest = self.parts
        return first + rest + suffix


def pieces_of(examples: Examples) -> list[Piece]:
    """All pieces of all rows, read from left to right one id at a time."""
    found = []
    columns = (lists(c) for c in (examples.input_ids, examples.doc_keys, examples.doc_offsets, examples.doc_lengths))
    for row, *lists_of in zip(*columns, strict=True):
        ids = list(row)
        for key, begin, n in zip(*lists_of, strict=True):
            take = n + 3 * (ids[0] == PRE)
            piece, ids = ids[:take], ids[take:]
            ended = bool(ids) and ids[0] == EOS
            found.append(Piece(key, begin, n, tuple(piece), ended))
            ids = ids[ended:]
        assert ids == []
    return found


@cases(200)
@given(documents=TEXTS, longest=LONGEST, rate=st.sampled_from([0.0, 0.5, 1.0]), spm=st.sampled_from([0.0, 0.5, 1.0]))
def test_every_document_can_be_put_together_again_and_no_token_is_lost(
    documents: list[list[int]], longest: int, rate: float, spm: float
) -> None:
    examples = build(of(documents), longest, fim_rate=rate, spm_rate=spm)
    pieces = sorted(pieces_of(examples))
    for i, document in enumerate(documents):
        mine = [p for p in pieces if p.key == i]
        assert [t for p in mine for t in p.text] == document
        assert [p.begin for p in mine] == np.cumsum([0, *(p.tokens for p in mine)])[:-1].tolist()
        assert [p.ended for p in mine] == [False] * (len(mine) - 1) + [True]
    assert int(examples.doc_lengths.flat.sum()) == sum(map(len, documents))
    assert examples.losses == examples.gains == {}
    moved = [p.parts for p in pieces if p.parts is not None]
    assert len(moved) == {0.0: 0, 0.5: len(moved), 1.0: len(pieces)}[rate]
    assert all(not parts[0] for parts in moved) or spm < 1
    assert int(examples.input_ids.lengths.sum()) == sum(map(len, documents)) + len(documents) + 3 * len(moved)


@cases(150)
@given(documents=TEXTS, longest=LONGEST)
def test_pieces_are_packed_whole_into_as_few_rows_as_best_fit_needs(documents: list[list[int]], longest: int) -> None:
    examples = build(of(documents), longest)
    pieces = pieces_of(examples)
    assert all(len(row) <= longest for row in lists(examples.input_ids))
    assert all(p.tokens == longest - 4 or p.ended for p in pieces)
    sizes = np.array([len(p.ids) + p.ended for p in pieces], np.int64)
    assert len(examples) == len(set(best_fit(sizes, longest).tolist()))


def test_documents_of_every_length_up_fit_rows_of_every_length_up() -> None:
    """Fails if a piece with three special tokens and EOS could be longer than a row, or of no token."""
    for longest in range(5, 16):
        for n in range(1, 40):
            document = [FIRST + i for i in range(n)]
            examples = build(of([document]), longest, fim_rate=1)
            assert sorted(t for p in pieces_of(examples) for t in p.text) == document
            assert max(len(row) for row in lists(examples.input_ids)) <= longest
            assert min(p.tokens for p in pieces_of(examples)) >= 1


def test_a_piece_is_rearranged_the_same_whatever_it_is_built_beside() -> None:
    documents = ramp(50)
    order = np.random.default_rng(1).permutation(len(documents)).tolist()
    together = set(pieces_of(build(of(documents, keys=[i + 9 for i in range(50)]), 24)))
    shuffled = pieces_of(build(of([documents[i] for i in order], keys=[i + 9 for i in order]), 24))
    assert set(shuffled) == together
    alone = [p for i, d in enumerate(documents) for p in pieces_of(build(of([d], keys=[i + 9]), 24))]
    assert set(alone) == together


def test_another_copy_or_seed_rearranges_anew() -> None:
    documents = ramp(300)
    first = {(p.key, p.begin): p.ids for p in pieces_of(build(of(documents), 64))}
    for other in (build(of(documents, copy=1), 64), build(of(documents), 64, seed=2)):
        same = sum(first[p.key, p.begin] == p.ids for p in pieces_of(other))
        assert same < 0.4 * len(first)  # a quarter is left as it is both times


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_pair_of_cuts_is_as_likely_as_two_uniform_draws_make_it(n: int) -> None:
    """Two draws from 0..n, sorted: each pair of different cuts comes in two orders, so is twice as likely."""
    count = 20_000
    found: Counter[tuple[int, int]] = Counter()
    for p in pieces_of(build(equal(count, n), 64, fim_rate=1, spm_rate=0)):
        assert p.parts is not None
        prefix, suffix, _ = p.parts
        found[len(prefix), n - len(suffix)] += 1
    law = {(a, b): (1 + (a < b)) / (n + 1) ** 2 for a in range(n + 1) for b in range(a, n + 1)}
    assert set(found) == set(law)
    assert fits([found[k] for k in law], [count * p for p in law.values()])


def test_in_spm_order_the_greater_cut_is_that_of_two_uniform_draws() -> None:
    count, n = 20_000, 5
    pieces = pieces_of(build(equal(count, n), 64, fim_rate=1, spm_rate=1))
    found = Counter(n - len(p.parts[1]) for p in pieces if p.parts)
    assert fits([found[b] for b in range(n + 1)], [count * (2 * b + 1) / (n + 1) ** 2 for b in range(n + 1)])


@pytest.mark.parametrize(("rate", "spm"), [(0.5, 0.5), (0.9, 0.1)])
def test_rates_are_the_parameters_and_order_does_not_depend_on_the_cuts(rate: float, spm: float) -> None:
    count, n = 20_000, 12
    pieces = pieces_of(build(equal(count, n), 64, fim_rate=rate, spm_rate=spm))
    moved = [p.parts for p in pieces if p.parts is not None]
    assert fits([len(moved), count - len(moved)], [rate * count, (1 - rate) * count])
    no_prefix = Counter((not first, len(suffix) == 0) for first, suffix, _ in moved)
    low, cells = n / (n + 1), (n + 1) ** 2
    # Without a prefix and with an empty suffix: SPM with the greater cut n, or PSM with cuts 0 and n.
    laws = {
        (True, True): spm * (2 * n + 1) / cells + (1 - spm) * 2 / cells,
        (False, True): (1 - spm) * (2 * n - 1) / cells,
        (True, False): spm * (1 - (2 * n + 1) / cells) + (1 - spm) * (1 - low**2 - 2 / cells),
    }
    laws[False, False] = 1 - sum(laws.values())
    assert fits([no_prefix[k] for k in laws], [len(moved) * p for p in laws.values()])


def test_no_documents_give_no_rows() -> None:
    examples = build(of([]), 16)
    assert len(examples) == 0
    assert examples.to_table((), "a").schema == schema_of("fim")


@pytest.mark.parametrize("rate", [0, 0.5, 0.9, 1])
def test_the_preview_predicts_the_rows_of_a_block_and_the_space_that_packing_leaves(rate: float) -> None:
    documents = ramp(2000, longest=400)
    sizes, counts = np.unique([len(d) for d in documents], return_counts=True)
    shown, rows = objective_for(Fim(fim_rate=rate), with_fim()).row_lengths(sizes, counts, lengths=[32, 128])
    built = build(of(documents), 128, fim_rate=rate)
    # Which pieces are rearranged is drawn; as many full rows would be 0.7 % to 2.2 % fewer.
    assert len(built) == pytest.approx(rows.sum(), rel=0.003)
    assert built.input_ids.lengths.sum() == pytest.approx((shown * rows).sum(), rel=0.003)


def test_a_length_without_room_for_a_token_is_refused() -> None:
    objective = objective_for(Fim(), with_fim())
    assert objective.resolve(5)["piece_tokens"] == 1
    with pytest.raises(RequestError, match="at least 5"):
        objective.resolve(4)


@pytest.mark.parametrize("role", ["fim_prefix", "fim_middle", "fim_suffix", "eos"])
def test_a_tokenizer_that_lacks_a_token_is_refused_with_the_way_to_name_one(role: str) -> None:
    with pytest.raises(RequestError) as error:
        objective_for(Fim(), vocabulary(roles={r: i for r, i in ROLES.items() if r != role}))
    assert f"special_tokens: {{{role}:" in error.value.paragraph()


def test_one_token_for_two_roles_is_refused() -> None:
    with pytest.raises(RequestError, match="two roles"):
        objective_for(Fim(), vocabulary(roles={**ROLES, "fim_middle": SUF}))


@pytest.mark.parametrize("names", ["<fim_{}>", "<fim-{}>", "<|fim_{}|>", "▁<{:.3}>"])
def test_the_usual_names_of_the_tokens_are_known(names: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    roles = ("prefix", "middle", "suffix")
    written = [names.format(r if "fim" in names else r.upper()) for r in roles]
    vocab = {t: i for i, t in enumerate(["[UNK]", "[EOS]", "a", *written])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    found = read_vocabulary(tokenizer.to_str().encode())
    assert [found.special_ids[f"fim_{r}"] for r in roles] == [3, 4, 5]
    assert found.is_special.tolist() == [True, True, False, True, True, True]


def test_suffixes_are_drawn_as_moved_and_what_is_filled_in_as_predicted() -> None:
    record = TokenizerRecord(sha256="", vocab_size=60, special_ids=ROLES, special_token_ids=[])
    examples = build(of(ramp(80, longest=30)), 48)
    columns = columns_of(examples, Fim())
    for i in range(len(examples)):
        row: dict[str, Any] = {name: values[i] for name, values in columns.items()}
        ids, marks = row["input_ids"], objective_for(Fim(), with_fim()).draw(row, record).marks
        assert all(a.end <= b.begin for a, b in pairwise(marks))
        kinds, kind = [], ""
        for token in ids:  # a plain walk: each special token says what the text behind it is
            kind = {SUF: "rearranged", MID: "predicted", PRE: "", EOS: ""}.get(token, kind)
            kinds.append("" if token in (SUF, MID, PRE, EOS) else kind)
        drawn = [""] * len(ids)
        for m in marks:
            drawn[m.begin : m.end] = [m.kind] * (m.end - m.begin)
        assert drawn == kinds
        assert sum(m.kind == "boundary" for m in marks) == len(row["doc_keys"]) - 1


# The audit.


@cases(150)
@given(documents=TEXTS, longest=LONGEST, rate=st.sampled_from([0.0, 0.5, 1.0]), spm=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_good_dataset_breaks_no_law(documents: list[list[int]], longest: int, rate: float, spm: float) -> None:
    examples = build(of(documents), longest, fim_rate=rate, spm_rate=spm)
    assert audited(examples, Fim(fim_rate=rate, spm_rate=spm), with_fim(), [longest]).failed() == set()


def test_a_large_good_dataset_passes_every_gate_and_its_figures_are_those_of_a_plain_walk() -> None:
    examples = build(of(ramp(6000, longest=40)), 64)
    found = audited(examples, Fim(), with_fim(), [64])
    assert found.failed() == set()
    moved = [p.parts for p in pieces_of(examples) if p.parts is not None]
    assert found.found.total("fim_pieces") == len(pieces_of(examples))
    assert found.found.total("fim_moved") == len(moved)
    assert found.found.total("fim_no_prefix") == sum(not first for first, _, _ in moved)
    assert set(found.gates()) == {"documents_whole", "fim_rate", "fim_order", "fim_suffix", "fim_prefix"}


@pytest.mark.parametrize(
    ("built", "claimed", "fails"),
    [
        ({"fim_rate": 0.4}, {}, {"fim_rate"}),
        ({"fim_rate": 0.0}, {}, {"fim_rate"}),
        ({"fim_rate": 0.5}, {"fim_rate": 1.0}, {"fim_rate"}),
        ({"fim_rate": 0.5}, {"fim_rate": 0.0}, {"fim_rate"}),
        ({"spm_rate": 0.4}, {}, {"fim_order"}),
        ({"spm_rate": 0.0}, {}, {"fim_order"}),
        ({"spm_rate": 1.0}, {}, {"fim_order"}),
    ],
)
def test_other_rates_than_claimed_fail_their_own_gate(
    built: dict[str, float], claimed: dict[str, float], fails: set[str]
) -> None:
    examples = build(of(ramp(6000, longest=40)), 64, **built)
    assert audited(examples, Fim(**claimed), with_fim(), [64]).failed() == fails


def cut_once(n: int, rng: np.random.Generator) -> tuple[int, int]:
    """The middle is always empty."""
    a = int(rng.integers(0, n + 1))
    return a, a


def never_at_the_ends(n: int, rng: np.random.Generator) -> tuple[int, int]:
    """Cuts drawn from 1..n − 1, so that no part is empty at the ends."""
    a, b = sorted(rng.integers(1, n, 2).tolist()) if n > 1 else (0, n)
    return a, b


@pytest.mark.parametrize("cuts", [cut_once, never_at_the_ends])
def test_cuts_of_another_law_fail_the_gate_on_cuts(cuts: Callable[..., tuple[int, int]]) -> None:
    documents = ramp(6000, longest=30)
    good = columns_of(build(of(documents), 64, spm_rate=0.0), Fim())
    rng = np.random.default_rng(0)
    for i, ids in enumerate(good["input_ids"]):
        rebuilt: list[int] = []
        place = 0
        for n in good["doc_lengths"][i]:
            take = n + 3 * (ids[place] == PRE)
            piece = Piece(0, 0, n, tuple(ids[place : place + take]), True)
            if piece.parts is None:
                rebuilt += piece.ids
            else:
                (a, b), text = cuts(n, rng), piece.text
                rebuilt += [PRE, *text[:a], SUF, *text[b:], MID, *text[a:b]]
            place += take
            if place < len(ids) and ids[place] == EOS:
                rebuilt.append(EOS)
                place += 1
        good["input_ids"][i] = rebuilt
    failed = audited_columns(good, Fim(spm_rate=0.0), with_fim(), [64]).failed()
    assert failed & {"fim_suffix", "fim_prefix"}
    assert failed <= {"fim_suffix", "fim_prefix", "fim_order"}


def swap_tokens(ids: list[int], a: int, b: int) -> list[int]:
    swap = {a: b, b: a}
    return [swap.get(t, t) for t in ids]


def moved_by_one(ids: list[int], token: int) -> list[int]:
    at = ids.index(token)
    other = at + 1 if at + 1 < len(ids) else at - 1
    ids[at], ids[other] = ids[other], ids[at]
    return ids


def eos_behind_the_next_triple(ids: list[int]) -> list[int]:
    """[… EOS PRE SUF MID text] → [… PRE SUF MID EOS text]: the places in the text stay the same."""
    for at, token in enumerate(ids[:-3]):
        if token == EOS and ids[at + 1 : at + 4] == [PRE, SUF, MID]:
            return [*ids[:at], PRE, SUF, MID, EOS, *ids[at + 4 :]]
    return ids


SPOILS: dict[str, Callable[[list[int]], list[int]]] = {
    "suffix and middle swapped": lambda ids: swap_tokens(ids, SUF, MID),
    "prefix and middle swapped": lambda ids: swap_tokens(ids, PRE, MID),
    "prefix late": lambda ids: moved_by_one(ids, PRE),
    "middle lost": lambda ids: [t for t in ids if t != MID],
    "prefix became text": lambda ids: [FIRST if t == PRE else t for t in ids],
    "prefix twice": lambda ids: [x for t in ids for x in ([t, t] if t == PRE else [t])],
    "one EOS lost": lambda ids: ids[: ids.index(EOS)] + ids[ids.index(EOS) + 1 :] if EOS in ids else ids,
    "EOS late": lambda ids: moved_by_one(ids, EOS) if EOS in ids else ids,
    "EOS behind the next piece's tokens": eos_behind_the_next_triple,
    "text lost": lambda ids: (
        ids[: ids.index(MID) - 1] + ids[ids.index(MID) :] if ids[ids.index(MID) - 1] > 8 else ids
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_damage_to_any_one_row_is_found(name: str) -> None:
    documents = [d[:n] for d, n in zip(ramp(150, longest=50), [1, 2, 3, 50, 50] * 30, strict=True)]
    good = columns_of(build(of(documents), 32), Fim())
    tried = 0
    for i, ids in enumerate(good["input_ids"]):
        if tried == 25 or PRE not in ids:
            continue
        changed = SPOILS[name](list(ids))
        if changed == ids:
            continue
        columns = {**good, "input_ids": [*good["input_ids"][:i], changed, *good["input_ids"][i + 1 :]]}
        assert audited_columns(columns, Fim(), with_fim(), [32]).failed(), (i, ids, changed)
        tried += 1
    assert tried


def test_provenance_that_is_off_is_found() -> None:
    good = columns_of(build(of(ramp(60, longest=50)), 32), Fim())
    for i, counts in enumerate(good["doc_lengths"]):
        for k in range(len(counts)):
            for name, change in (("doc_lengths", 1), ("doc_lengths", -1), ("doc_offsets", 1), ("doc_offsets", -1)):
                columns = deepcopy(good)
                columns[name][i][k] += change
                assert audited_columns(columns, Fim(), with_fim(), [32]).errors(), (i, k, name)
    shifted = deepcopy(good)
    i = next(i for i, counts in enumerate(good["doc_lengths"]) if len(counts) > 1 and counts[0] > 1)
    shifted["doc_lengths"][i][0] -= 1
    shifted["doc_lengths"][i][1] += 1
    assert audited_columns(shifted, Fim(), with_fim(), [32]).errors()


def test_a_row_that_is_missing_or_comes_twice_leaves_documents_incomplete() -> None:
    good = columns_of(build(of(ramp(60, longest=150)), 32), Fim())
    missing = {name: values[1:] for name, values in good.items()}
    twice = {name: [*values, values[0]] for name, values in good.items()}
    for columns in (missing, twice):
        assert audited_columns(columns, Fim(), with_fim(), [32]).failed() == {"documents_whole"}


def test_damaged_rows_are_measured_without_a_crash() -> None:
    good = columns_of(build(of(ramp(20)), 32), Fim())
    for changes in (
        {"input_ids": []},
        {"input_ids": [PRE]},
        {"input_ids": [SUF, MID, PRE, PRE, -5, 10**6]},
        {"doc_lengths": []},
        {"doc_offsets": []},
        {"doc_keys": [], "doc_lengths": [], "doc_offsets": []},
        {"doc_lengths": [0, 0], "doc_offsets": [0, 0], "doc_keys": [0, 0], "input_ids": [PRE, SUF, MID, EOS, EOS]},
        {"doc_lengths": [-(2**31)], "doc_offsets": [-(2**62)], "doc_keys": [0]},
    ):
        columns = deepcopy(good)
        for name, value in changes.items():
            columns[name][0] = value
        assert audited_columns(columns, Fim(), with_fim(), [32]).errors()
    nothing = {name: [] for name in good}
    assert audited_columns({**nothing, "source": []}, Fim(), with_fim(), [32]).errors() == {}
