"""Cuts that change no id: every rule against `tokenizers` itself, on all short strings and on hostile long ones."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from unit_helpers import cases, lists

from schemas.job import TrainTokenizer
from transforms.boundaries import boundaries_of
from transforms.boundaries import byte_level as patterns
from transforms.encode import Encoder, encode_batch
from transforms.texts import utf8
from transforms.tokenizer_training import train_tokenizer
from transforms.vocabulary import TRAINED_SPECIAL_TOKENS, load_tokenizer

PROSE = (
    "The mill's stones don't grind 1234 sacks… they'll grind 56.\n\n  Café CORN, œuvre — 磨坊很旧。\tdef f(x):\n"
    "        return x/2 // y\n\n\nΣΟΦΟΣ слово и дело. हिन्दी है. 한국어 ``quoted'' text, DON'T I'LL camelCase\u00a0x"
)

BYTE_LEVEL = {
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt2-split": [
        pre_tokenizers.Split(Regex(patterns.GPT2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "starcoder": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "digit-runs": [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama3": [
        pre_tokenizers.Split(Regex(patterns.CL100K % "{1,3}"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(Regex(patterns.CL100K % ""), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "gpt4o": [
        pre_tokenizers.Split(Regex(patterns.O200K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}
COMPOSED = ("gpt2", "starcoder", "llama3", "qwen2", "gpt4o")
BERT = {
    "bert": normalizers.BertNormalizer(),
    "bert-cased": normalizers.BertNormalizer(lowercase=False),
    "bert-accents": normalizers.BertNormalizer(strip_accents=False),
    "bert-cased-stripped": normalizers.BertNormalizer(lowercase=False, strip_accents=True),
    "bert-unclean": normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False),
    "bert-bare": None,
}
SQUEEZE = normalizers.Replace(Regex(" {2,}"), " ")
ALBERT = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD()]
METASPACE = {
    "unigram": ([normalizers.Nmt(), normalizers.NFKC(), SQUEEZE], "always", False),
    "albert": ([*ALBERT, normalizers.StripAccents(), normalizers.Lowercase(), SQUEEZE], "always", False),
    "t5": (
        [normalizers.Nmt(), normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")],
        "first",
        False,
    ),
    "bare": ([], "never", False),
    "words": ([normalizers.NFKC()], "first", True),
}
KINDS = (*BYTE_LEVEL, *(f"{name}-nfc" for name in COMPOSED), *BERT, *METASPACE)


@functools.cache
def trained(model: str) -> bytes:
    return train_tokenizer(TrainTokenizer(model=model, vocab_size=700), [PROSE] * 3)


@functools.cache
def encoder(kind: str) -> Encoder:
    """Of a tokenizer that joins what it may, so that a wrong cut shows."""
    if kind.removesuffix("-nfc") in BYTE_LEVEL:
        made = load_tokenizer(trained("bpe"))
        made.pre_tokenizer = pre_tokenizers.Sequence(BYTE_LEVEL[kind.removesuffix("-nfc")])
        made.normalizer = normalizers.NFC() if kind.endswith("-nfc") else None
    elif kind in BERT:
        made = load_tokenizer(trained("wordpiece"))
        if BERT[kind] is not None:
            made.normalizer = BERT[kind]
        else:
            spec = json.loads(made.to_str()) | {"normalizer": None}
            made = load_tokenizer(json.dumps(spec).encode())
    else:
        steps, scheme, split = METASPACE[kind]
        made = load_tokenizer(trained("unigram"))
        space = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space]) if split else space
        made.normalizer = normalizers.Sequence(steps)
    return Encoder(made)


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the model sees: the words of a text."""
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def pieces(made: Encoder, text: str) -> list[str]:
    data = text.encode()
    assert made.boundaries is not None
    edges = made.boundaries.cut(data, np.array([0, len(data)])).tolist()
    return [data[a:b].decode() for a, b in pairwise(edges)]


