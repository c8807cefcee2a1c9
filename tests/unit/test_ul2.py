"""ul2: every row follows the numbers of the denoiser it drew, and denoisers are drawn at their rates."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import comb
from typing import Any

import numpy as np
import pytest
from audit_helpers import Audited, audited, audited_columns, columns_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from unit_helpers import SPECIAL_IDS, cases, corpus, fits, lists, vocabulary

from schemas.errors import RequestError
from schemas.job import TokenizerSpec
from schemas.objectives import parse_objective
from transforms.objectives.base import Documents, Examples
from transforms.objectives.denoisers import Denoiser, Denoisers, default_denoisers
from transforms.objectives.registry import objective_for, schema_of
from transforms.objectives.ul2 import Ul2
from transforms.statistics import Group, Measures
from transforms.vocabulary import TRAINED_SPECIAL_TOKENS, Vocabulary, future_vocabulary, read_vocabulary

EOS = SPECIAL_IDS["eos"]
FIRST_SENTINEL = 1000
SENTINELS = list(range(FIRST_SENTINEL, 1200))
MODES = {"nlu": 900, "nlg": 901, "s2s": 902}
MODE_OF = {"R": 900, "X": 901, "S": 902}


def vocab(sentinels: int = 200, *, modes: tuple[str, ...] = ("nlu", "nlg", "s2s")) -> Vocabulary:
    made = vocabulary(1200, roles={**SPECIAL_IDS, **{role: MODES[role] for role in modes}})
    made.is_special[[*SENTINELS, *MODES.values()]] = True
    return replace(made, sentinel_ids=np.array(SENTINELS[:sentinels], dtype=np.int32))


def numbered(length: int, at: int = 0) -> list[int]:
    return [200 + (at + i) % 700 for i in range(length)]


def build(
    parameters: Ul2, documents: Documents, longest: int, *, seed: int = 1, vocabulary_: Vocabulary | None = None
) -> Examples:
    objective = objective_for(parameters, vocabulary_ or vocab())
    made = objective.build(documents, lengths=[4, longest], seed=seed)
    assert made.to_table(objective.columns, "a").schema == schema_of("ul2")
    return made


def drawn(made: Examples) -> list[str]:
    return made.scalars["denoiser"].to_pylist()


def law(denoiser: Denoiser, n: int) -> tuple[int, int]:
    """(noise, spans) in plain Python, whose `round` is half to even."""
    noise = min(max(round(n * denoiser.noise_density), 1), n - 1)
    spans = 1 if denoiser.mean_noise_span_length is None else round(noise / denoiser.mean_noise_span_length)
    return noise, min(max(spans, 1), noise, n - noise)


def restore(inputs: list[int], target: list[int]) -> list[int]:
    """The piece, put together again the slow and obvious way."""
    hidden: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token >= FIRST_SENTINEL:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    return [t for token in inputs[:-1] for t in (hidden[token] if token >= FIRST_SENTINEL else [token])]


DENOISERS = st.lists(
    st.builds(
        Denoiser,
        name=st.text("abc-0123", min_size=1, max_size=8),
        mode=st.sampled_from(["R", "S", "X"]),
        mean_noise_span_length=st.none() | st.floats(1, 70),
        noise_density=st.floats(0.02, 0.95),
        rate=st.floats(0.01, 5),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda d: d.name,
)


@cases(150)
@given(
    denoisers=DENOISERS,
    mode_tokens=st.sampled_from(["auto", "never", "always"]),
    pack=st.sampled_from(["document", "full"]),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    longest=st.integers(4, 64),
)
def test_every_row_restores_its_text_and_has_the_lengths_of_its_denoiser(
    denoisers: list[Denoiser], mode_tokens: Any, pack: Any, lengths: list[int], longest: int
) -> None:
    parameters = Ul2(denoisers=tuple(denoisers), mode_tokens=mode_tokens, pack=pack)
    documents = [numbered(n, 13 * i) for i, n in enumerate(lengths)]
    made = build(parameters, corpus(documents), longest)
    leads = mode_tokens != "never"
    by_name = {d.name: d for d in denoisers}
    rows = zip(
        *(lists(c) for c in (made.input_ids, made.lists["target_ids"])),
        drawn(made),
        *(lists(c) for c in (made.doc_keys, made.doc_offsets, made.doc_lengths)),
        strict=True,
    )
    seen: Counter[tuple[int, int]] = Counter()
    for inputs, target, name, keys, offsets, counts in rows:
        assert len(inputs) <= longest
        assert (inputs[-1], target[-1]) == (EOS, EOS)
        if leads:
            assert inputs.pop(0) == MODE_OF[by_name[name].mode]
        piece = [t for k, o, n in zip(keys, offsets, counts, strict=True) for t in documents[k][o : o + n]]
        assert restore(inputs, target) == piece
        noise, spans = law(by_name[name], len(piece))
        assert (len(inputs), len(target)) == (len(piece) - noise + spans + 1, noise + spans + 1)
        assert [t for t in inputs if t >= FIRST_SENTINEL] == SENTINELS[:spans]
        assert [t for t in target if t >= FIRST_SENTINEL] == SENTINELS[:spans]
        assert inputs[0] < FIRST_SENTINEL  # the first token is never noise
        assert inputs[-2] >= FIRST_SENTINEL  # the last always is
        seen.update((k, o + i) for k, o, n in zip(keys, offsets, counts, strict=True) for i in range(n))
    assert set(seen.values()) <= {1}
    assert len(seen) + sum(made.losses.values()) == sum(lengths)
    assert sum(made.losses.values()) <= (len(lengths) if pack == "document" else 1)
    assert audited(made, parameters, vocab(), [longest]).errors() == {}


@pytest.mark.parametrize("denoiser", default_denoisers(), ids=lambda d: d.name)
def test_rows_of_every_length_from_two_tokens_up_follow_the_law(denoiser: Denoiser) -> None:
    parameters = Ul2(denoisers=(denoiser,))
    made = build(parameters, corpus([numbered(n, n) for n in range(2, 300)]), 512)
    assert sorted(made.doc_lengths.flat.tolist()) == list(range(2, 300))
    for inputs, target, n in zip(
        lists(made.input_ids), lists(made.lists["target_ids"]), made.doc_lengths.flat.tolist(), strict=True
    ):
        noise, spans = law(denoiser, n)
        assert (len(inputs), len(target)) == (n - noise + spans + 2, noise + spans + 1)
        assert restore(inputs[1:], target) == numbered(n, n)


def test_the_seven_denoisers_are_those_of_the_papers_table() -> None:
    found = [(d.mode, d.mean_noise_span_length, d.noise_density, d.rate) for d in Ul2().denoisers]
    assert found == [
        ("R", 3, 0.15, 1),
        ("R", 8, 0.15, 1),
        ("S", None, 0.25, 1),
        ("X", 3, 0.5, 1),
        ("X", 8, 0.5, 1),
        ("X", 64, 0.15, 1),
        ("X", 64, 0.5, 1),
    ]
    assert [d.name for d in Ul2().denoisers][2:4] == ["S-0.25", "X-3-0.5"]


@cases(60)
@given(st.lists(st.integers(2, 200), min_size=1, max_size=12))
def test_the_s_denoiser_is_a_prefix_language_model(lengths: list[int]) -> None:
    parameters = Ul2(denoisers=(default_denoisers()[2],))
    documents = [numbered(n, 7 * i) for i, n in enumerate(lengths)]
    made = build(parameters, corpus(documents), 256)
    for inputs, target, key in zip(
        lists(made.input_ids), lists(made.lists["target_ids"]), made.doc_keys.flat.tolist(), strict=True
    ):
        suffix = max(1, round(0.25 * lengths[key]))
        document = documents[key]
        assert inputs == [MODE_OF["S"], *document[:-suffix], SENTINELS[0], EOS]
        assert target == [SENTINELS[0], *document[-suffix:], EOS]


def test_denoisers_are_drawn_at_their_rates() -> None:
    rates = [1.0, 0.0, 3.0, 0.5, 2.5]
    denoisers = tuple(d.model_copy(update={"rate": r}) for d, r in zip(default_denoisers(), rates, strict=False))
    parameters = Ul2(denoisers=denoisers)
    rows = 30_000
    made = build(parameters, corpus([[300, 301]] * rows), 8)
    counts = Counter(drawn(made))
    assert set(counts) == {d.name for d in denoisers if d.rate}
    assert fits([counts[d.name] for d in denoisers if d.rate], [rows * r / 7 for r in rates if r])
    assert audited(made, parameters, vocab(), [8]).failed() == set()


def test_every_pass_and_seed_draws_anew() -> None:
    documents = [numbered(20)] * 2000
    keys = list(range(2000))
    first, second = (build(Ul2(), corpus(documents, keys=keys, copy=c), 32) for c in (0, 1))
    by_key = [dict(zip(m.doc_keys.flat.tolist(), drawn(m), strict=True)) for m in (first, second)]
    same = sum(by_key[0][k] == by_key[1][k] for k in keys)
    assert fits([same, 2000 - same], [2000 / 7, 2000 * 6 / 7])
    assert drawn(build(Ul2(), corpus(documents, keys=keys), 32, seed=2)) != drawn(first)


def test_every_mask_of_ten_tokens_with_two_spans_is_equally_likely_within_its_denoiser() -> None:
    many = Denoiser(name="X", mode="X", mean_noise_span_length=2, noise_density=0.5)
    parameters = Ul2(denoisers=(many, default_denoisers()[2]))
    rows = 16_000
    made = build(parameters, corpus([numbered(10)] * rows), 16)
    masks: Counter[tuple[int, ...]] = Counter()
    for inputs, name in zip(lists(made.input_ids), drawn(made), strict=True):
        if name == "X":
            masks[tuple(inputs)] += 1
    assert len(masks) == comb(4, 1) * comb(4, 1)
    assert fits(list(masks.values()), [sum(masks.values()) / 16] * 16)


def test_rows_do_not_depend_on_neighbours_order_or_batch() -> None:
    """Fails if a document's denoiser or spans change with the block it is in."""
    documents = [numbered(n, n) for n in (5, 90, 40, 700, 2, 61, 33, 3, 250)] * 3
    keys = list(range(len(documents)))

    def by_place(made: Examples) -> dict[tuple[int, int], tuple[Any, ...]]:
        columns = (made.doc_keys.flat.tolist(), made.doc_offsets.flat.tolist(), lists(made.input_ids))
        rows = zip(*columns, lists(made.lists["target_ids"]), drawn(made), strict=True)
        return {(k, o): (i, t, d) for k, o, i, t, d in rows}

    together = by_place(build(Ul2(), corpus(documents), 64))
    backwards = by_place(build(Ul2(), corpus(documents[::-1], keys=keys[::-1]), 64))
    alone: dict[tuple[int, int], tuple[Any, ...]] = {}
    for key, document in enumerate(documents):
        alone |= by_place(build(Ul2(), corpus([document], keys=[key]), 64))
    assert together == backwards == alone


