"""Training a vocabulary: the same bytes every time, special tokens where the objectives look for them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from unit_helpers import cases, job

from schemas.errors import DataError, RequestError
from schemas.job import Job, TrainTokenizer
from schemas.keys import document_keys, validation_mask
from transforms.inputs import cut_ranges, find_inputs
from transforms.tokenizer_training import sample_texts, train_tokenizer
from transforms.vocabulary import (
    SENTINELS,
    TRAINED_SPECIAL_TOKENS,
    future_vocabulary,
    load_tokenizer,
    read_vocabulary,
)

SYLLABLES = ["ka", "mi", "lo", "ru", "té", "sho", "an", "бе", "er", "vi", "XO", "7", "ne", "st", "ul", "qu"]


def words(count: int, salt: str) -> list[str]:
    """Words that look like a language, from a hash and nothing else."""
    made = []
    for i in range(count):
        digest = hashlib.sha256(f"{salt}{i % 997}".encode()).digest()
        made.append("".join(SYLLABLES[b % 16] for b in digest[: 1 + digest[9] % 4]))
    return made


TEXTS = [" ".join(words(30, str(i))) + ".\nAnd " + " ".join(words(9, f"x{i}")) for i in range(300)]
MODELS = ("wordpiece", "bpe", "unigram")
SIZE = 700

TRAIN = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_tokenizer_training import MODELS, SIZE, TEXTS
from schemas.job import TrainTokenizer
from transforms.tokenizer_training import train_tokenizer
for model in MODELS:
    data = train_tokenizer(TrainTokenizer(model=model, vocab_size=SIZE, lowercase=model != "bpe"), TEXTS)
    print(model, hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    return {m: train_tokenizer(TrainTokenizer(model=m, vocab_size=SIZE), TEXTS) for m in MODELS}


def test_two_processes_with_other_hash_seeds_train_the_same_bytes() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", TRAIN, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(runs[0].splitlines()) == len(MODELS)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("model", MODELS)
def test_special_tokens_stand_together_and_the_size_is_as_asked(trained: dict[str, bytes], model: str) -> None:
    tokenizer = Tokenizer.from_str(trained[model].decode())
    ids = [tokenizer.token_to_id(token) for token in TRAINED_SPECIAL_TOKENS]
    if model == "unigram":  # the unknown token has to be a piece, the others must not be
        assert sorted(ids) == [0, *range(SIZE - len(ids) + 1, SIZE)]
    else:
        assert ids == list(range(len(ids)))
    first, last = (tokenizer.token_to_id(f"<extra_id_{k}>") for k in (0, 99))
    assert last - first == 99
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    assert sorted(vocab.values()) == list(range(len(vocab))), "an id is used twice or not at all"
    assert len(vocab) == SIZE
    facts = read_vocabulary(trained[model])
    assert facts.size == SIZE
    assert facts.special_token_ids == sorted(ids)
    assert len(set(SENTINELS)) == 100


@pytest.mark.parametrize("model", MODELS)
def test_what_is_promised_before_training_is_what_training_gives(trained: dict[str, bytes], model: str) -> None:
    promised, facts = future_vocabulary(SIZE), read_vocabulary(trained[model])
    assert promised.special_ids.keys() == facts.special_ids.keys()
    assert promised.is_special.sum() == facts.is_special.sum()
    assert promised.size == facts.size


@pytest.mark.parametrize("model", MODELS)
def test_the_trained_text_has_no_unknown_token_and_is_shorter_than_its_letters(
    trained: dict[str, bytes], model: str
) -> None:
    tokenizer = load_tokenizer(trained[model])
    unknown = tokenizer.token_to_id("[UNK]")
    for text in TEXTS[:50]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert unknown not in ids
        assert len(ids) < len(text.replace(" ", "")) * 0.8


@cases(150)
@given(st.text(max_size=60) | st.text(st.sampled_from(" \t\n\r ab[MASK]<>é中😀\x00"), max_size=40))
def test_byte_level_bpe_gives_any_text_back(trained: dict[str, bytes], text: str) -> None:
    tokenizer = load_tokenizer(trained["bpe"])
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_word_starts_follow_the_text(trained: dict[str, bytes]) -> None:
    text = "shoan karumi loéru"
    for model, first_letter in (("wordpiece", False), ("bpe", True), ("unigram", False)):
        facts = read_vocabulary(trained[model])
        encoding = load_tokenizer(trained[model]).encode(text, add_special_tokens=False)
        assert facts.starts_word is not None
        starts = facts.starts_word[encoding.ids].tolist()
        words_seen = [w for w, _ in sorted({(w, 0) for w in encoding.word_ids})]
        expected = [i == 0 or encoding.word_ids[i] != encoding.word_ids[i - 1] for i in range(len(starts))]
        if first_letter:  # byte-level: the first word of a text has no space before it, so it only starts by place
            expected[0] = starts[0]
        assert starts == expected, model
        assert len(words_seen) == 3


def test_lowercase_folds_case_and_accents_away() -> None:
    for model in ("wordpiece", "unigram"):
        data = train_tokenizer(TrainTokenizer(model=model, vocab_size=600, lowercase=True), TEXTS)
        tokenizer = load_tokenizer(data)
        assert tokenizer.encode("TÉ Sho").ids == tokenizer.encode("te sho").ids


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_a_vocabulary_too_small_for_the_letters_is_refused(model: str) -> None:
    letters = ["".join(chr(0x4E00 + i) for i in range(400))]
    spec = TrainTokenizer.model_construct(model=model, vocab_size=300)
    with pytest.raises(RequestError, match="too small") as error:
        train_tokenizer(spec, letters)
    assert "vocab_size" in error.value.paragraph()


def test_what_is_no_tokenizer_is_refused() -> None:
    for data in (b"", b"{}", b"\xff", b"not json"):
        with pytest.raises(RequestError, match=r"tokenizer\.json"):
            load_tokenizer(data)


def test_a_named_special_token_must_exist(trained: dict[str, bytes]) -> None:
    assert read_vocabulary(trained["bpe"], {"eos": "[SEP]"}).special_ids["eos"] == 3
    with pytest.raises(RequestError, match=r"special_tokens\.eos"):
        read_vocabulary(trained["bpe"], {"eos": "</nothing>"})


def sampled_job(tmp_path: Path, weights: dict[str, float], wanted: int, **changes: Any) -> Job:
    sources = []
    for name, weight in weights.items():
        texts = [f"{name} document {i} {'.' * (i % 50)}" for i in range(1500)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": t, "id": t.split(" .")[0]}) + "\n" for t in texts))
        sources.append({"name": name, "files": [str(path)], "id": "id", "weight": weight})
    tokenizer = {"train": {"model": "bpe", "vocab_size": 500, "sample_bytes": wanted}}
    return job(sources=sources, tokenizer=tokenizer, **{"limits": {"range_bytes": 5000}, **changes})


def sample(made: Job) -> list[str]:
    seen: list[int] = []
    texts = sample_texts(made, cut_ranges(made, find_inputs(made)), seen.append)
    assert sum(seen) == sum(len(t.encode()) for t in texts)
    return texts


def test_the_sample_follows_the_weights_and_holds_no_validation_document(tmp_path: Path) -> None:
    texts = sample(sampled_job(tmp_path, {"a": 0.75, "b": 0.25}, 8000, splits={"validation": 0.5}))
    for name, wanted in (("a", 6000), ("b", 2000)):
        mine = [t for t in texts if t.startswith(name)]
        # The last document taken is the one that reaches the bytes wanted.
        assert sum(map(len, mine[:-1])) < wanted <= sum(map(len, mine))
        assert not validation_mask(document_keys(name, [t.split(" .")[0] for t in mine]), 0.5).any()
        places = [int(t.split()[2]) for t in mine]
        assert len(set(places)) == len(places)
        assert max(places) - min(places) > 300, "the sample is the beginning of a file"


def test_weights_that_are_only_checked_do_not_weigh_the_sample(tmp_path: Path) -> None:
    made = sampled_job(tmp_path, {"a": 0.75, "b": 0.25}, 8000)
    sources = [s.model_copy(update={"epochs": 1.0}) for s in made.sources]
    by_passes = job(
        **{**made.canonical(), "budget": {"tokens": 1000}, "mixture": {"policy": "epochs"}, "sources": sources}
    )
    unweighted = made.model_copy(update={"sources": [s.model_copy(update={"weight": None}) for s in made.sources]})
    assert sample(by_passes) == sample(unweighted) != sample(made)


def test_the_sample_is_seeded_and_depends_on_nothing_else(tmp_path: Path) -> None:
    first = sample(sampled_job(tmp_path, {"a": 1.0}, 3000))
    assert first == sample(sampled_job(tmp_path, {"a": 1.0}, 3000))
    assert first != sample(sampled_job(tmp_path, {"a": 1.0}, 3000, seed=1))
    moved = tmp_path / "moved"
    moved.mkdir()
    assert first == sample(sampled_job(moved, {"a": 1.0}, 3000))


def test_a_small_source_gives_all_it_has_once(tmp_path: Path) -> None:
    texts = sample(sampled_job(tmp_path, {"a": 1.0}, 10**7, splits={"validation": 0.0}))
    assert len(texts) == len(set(texts)) == 1500


def test_no_text_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n")
    made = job(sources=[{"name": "a", "files": [str(tmp_path / "a.txt")]}], tokenizer={"train": {"model": "bpe"}})
    with pytest.raises(DataError, match="no text"):
        sample(made)


def test_the_sample_is_measured_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"{i} " + "中" * 100 for i in range(500)))
    tokenizer = {"train": {"model": "bpe", "sample_bytes": 30_000}}
    made = job(sources=[{"name": "a", "files": [str(tmp_path / "a.txt")]}], tokenizer=tokenizer)
    assert sum(len(t.encode()) for t in sample(made)) < 31_000