# One character or more of each kind the patterns and normalizers tell apart.
LETTERS = ("s", "B", "ſ", "é", "中", "\u0301", "1", "²", ".", "'", "/", "_", " ", "\t", "\n", "\r", "\u00a0")


def compare_words(made: Encoder, size: int, begins: tuple[str, ...] = ("",)) -> int:
    """Compare the words of all strings of these many characters with those of their pieces; returns the cuts."""
    cut = 0
    for letters in product(begins, *[LETTERS] * size):
        text = "".join(letters)
        parts = pieces(made, text)
        cut += len(parts) - 1
        if len(parts) > 1:
            found = [word for part in parts for word in words(made.tokenizer, part)]
            assert found == words(made.tokenizer, text), (text, parts)
    return cut


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_all_short_strings_are_those_of_their_pieces(kind: str) -> None:
    """Every string of up to three characters of all kinds, exhaustively: the proof, held against the thing itself."""
    assert sum(compare_words(encoder(kind), size) for size in (1, 2, 3)) > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_all_strings_of_four_characters_are_those_of_their_pieces(kind: str) -> None:
    # Exact where a Metaspace tokenizer has fewer cuts than the others, which have more than 5,000.
    cuts = compare_words(encoder(kind), 4)
    assert cuts == 4760 if kind == "albert" else cuts > 5000


@pytest.mark.parametrize(
    ("text", "kind"),
    [(patterns.GPT2, "gpt2"), (patterns.CL100K % "{1,3}", "llama3"), (patterns.O200K, "gpt4o")],
)
def test_the_comparison_sees_a_cut_inside_a_match(text: str, kind: str) -> None:
    """Fails if a rule that is too bold went unseen, or one of the pairs were kept together without need."""
    pattern, seen = patterns.PATTERNS[text], encoder(kind)
    for pair in pattern.inside:
        bold = patterns.byte_level_boundaries(replace(pattern, inside=pattern.inside - {pair}), composes=False)
        made = Encoder(seen.tokenizer)
        made.boundaries = bold
        with pytest.raises(AssertionError):
            compare_words(made, 3, ("", ".."))


SPECIAL = [*TRAINED_SPECIAL_TOKENS[:8], "<fim_prefix>"]
RUNS = st.sampled_from([" ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b", "\x1c"]).flatmap(
    lambda space: st.integers(1, 40).map(space.__mul__)
)
BITS = (
    st.sampled_from(
        [*LETTERS, *PROSE.split(" "), *SPECIAL, "▁", "``", "\x00", "\x07", "\ufffd", "\u200b", "\u200d", "😀"]
    )
    | st.sampled_from(
        ["\u0338", "\u0307", "İ", "ß", "ﬁ", "\u1100\u1161", "가\u11a8", "क\u093c", "\u0958", "\u037e", "\u2126"]
    )
    | st.sampled_from(
        ["\u2000", "\u00ad", "\u200e", "\ufeff", "\ue000", "\U000e0001", "𠀀", "\u3400", "豈", "\u0600", "'S", "'ll"]
    )
    | RUNS
    | st.text(max_size=6)
)
TEXT = st.lists(BITS, max_size=20).map("".join)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize("kind", KINDS)
@cases(120)
@given(texts=st.lists(TEXT | ANY, min_size=1, max_size=4))
@example(texts=["", PROSE, "", PROSE * 3, " ", ""])
@example(texts=["a  ", "b", "  ", "\n", "\nc ", " d"])
@example(texts=["e\u0301 a\u0338", "\u0301a", "=\u0338 =", "中\u0301文"])
def test_ids_of_pieces_are_those_of_the_texts(kind: str, texts: list[str]) -> None:
    """Over all of Unicode, with the ends of one text beside the beginning of the next."""
    made = encoder(kind)
    assert lists(made.encode(utf8(texts))) == lists(encode_batch(made.tokenizer, texts))


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_gives_the_same_ids_wherever_it_stands(kind: str) -> None:
    """All 1,112,064 of them, between letters, spaces and marks."""
    made = encoder(kind)
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    step = 1 if kind in ("gpt2", "bert") else 7
    points = [c for c in points if c < 0x3400 or 0xF900 <= c < 0x10000 or c % (97 * step) == 0]
    texts = [f"a{chr(c)}b {chr(c)} .{chr(c)}. 1{chr(c)} \n{chr(c)}\n  {chr(c)}  中{chr(c)}'{chr(c)}" for c in points]
    found, expected = made.encode(utf8(texts)), encode_batch(made.tokenizer, texts)
    if not (np.array_equal(found.flat, expected.flat) and np.array_equal(found.offsets, expected.offsets)):
        wrong = [t for t, a, b in zip(texts, lists(found), lists(expected), strict=True) if a != b]
        raise AssertionError(wrong[:5])