@cases(80)
@given(DENOISERS, st.integers(3, 400))
def test_the_raw_length_is_the_largest_whose_inputs_fit_for_every_denoiser(
    denoisers: list[Denoiser], length: int
) -> None:
    def longest_input(n: int) -> int:
        return max(n - noise + spans + 1 for noise, spans in (law(d, n) for d in denoisers))

    raw = Denoisers(tuple(denoisers)).raw_tokens(length)
    assert longest_input(raw) <= length
    assert all(longest_input(n) > length for n in range(raw + 1, raw + 60))
    assert all(longest_input(n) <= length for n in range(2, raw))  # so rows of fewer tokens fit too


def test_resolved_numbers_are_those_counted_by_hand() -> None:
    plain = objective_for(Ul2(), vocab(100, modes=())).resolve(512)
    assert plain["raw_tokens"] == 568  # T5's own figure for 3 and .15, which keeps most
    by_name = {d["name"]: d for d in plain["denoisers"]}
    assert by_name["R-3-0.15"] == {
        "name": "R-3-0.15",
        "noise_tokens": 85,
        "noise_spans": 28,
        "target_length": 114,
    }
    assert by_name["S-0.25"]["target_length"] == 142 + 1 + 1
    assert by_name["X-3-0.5"]["noise_spans"] == 95  # 284 / 3, within the hundred sentinels of T5
    assert by_name["X-64-0.5"]["noise_spans"] == 4
    # A mode token takes the place of one id of the input.
    led = objective_for(Ul2(), vocab(100)).resolve(513)
    assert (led["raw_tokens"], led["denoisers"]) == (568, plain["denoisers"])


