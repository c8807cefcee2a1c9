"""Ways to spoil rows that leave every count right, so that only the gate of the broken law can see them.

A sabotage is given to `make_dataset`, which writes shards, index and manifest after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tiny_dataset import Spoiled

from schemas.keys import document_keys, validation_mask
from transforms.vocabulary import Vocabulary

Sabotage = Callable[[Spoiled], None]
Columns = dict[str, list[Any]]
Row = dict[str, Any]


def change_shard(
    key_of: Callable[[Spoiled], tuple[str, int, int, int]], change: Callable[[Columns, Vocabulary], None]
) -> Sabotage:
    """Change the columns of one shard."""

    def spoil(s: Spoiled) -> None:
        key = key_of(s)
        columns = s.columns(key)
        change(columns, s.vocabulary)
        s.put(key, columns)

    spoil.__name__ = change.__name__
    return spoil


def change_rows(change: Callable[[Row, Vocabulary, np.random.Generator], None]) -> Sabotage:
    """Change every row of every shard; lists in place."""

    def spoil(s: Spoiled) -> None:
        rng = np.random.default_rng(0)
        for key in s.tables:
            columns = s.columns(key)
            for row in range(len(columns["length"])):
                change({name: values[row] for name, values in columns.items()}, s.vocabulary, rng)
            s.put(key, columns)

    spoil.__name__ = change.__name__
    return spoil


def in_one_block(change: Callable[[Row, Vocabulary, np.random.Generator], None]) -> Sabotage:
    """Change every row of the shards of one block; lists in place."""

    def spoil(s: Spoiled) -> None:
        rng = np.random.default_rng(0)
        for key in sorted(k for k in s.tables if k[3] == 1):
            columns = s.columns(key)
            for row in range(len(columns["length"])):
                change({name: values[row] for name, values in columns.items()}, s.vocabulary, rng)
            s.put(key, columns)

    spoil.__name__ = f"{change.__name__}_in_one_block"
    return spoil


def change_row(wanted: Callable[[Row], bool], change: Callable[[Row, Vocabulary], None]) -> Sabotage:
    """Change the first train row that is wanted; lists in place."""

    def spoil(s: Spoiled) -> None:
        for key in sorted(k for k in s.tables if k[0] == "train"):
            columns = s.columns(key)
            for i in range(len(columns["length"])):
                row = {name: values[i] for name, values in columns.items()}
                if wanted(row):
                    change(row, s.vocabulary)
                    s.put(key, columns)
                    return
        raise AssertionError("no row is as wanted")

    spoil.__name__ = change.__name__
    return spoil


def full_train(s: Spoiled) -> tuple[str, int, int, int]:
    return max(key for key in s.tables if key[0] == "train")


def first_train(s: Spoiled) -> tuple[str, int, int, int]:
    return s.first("train")


def fewer_kept_more_masked(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """85/10/5: half of the places that are shown unchanged get the mask token."""
    ids = row["input_ids"]
    for place, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
        if ids[place] == label and rng.random() < 0.5:
            ids[place] = vocabulary.special_ids["mask"]


def some_shown_at_random(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """A hundredth of the masked places shows some word."""
    for place in row["mask_positions"]:
        if rng.random() < 0.01:
            row["input_ids"][place] = int(rng.choice(vocabulary.text_ids))


def a_third_restored(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """A third of the masked places are no longer predicted, as if the rate were lower."""
    restore(row, [rng.random() < 1 / 3 for _ in row["mask_positions"]])


def a_third_of_runs_restored(
    row: Row, vocabulary: Vocabulary, rng: np.random.Generator, share: float = 1 / 3
) -> None:
    """The same run by run, so that no n-gram is cut."""
    lost, before = [], None
    for place in row["mask_positions"]:
        lost.append(lost[-1] if before is not None and place == before + 1 else rng.random() < share)
        before = place
    restore(row, lost)


def a_few_words_restored(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """One in twenty, whose words then are left out though there is room for them."""
    restore_runs(row, rng, 0.05)


def restore_runs(row: Row, rng: np.random.Generator, share: float) -> None:
    """A share of the runs of masked places."""
    lost, before = [], None
    for place in row["mask_positions"]:
        lost.append(lost[-1] if before is not None and place == before + 1 else rng.random() < share)
        before = place
    restore(row, lost)


def restore(row: Row, lost: list[bool]) -> None:
    """Those masked places are shown as they were, and no longer predicted."""
    for place, label, gone in zip(row["mask_positions"], row["mask_labels"], lost, strict=True):
        if gone:
            row["input_ids"][place] = label
    for name in ("mask_positions", "mask_labels"):
        row[name][:] = [x for x, gone in zip(row[name], lost, strict=True) if not gone]


def labels_off_by_one(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """Each masked place gets the label of the next one of its row."""
    row["mask_labels"][:] = row["mask_labels"][1:] + row["mask_labels"][:1]


def move_masks(row: Row, places: list[int]) -> None:
    """Mask these places in place of as many others, shown in the same way: right in number, wrong in where."""
    ids, before = row["input_ids"], row["mask_positions"]
    shown = ["keep" if ids[p] == x else ids[p] for p, x in zip(before, row["mask_labels"], strict=True)]
    for place, label in zip(before, row["mask_labels"], strict=True):
        ids[place] = label
    row["mask_positions"][:] = places
    row["mask_labels"][:] = [ids[p] for p in places]
    for place, what in zip(places, shown, strict=True):
        ids[place] = ids[place] if what == "keep" else what


def candidates_of(row: Row, vocabulary: Vocabulary) -> list[int]:
    """Places of a row that may be predicted."""
    special, labels = (
        set(vocabulary.special_token_ids),
        dict(zip(row["mask_positions"], row["mask_labels"], strict=True)),
    )
    return [p for p, token in enumerate(row["input_ids"]) if labels.get(p, token) not in special]


def masks_at_the_front(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    move_masks(row, candidates_of(row, vocabulary)[: len(row["mask_positions"])])


def masks_lean_forward(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """Masks lie wherever they like, but sooner in the first half of a row than in the second."""
    candidates, m = candidates_of(row, vocabulary), len(row["mask_positions"])
    weights = np.linspace(1.5, 0.5, len(candidates))
    move_masks(row, sorted(rng.choice(candidates, m, replace=False, p=weights / weights.sum()).tolist()))


def masks_of_the_first_pass(s: Spoiled) -> None:
    """Rows of the second pass over a source have the masks of the first, in one block."""
    first: dict[tuple[Any, ...], list[int]] = {}
    for key in sorted(s.tables):
        columns = s.columns(key)
        names = zip(columns["doc_keys"], columns["doc_offsets"], columns["doc_lengths"], columns["copy"], strict=True)
        for name, places in zip(names, columns["mask_positions"], strict=True):
            if name[3] == 0 and key[0] == "train":
                first[tuple(map(tuple, name[:3]))] = places
    changed = 0
    for key in sorted(k for k in s.tables if k[0] == "train" and k[3] == 1):
        columns = s.columns(key)
        for i, copy in enumerate(columns["copy"]):
            row = {name: values[i] for name, values in columns.items()}
            places = first.get(tuple(tuple(row[n]) for n in ("doc_keys", "doc_offsets", "doc_lengths")))
            if copy == 1 and places is not None and len(places) == len(row["mask_positions"]):
                move_masks(row, list(places))
                changed += 1
        s.put(key, columns)
    assert changed > 5


def spans_of_one_length(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """The tokens of a target are dealt to its spans as evenly as may be."""
    sentinels = set(vocabulary.sentinel_ids.tolist())
    target = row["target_ids"]
    text = [i for i in target[:-1] if i not in sentinels]
    marks = [i for i in target if i in sentinels]
    parts = np.array_split(np.array(text), len(marks))
    row["target_ids"][:] = [i for m, part in zip(marks, parts, strict=True) for i in (m, *part.tolist())] + target[
        -1:
    ]


def labels_swapped(columns: Columns, vocabulary: Vocabulary) -> None:
    """A pair that follows is said not to, and one that does not is said to."""
    labels = columns["is_next"]
    true, false = labels.index(True), labels.index(False)
    labels[true], labels[false] = False, True


def masks_in_one_run(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """All masks of a row side by side, anywhere."""
    candidates, m = candidates_of(row, vocabulary), len(row["mask_positions"])
    begin = int(rng.integers(len(candidates) + 1))
    move_masks(row, sorted((candidates + candidates)[begin : begin + m]))


def masks_scattered(row: Row, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
    """Each mask anywhere, whatever the others."""
    candidates = candidates_of(row, vocabulary)
    move_masks(row, sorted(rng.choice(candidates, len(row["mask_positions"]), replace=False).tolist()))


def special_token_masked(columns: Columns, vocabulary: Vocabulary) -> None:
    """[CLS] is predicted in place of the row's first masked place, which is restored."""
    ids, places, labels = columns["input_ids"][0], columns["mask_positions"][0], columns["mask_labels"][0]
    ids[places[0]] = labels[0]
    places[0], labels[0] = 0, ids[0]
    ids[0] = vocabulary.special_ids["mask"]