def test_tokenizers_whose_cuts_are_not_known_encode_texts_whole() -> None:
    """Fails if a rule were taken for a tokenizer that it is not proved of."""
    bpe, wordpiece, unigram = (trained(m) for m in ("bpe", "wordpiece", "unigram"))

    def changed(data: bytes, **changes: object) -> Tokenizer:
        made = load_tokenizer(data)
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    own = Regex(r"\p{L}+|[^\p{L}]+")
    split = pre_tokenizers.Split(own, "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = pre_tokenizers.Split(Regex(patterns.GPT2), "removed")
    assert boundaries_of(load_tokenizer(bpe)) is not None
    for tokenizer in (
        changed(bpe, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        changed(bpe, pre_tokenizer=pre_tokenizers.Sequence([split, byte_level])),
        changed(bpe, pre_tokenizer=pre_tokenizers.Sequence([known, byte_level])),
        changed(bpe, pre_tokenizer=byte_level),
        changed(bpe, normalizer=normalizers.NFKC()),
        changed(bpe, encode_special_tokens=False),
        changed(wordpiece, pre_tokenizer=pre_tokenizers.Whitespace()),
        changed(wordpiece, normalizer=normalizers.Lowercase()),
        changed(unigram, pre_tokenizer=pre_tokenizers.Metaspace(split=False)),
        changed(unigram, normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
        changed(unigram, normalizer=normalizers.Replace("a", " ")),
        changed(unigram, normalizer=normalizers.Replace(Regex("a b"), "c")),
        Tokenizer(models.BPE()),
    ):
        assert boundaries_of(tokenizer) is None
    dropout = json.loads(bpe)
    dropout["model"]["dropout"] = 0.1
    assert boundaries_of(load_tokenizer(json.dumps(dropout).encode())) is None
    added = load_tokenizer(bpe)
    added.add_tokens([AddedToken("n't g")])
    assert boundaries_of(added) is None
    assert lists(Encoder(added).encode(utf8(["I don't go"]))) == lists(encode_batch(added, ["I don't go"]))
    truncated = load_tokenizer(bpe)
    truncated.enable_truncation(5)
    assert boundaries_of(truncated) is None


@pytest.mark.parametrize("kind", KINDS)
def test_prose_falls_into_words(kind: str) -> None:
    """Fails if a rule became so careful that nothing repeats."""
    assert len(pieces(encoder(kind), "The mill grinds the corn and the corn feeds the mill " * 3)) >= 30


@pytest.mark.parametrize("kind", [k for k in KINDS if k in BERT or k.removesuffix("-nfc") in BYTE_LEVEL])
def test_no_text_of_a_writing_without_spaces_is_one_piece(kind: str) -> None:
    """Fails if a long record of Chinese would be encoded, and held in memory, as a whole."""
    if not kind.endswith("-nfc"):
        assert max(map(len, pieces(encoder(kind), "磨坊很旧，水很清。" * 100))) < 10