def test_the_preview_predicts_rows_and_lengths() -> None:
    lengths, counts = np.array([1, 5, 60, 700]), np.array([400, 300, 200, 300])
    documents = corpus([numbered(n) for n, c in zip(lengths, counts, strict=True) for _ in range(c)])
    for pack in ("document", "full"):
        parameters = Ul2(pack=pack)  # type: ignore[arg-type]
        made = build(parameters, documents, 128)
        shown, rows = objective_for(parameters, vocab()).row_lengths(lengths, counts, lengths=[4, 128])
        assert shown.max() <= 128
        assert len(made) == pytest.approx(rows.sum(), rel=0.01)
        assert len(made.input_ids.flat) == pytest.approx(float(shown @ rows), rel=0.05)
    for denoiser in default_denoisers():
        parameters = Ul2(denoisers=(denoiser,))
        made = build(parameters, documents, 128)
        shown, rows = objective_for(parameters, vocab()).row_lengths(lengths, counts, lengths=[4, 128])
        found = Counter(made.input_ids.lengths.tolist())
        assert found == {n: sum(rows[shown == n]) for n in set(shown.tolist())}
    mixed = Ul2(denoisers=tuple(d.model_copy(update={"rate": float(d.mode == "S")}) for d in Ul2().denoisers))
    of_s = objective_for(Ul2(denoisers=(default_denoisers()[2],)), vocab())
    for found_, wanted in zip(
        objective_for(mixed, vocab()).row_lengths(lengths, counts, lengths=[4, 128]),
        of_s.row_lengths(lengths, counts, lengths=[4, 128]),
        strict=True,
    ):
        assert found_.tolist() == wanted.tolist()


