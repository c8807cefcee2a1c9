"""The memo of pieces: what it holds never shows in the ids, its size is bounded, and a wrong id stops the job."""

from __future__ import annotations

import functools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases, lists, ragged

import transforms.selfcheck as selfcheck
from schemas.errors import DataError
from schemas.job import TrainTokenizer
from transforms.encode import Encoder, encode_batch
from transforms.memo import Memo
from transforms.ragged import Ragged
from transforms.selfcheck import check_ids
from transforms.texts import utf8
from transforms.tokenizer_training import train_tokenizer
from transforms.vocabulary import load_tokenizer

PROSE = "The mill grinds the corn, and the corn feeds the miller's family. "


class Spelling:
    """Spells pieces by their letters, and counts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, pieces: list[str]) -> Ragged:
        self.seen += pieces
        return ragged([[ord(c) for c in piece] for piece in pieces])


@cases(150)
@given(
    batches=st.lists(st.lists(st.text("abc", max_size=5), max_size=12), max_size=12),
    limit=st.sampled_from([0, 300, 1000, 10**6]),
    longest=st.sampled_from([2, 256]),
)
def test_ids_do_not_depend_on_what_the_memo_holds(batches: list[list[str]], limit: int, longest: int) -> None:
    spelling = Spelling()
    memo = Memo(spelling, limit)
    with patch("transforms.memo._LONGEST", longest):
        for words in batches:
            pieces = sorted(set(words))
            order = np.array([pieces.index(w) for w in words], dtype=np.int32)
            assert lists(memo.ids_of(pieces, order)) == [[ord(c) for c in w] for w in words]
            assert memo.held_bytes <= limit
    if limit == 10**6 and longest == 256:
        assert sorted(spelling.seen) == sorted({w for words in batches for w in words}), "each is encoded once"


def test_a_full_memo_forgets_what_was_used_longest_ago() -> None:
    spelling = Spelling()
    memo = Memo(spelling, 100 * 220)
    everyday = [f"word{i}" for i in range(30)]
    for i in range(40):
        pieces = [*everyday, *(f"rare{i}-{j}" for j in range(20))]
        memo.ids_of(pieces, np.arange(len(pieces)))
        assert memo.held_bytes <= 100 * 220
    assert len(spelling.seen) == 30 + 40 * 20, "what is used in every batch is never forgotten"
    memo.ids_of(["rare0-0"], np.zeros(1, np.int64))
    assert spelling.seen[-1] == "rare0-0"


def test_threads_that_share_a_memo_get_the_ids_of_their_own_pieces() -> None:
    """Fails if two ranges in the threads of one worker could mix up their ids."""
    spelling = Spelling()

    def slowly(pieces: list[str]) -> Ragged:
        time.sleep(0.001)  # where the tokenizer lets other threads run
        return spelling(pieces)

    memo = Memo(slowly, 30_000)

    def work(thread: int) -> bool:
        rng = random.Random(thread)
        for _ in range(60):
            pieces = sorted({f"{rng.randrange(400)}-{thread % 2}" for _ in range(30)})
            found = memo.ids_of(pieces, np.arange(len(pieces)))
            if lists(found) != [[ord(c) for c in piece] for piece in pieces]:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_the_memo_counts_the_memory_that_it_takes() -> None:
    """Fails if a worker's memory would grow beyond the documented bound."""
    import tracemalloc

    memo = Memo(lambda pieces: ragged([[len(p), 1] for p in pieces]))
    batches = [[f"{'piece' if i % 2 else 'стих'}{i}-{j}" for j in range(2000)] for i in range(30)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i, pieces in enumerate(batches):
        memo.ids_of([str(p) + "" for p in pieces], np.arange(2000))
        batches[i] = []
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken <= memo.held_bytes


@functools.cache
def encoder() -> Encoder:
    return Encoder(load_tokenizer(train_tokenizer(TrainTokenizer(model="bpe", vocab_size=420), [PROSE] * 9)))


def checked(made: Encoder, texts: list[str]) -> None:
    data = utf8(texts)
    names = [f"doc{i}" for i in range(len(texts))]
    check_ids(made, data, made.encode(data), np.arange(len(texts), dtype=np.uint64), names, "source 'books'")


def bold() -> Encoder:
    """One that cuts between letters."""
    made = Encoder(encoder().tokenizer)
    assert made.boundaries is not None
    letters = made.boundaries.kinds[ord("a")]
    verdicts = bytearray(made.boundaries.verdicts)
    verdicts[17 * letters] = 1
    object.__setattr__(made.boundaries, "verdicts", bytes(verdicts))
    return made


def test_the_check_passes_what_is_right_and_looks_at_its_share() -> None:
    texts = [PROSE * (1 + i % 3) for i in range(3000)]
    with patch.object(selfcheck, "encode_batch", wraps=encode_batch) as encode:
        checked(encoder(), texts)
    looked_at = sum(len(call.args[1]) for call in encode.call_args_list)
    assert 3000 / 128 / 2 < looked_at < 3000 / 128 * 2


def test_a_document_whose_ids_differ_stops_the_job_and_is_named() -> None:
    with patch.object(selfcheck, "CHECKED_SHARE", 1.0), pytest.raises(DataError) as error:
        checked(bold(), ["~", PROSE])
    text = error.value.paragraph()
    assert "source 'books', document 'doc1'" in text
    assert "token 0" in text
    assert "'The'" in text


@pytest.mark.parametrize("long", ["", "é", "中", "😀"])
def test_of_a_long_document_the_beginning_is_checked(long: str) -> None:
    with patch.multiple(selfcheck, CHECKED_SHARE=1.0, CHECKED_BYTES=50):
        for i in range(4):
            checked(encoder(), ["x" * i + long * 20 + PROSE * 9])
        with pytest.raises(DataError):
            checked(bold(), [PROSE * 9])


def test_a_sample_of_a_real_job_is_checked_whoever_reads_it() -> None:
    """Fails if a wrong cut could go unseen because the sample depended on batches."""
    keys = np.arange(20_000, dtype=np.uint64)
    with patch.object(selfcheck, "encode_batch", wraps=encode_batch) as encode:
        for rows in (slice(0, 20_000), slice(0, 7), slice(7, 20_000)):
            data = utf8(["~" * 3] * len(keys[rows]))
            check_ids(encoder(), data, encoder().encode(data), keys[rows], ["d"] * len(keys[rows]), "s")
    sizes = [len(call.args[1]) for call in encode.call_args_list]
    assert sum(sizes[:2]) == sum(sizes[2:]) > 0


def test_a_failure_to_encode_leaves_the_memo_as_it_was() -> None:
    """Fails if a bundle that a runner tries again, in the same process, could find ids of other pieces."""
    spelling, fails = Spelling(), [False]

    def fragile(pieces: list[str]) -> Ragged:
        if fails[0]:
            raise MemoryError
        return spelling(pieces)

    memo = Memo(fragile)
    memo.ids_of(["a"], np.zeros(1, np.int64))
    fails[0] = True
    with pytest.raises(MemoryError):
        memo.ids_of(["a", "bb", "c"], np.arange(3))
    fails[0] = False
    assert lists(memo.ids_of(["c", "bb", "a"], np.arange(3))) == [[99], [98, 98], [97]]