def id_out_of_range(columns: Columns, vocabulary: Vocabulary) -> None:
    place = next(p for p in range(1, 9) if p not in columns["mask_positions"][0])
    columns["input_ids"][0][place] = vocabulary.size + 7


def padding_inside(columns: Columns, vocabulary: Vocabulary) -> None:
    ids, places = columns["input_ids"][0], columns["mask_positions"][0]
    place = next(p for p in range(1, len(ids) - 1) if p not in places and ids[p] == vocabulary.special_ids["unk"])
    ids[place] = vocabulary.special_ids["pad"]


def with_unknown(s: Spoiled) -> tuple[str, int, int, int]:
    """A shard whose first row is made to hold an unknown token that is not masked, so its law stays the same."""
    unk = s.vocabulary.special_ids["unk"]
    for key in sorted(s.tables):
        columns = s.columns(key)
        for row, ids in enumerate(columns["input_ids"]):
            if unk in ids:
                for values in columns.values():
                    values[0], values[row] = values[row], values[0]
                s.put(key, columns)
                return key
    raise AssertionError("no row has an unknown token")


def wrong_source(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["source"] = ["elsewhere" for _ in columns["source"]]


def fewer_masks(columns: Columns, vocabulary: Vocabulary) -> None:
    """One masked place less: restored and no longer predicted."""
    ids, places, labels = columns["input_ids"][0], columns["mask_positions"][0], columns["mask_labels"][0]
    ids[places[-1]] = labels[-1]
    del places[-1], labels[-1]


def unlabelled_mask(columns: Columns, vocabulary: Vocabulary) -> None:
    """A place that shows the mask token is no longer asked about, another is in its stead: the count stays right."""
    mask = vocabulary.special_ids["mask"]
    rows = zip(columns["input_ids"], columns["mask_positions"], columns["mask_labels"], strict=True)
    ids, places, labels, i = next((s, p, k, i) for s, p, k in rows for i, at in enumerate(p) if s[at] == mask)
    other = next(p for p, token in enumerate(ids) if p not in places and token in set(vocabulary.text_ids.tolist()))
    del places[i], labels[i]
    at = sum(p < other for p in places)
    places.insert(at, other)
    labels.insert(at, ids[other])


def descending_positions(columns: Columns, vocabulary: Vocabulary) -> None:
    for name in ("mask_positions", "mask_labels"):
        columns[name] = [values[::-1] for values in columns[name]]


def random_special(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["input_ids"][0][columns["mask_positions"][0][0]] = vocabulary.special_ids["bos"]


def wrong_length(columns: Columns, vocabulary: Vocabulary) -> None:
    """Two rows' `length` swapped by one, so that the sums stay."""
    columns["length"][0] += 1
    columns["length"][1] -= 1


def provenance_shifted(columns: Columns, vocabulary: Vocabulary) -> None:
    """A corpus token counted for another row of the same source."""
    rows = [i for i, name in enumerate(columns["source"]) if name == columns["source"][0]][:2]
    columns["doc_lengths"][rows[0]][0] += 1
    columns["doc_lengths"][rows[1]][0] -= 1


def row_twice(s: Spoiled) -> None:
    """A row in place of another of the same source and length, so that every count stays."""
    for key in sorted(s.tables):
        columns = s.columns(key)
        seen: dict[tuple[str, int], int] = {}
        for row, what in enumerate(zip(columns["source"], columns["length"], strict=True)):
            if what in seen and key[0] == "train":
                for name in columns:
                    columns[name][row] = columns[name][seen[what]]
                s.put(key, columns)
                return
            seen[what] = row
    raise AssertionError("no two rows of one source and length")


def leaked_document(columns: Columns, vocabulary: Vocabulary) -> None:
    keys = document_keys("books", [f"books-{i}" for i in range(260)])
    columns["doc_keys"][0][0] = int(keys[validation_mask(keys, 0.1)][0])


def negative_id(columns: Columns, vocabulary: Vocabulary) -> None:
    text = set(vocabulary.text_ids.tolist())
    ids = columns["input_ids"][0]
    ids[next(p for p, i in enumerate(ids) if i in text)] = -1


def piece_starts_late(columns: Columns, vocabulary: Vocabulary) -> None:
    row = next(i for i, pieces in enumerate(columns["doc_offsets"]) if len(pieces) > 1)
    columns["doc_offsets"][row][1] = 5


def _row_with_two_spans(columns: Columns, vocabulary: Vocabulary) -> int:
    second = int(vocabulary.sentinel_ids[1])
    return next(i for i, target in enumerate(columns["target_ids"]) if second in target)


def sentinels_swapped(columns: Columns, vocabulary: Vocabulary) -> None:
    first, second = vocabulary.sentinel_ids[:2].tolist()
    target = columns["target_ids"][_row_with_two_spans(columns, vocabulary)]
    i, j = target.index(first), target.index(second)
    target[i], target[j] = second, first


def sentinel_gone(columns: Columns, vocabulary: Vocabulary) -> None:
    ids = columns["input_ids"][_row_with_two_spans(columns, vocabulary)]
    ids[ids.index(int(vocabulary.sentinel_ids[0]))] = int(vocabulary.text_ids[0])


def target_without_eos(columns: Columns, vocabulary: Vocabulary) -> None:
    """A token of text takes the place of EOS, so that the length stays right."""
    columns["target_ids"][0][-1] = int(vocabulary.text_ids[0])


def target_cut(columns: Columns, vocabulary: Vocabulary) -> None:
    """A target of two tokens and more behind its last sentinel loses one of them."""
    sentinels = set(vocabulary.sentinel_ids.tolist())
    target = next(t for t in columns["target_ids"] if not sentinels & set(t[-3:]))
    del target[-2]


def target_out_of_range(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["target_ids"][0][1] = vocabulary.size


def one_mask_more(row: Row, vocabulary: Vocabulary) -> None:
    """A further place is predicted, shown as it is."""
    place = next(p for p in candidates_of(row, vocabulary) if p not in row["mask_positions"])
    at = sum(p < place for p in row["mask_positions"])
    row["mask_positions"].insert(at, place)
    row["mask_labels"].insert(at, row["input_ids"][place])


# Rows of several pieces.


def is_masked(row: Row) -> bool:
    """Long enough to have several masked places."""
    return len(row["mask_positions"]) > 2


def is_packed(row: Row) -> bool:
    """Two pieces or more, of two tokens and more, the first of which ends in two places that are not masked."""
    lengths, masked = row["doc_lengths"], row.get("mask_positions", [])
    return len(lengths) > 1 and min(lengths) > 1 and not {lengths[0] - 1, lengths[0], lengths[0] + 2} & set(masked)


def is_packed_with_eos(row: Row) -> bool:
    """Packed, and a document ends in it: its EOS is the one token of a causal row that is no corpus token."""
    return is_packed(row) and sum(row["doc_lengths"]) < row["length"]


def separator_moved(row: Row, vocabulary: Vocabulary) -> None:
    """The first [SEP] goes before the token it follows."""
    ids, place = row["input_ids"], row["doc_lengths"][0] + 1
    ids[place - 1], ids[place] = ids[place], ids[place - 1]


def separator_lost(row: Row, vocabulary: Vocabulary) -> None:
    row["input_ids"][row["doc_lengths"][0] + 1] = int(vocabulary.text_ids[0])


def separator_predicted(row: Row, vocabulary: Vocabulary) -> None:
    """The first [SEP] is predicted in place of the first masked place, which is restored."""
    ids, place = row["input_ids"], row["doc_lengths"][0] + 1
    ids[row["mask_positions"][0]] = row["mask_labels"][0]
    found = {**dict(zip(row["mask_positions"][1:], row["mask_labels"][1:], strict=True)), place: ids[place]}
    ids[place] = vocabulary.special_ids["mask"]
    row["mask_positions"][:] = sorted(found)
    row["mask_labels"][:] = [found[p] for p in sorted(found)]


def token_of_the_next_piece(row: Row, vocabulary: Vocabulary) -> None:
    """The provenance gives the first piece a token of the second."""
    row["doc_lengths"][0] += 1
    row["doc_lengths"][1] -= 1


def piece_of_nothing(row: Row, vocabulary: Vocabulary) -> None:
    """The provenance gives the second piece all tokens of the first."""
    row["doc_lengths"][1] += row["doc_lengths"][0]
    row["doc_lengths"][0] = 0


def eos_moved(row: Row, vocabulary: Vocabulary) -> None:
    """The first EOS goes before the token it follows."""
    ids = row["input_ids"]
    place = ids.index(vocabulary.special_ids["eos"])
    ids[place - 1], ids[place] = ids[place], ids[place - 1]


def eos_lost(row: Row, vocabulary: Vocabulary) -> None:
    row["input_ids"][row["doc_lengths"][0]] = int(vocabulary.text_ids[0])