def test_mode_tokens_lead_only_if_the_vocabulary_has_those_of_all_modes_drawn() -> None:
    documents = corpus([numbered(30)] * 50)

    def leads(parameters: Ul2, *modes: str) -> set[int]:
        made = build(parameters, documents, 64, vocabulary_=vocab(modes=modes))
        assert audited(made, parameters, vocab(modes=modes), [64]).errors() == {}
        return {inputs[0] for inputs in lists(made.input_ids)}

    assert leads(Ul2(), "nlu", "nlg", "s2s") == set(MODES.values())
    assert leads(Ul2(), "nlu", "nlg") == {200}
    assert leads(Ul2(), "nlu") == {200}
    assert leads(Ul2(mode_tokens="never"), "nlu", "nlg", "s2s") == {200}
    only_r = tuple(d for d in default_denoisers() if d.mode == "R")
    assert leads(Ul2(denoisers=only_r), "nlu") == {900}
    unused = tuple(d.model_copy(update={"rate": float(d.mode == "R")}) for d in default_denoisers())
    assert leads(Ul2(denoisers=unused, mode_tokens="always"), "nlu") == {900}


def test_a_trained_vocabulary_has_the_mode_tokens_under_their_names() -> None:
    roles = future_vocabulary(1000).special_ids
    names = {role: TRAINED_SPECIAL_TOKENS[roles[role]] for role in ("nlu", "nlg", "s2s")}
    assert names == {"nlu": "[NLU]", "nlg": "[NLG]", "s2s": "[S2S]"}
    named = {"nlu": "<R>", "nlg": "<X>", "s2s": "<S>"}
    assert TokenizerSpec(file="tokenizer.json", special_tokens=named).special_tokens == named  # type: ignore[arg-type]
    file = Tokenizer(WordLevel({"a": 0, "[NLG]": 1, "<R>": 2, "<X>": 3, "<S>": 4}, unk_token="a")).to_str().encode()
    assert read_vocabulary(file).special_ids == {"nlg": 1}
    found = read_vocabulary(file, named)
    assert found.special_ids == {"nlu": 2, "nlg": 3, "s2s": 4}
    assert found.is_special.tolist() == [False, False, True, True, True]


def test_what_a_vocabulary_lacks_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="no 's2s' token"):
        objective_for(Ul2(mode_tokens="always"), vocab(modes=("nlu", "nlg")))
    with pytest.raises(RequestError, match="no 'eos' token"):
        objective_for(Ul2(), replace(vocab(), special_ids={"pad": 0}))
    objective = objective_for(Ul2(), vocab(94))
    with pytest.raises(RequestError) as error:
        objective.resolve(512)
    assert "at most 94 spans" in error.value.paragraph()
    assert "95 spans" in error.value.paragraph()
    assert "X-3-0.5" in error.value.paragraph()
    with pytest.raises(RequestError, match="too short"):
        objective.resolve(3)
    assert objective.resolve(4)["raw_tokens"] == 2
    assert objective_for(Ul2(), vocab(modes=())).resolve(3)["raw_tokens"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"denoisers": []}, "denoisers"),
        ({"denoisers": [{"name": "a", "mode": "R", "noise_density": 0.1, "rate": 0}]}, "all rates are zero"),
        ({"denoisers": [{"name": "a", "mode": "R", "noise_density": 0.1}] * 2}, "two are named 'a'"),
        ({"denoisers": [{"name": "a", "mode": "Q", "noise_density": 0.1}]}, "mode"),
        ({"denoisers": [{"name": "a", "mode": "R", "noise_density": 1.0}]}, "noise_density"),
        ({"mode_tokens": "sometimes"}, "mode_tokens"),
    ],
)
def test_parameters_that_make_no_mixture_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parse_objective({"kind": "ul2", **changes})


def test_parameters_survive_the_manifest() -> None:
    parameters = Ul2(denoisers=default_denoisers()[:3], pack="full")
    assert parse_objective(parameters.model_dump(mode="json")) == parameters


def test_documents_of_one_token_alone_make_no_row_and_are_counted() -> None:
    made = build(Ul2(), corpus([[300], [301]]), 64)
    assert len(made) == 0
    assert made.losses == {"one_token_documents": 2}
    assert len(build(Ul2(), corpus([]), 64)) == 0
    full = build(Ul2(pack="full"), corpus([[300], [301], [302]]), 64)
    assert full.doc_lengths.flat.tolist() == [1, 1, 1]


def test_a_drawing_shows_what_sentinels_stand_for_and_names_the_denoiser() -> None:
    made = columns_of(build(Ul2(), corpus([numbered(30)]), 64), Ul2())
    row = {name: values[0] for name, values in made.items()}

    class Tokenizer:
        special_ids = vocab().special_ids
        sentinel_ids = SENTINELS

    drawing = objective_for(Ul2(), vocab()).draw(row, Tokenizer())  # type: ignore[arg-type]
    hidden = [t for mark in drawing.marks for t in mark.hidden]
    assert sorted(hidden + [t for t in row["input_ids"] if t >= 200 and t < 900]) == sorted(numbered(30))
    assert drawing.notes == (f"denoiser {row['denoiser']}",)


def spoiled(change: dict[str, Any], row: int = 0) -> Audited:
    """The audit of rows of which one has other values."""
    columns = deepcopy(columns_of(build(Ul2(), corpus([numbered(40)] * 40), 64), Ul2()))
    for name, value in change.items():
        columns[name][row] = value(columns[name][row]) if callable(value) else value
    return audited_columns(columns, Ul2(), vocab(), [64])


def test_a_good_row_breaks_no_law_and_a_changed_one_the_law_it_should() -> None:
    assert spoiled({}).errors() == {}
    rows = columns_of(build(Ul2(), corpus([numbered(40)] * 40), 64), Ul2())
    r = rows["denoiser"].index("R-3-0.15")
    assert "denoisers" in spoiled({"denoiser": "R-4-0.15"}).errors()
    # Same mode, other numbers; other mode with the same numbers as at these few tokens.
    assert "targets" in spoiled({"denoiser": "X-3-0.5"}, rows["denoiser"].index("X-64-0.15")).errors()
    assert set(spoiled({"denoiser": "X-64-0.15"}, rows["denoiser"].index("R-8-0.15")).errors()) == {"mode_tokens"}
    assert set(spoiled({"input_ids": lambda ids: [901, *ids[1:]]}, r).errors()) == {"mode_tokens"}
    assert "mode_tokens" in spoiled({"input_ids": lambda ids: [250, *ids[1:]]}, r).errors()
    assert set(spoiled({"input_ids": lambda ids: [*ids[:2], 900, *ids[3:]]}, r).errors()) == {"mode_tokens"}
    assert "provenance" in spoiled({"input_ids": lambda ids: ids[1:]}, r).errors()
    assert "provenance" in spoiled({"doc_lengths": lambda n: [n[0] + 5]}, r).errors()
    assert "sentinels" in spoiled({"target_ids": lambda ids: [ids[1], ids[0], *ids[2:]]}, r).errors()
    assert "sentinels" in spoiled({"target_ids": lambda ids: [*ids[:-1], 250]}, r).errors()
    assert "targets" in spoiled({"target_ids": lambda ids: [*ids[:-1], 250, EOS]}, r).errors()
    assert "targets" in spoiled({"target_ids": lambda ids: [ids[0], 5000, *ids[2:]]}, r).errors()


def test_rows_led_by_mode_tokens_break_the_law_of_never() -> None:
    columns = columns_of(build(Ul2(), corpus([numbered(40)] * 9), 64), Ul2())
    errors = audited_columns(columns, Ul2(mode_tokens="never"), vocab(), [64]).errors()
    assert errors["mode_tokens"] == 9
    assert errors["provenance"] == 9


def test_denoisers_drawn_at_other_rates_fail_the_gate_and_small_datasets_do_not() -> None:
    made = build(Ul2(), corpus([numbered(4)] * 6000), 8)
    assert audited(made, Ul2(), vocab(), [8]).failed() == set()
    rates = [2.0, *[1.0] * 6]
    other = Ul2(
        denoisers=tuple(d.model_copy(update={"rate": r}) for d, r in zip(Ul2().denoisers, rates, strict=True))
    )
    found = audited(made, other, vocab(), [8])
    assert found.failed() == {"denoiser_shares"}
    assert "R-3-0.15" in found.gates()["denoiser_shares"].observed
    few = build(Ul2(), corpus([numbered(4)] * 3), 8)
    assert audited(few, other, vocab(), [8]).failed() == set()
    none = build(Ul2(), corpus([]), 8)
    assert audited(none, Ul2(), vocab(), [8]).failed() == set()


@pytest.mark.parametrize(("off", "passes"), [(0.004, True), (-0.004, True), (0.006, False), (-0.006, False)])
def test_of_very_many_rows_a_deviation_of_no_consequence_passes(off: float, passes: bool) -> None:
    rows, share = 10_000_000, 1 / 7
    counts = [round(rows * (share + off)), *[round(rows * (share - off / 6))] * 6]
    found = audited(build(Ul2(), corpus([]), 8), Ul2(), vocab(), [8])
    found.found.add(Group("train", 0, 8, "a"), Measures(histograms={"denoiser": counts}))
    found.found.add(Group("validation", 0, 8, "a"), Measures(histograms={"denoiser": [rows, *[0] * 6]}))
    assert found.gates()["denoiser_shares"].passed == passes


def test_a_denoiser_that_is_never_drawn_may_not_occur() -> None:
    made = columns_of(build(Ul2(), corpus([numbered(40)] * 30), 64), Ul2())
    without = Ul2(denoisers=tuple(d.model_copy(update={"rate": float(d.name != "S-0.25")}) for d in Ul2().denoisers))
    assert audited_columns(made, without, vocab(), [64]).errors()["denoisers"] == made["denoiser"].count("S-0.25") > 0


def test_damaged_rows_are_measured_without_a_crash() -> None:
    for change in (
        {"input_ids": []},
        {"input_ids": [900]},
        {"input_ids": [-7, 10**6, EOS]},
        {"target_ids": []},
        {"target_ids": [-1, 10**7]},
        {"doc_lengths": []},
        {"doc_lengths": [-(2**31)]},
        {"doc_lengths": [1]},
        {"doc_keys": [], "doc_offsets": [], "doc_lengths": []},
        {"denoiser": ""},
    ):
        assert spoiled(change).errors(), change


def test_tiles_do_not_change_rows() -> None:
    """Rows of one denoiser are neighbours, and a tile may hold the last of one and the first of the next."""
    made = build(Ul2(), corpus([numbered(n % 90 + 2, n) for n in range(3000)]), 128)
    order = made.scalars["denoiser"].indices.to_numpy()
    assert all(a <= b for a, b in pairwise(order.tolist()))
    inputs, targets = lists(made.input_ids), lists(made.lists["target_ids"])
    for i, (key, n) in enumerate(zip(made.doc_keys.flat.tolist(), made.doc_lengths.flat.tolist(), strict=True)):
        assert restore(inputs[i][1:], targets[i]) == numbered(n, key)
