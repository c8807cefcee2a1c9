"""Sentences: their ends in tokens are exact for every tokenizer, and no text makes the splitter crash or crawl."""

from __future__ import annotations

import functools
import json
import re
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import sentencex
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers, processors, trainers
from unit_helpers import cases, lists, source

import transforms.objectives.registry  # noqa: F401  (makes the objectives known)
import transforms.sentences as sentences
from schemas.job import TrainTokenizer
from schemas.source import LANGUAGES, Source
from transforms.boundaries.byte_level import CL100K
from transforms.encode import Encoder, encode_batch
from transforms.sentences import sentence_bounds, sentence_fingerprint
from transforms.texts import utf8
from transforms.tokenizer_training import train_tokenizer
from transforms.vocabulary import load_tokenizer

PROSE = (
    "Dr. Smith ground the corn. Did the miller see it? He did!\nFlour is white; bread is brown (mostly).\n\n"
    "“It is late,” she said. ‘Go home.’ At 3.15 p.m. they left… 磨坊很旧。水很清！\u00a0Ça va? Œuvre d’art. "
    "İstanbul ΣΟΦΟΣ ﬁne café 한국어. हिन्दी है। See [1]. The end."
)
SPLIT, LINES = source(), source(sentences="lines")


KINDS = ("wordpiece", "wordpiece-cased", "bpe", "roberta", "prefix-space", "llama", "llama3", "unigram", "added")


@functools.cache
def encoder_of(kind: str) -> Encoder:
    return Encoder(tokenizer_of(kind))


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    """No fixture, since hypothesis would print it."""
    if kind in ("wordpiece", "wordpiece-cased"):
        spec = TrainTokenizer(model="wordpiece", vocab_size=700, lowercase=kind == "wordpiece")
        return load_tokenizer(train_tokenizer(spec, [PROSE] * 3))
    if kind == "unigram":
        spec = TrainTokenizer(model="unigram", vocab_size=384, lowercase=True)
        return load_tokenizer(train_tokenizer(spec, [PROSE] * 3))
    made = load_tokenizer(train_tokenizer(TrainTokenizer(model="bpe", vocab_size=480), [PROSE] * 3))
    if kind == "roberta":
        made.post_processor = processors.ByteLevel(trim_offsets=True)
    elif kind == "prefix-space":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind in ("llama", "llama3"):
        # Takes line ends to the punctuation before them, so sentences end inside words.
        words = Regex(
            CL100K % "{1,3}"
            if kind == "llama3"
            else r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        steps = [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
        made.train_from_iterator(["end.\n\nnext"] * 9, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    elif kind == "added":
        made.add_tokens([AddedToken(". D"), AddedToken("mill", lstrip=True, rstrip=True)])
    return made


def ends_oracle(tokenizer: Tokenizer, text: str, bounds: list[int]) -> list[int]:
    """Token by token: each is in the sentence its first character is in, and never in an earlier one."""
    of_token, sentence = [], 0
    for begin, _ in tokenizer.encode(text, add_special_tokens=False).offsets:
        while begin >= bounds[sentence] and sentence < len(bounds) - 1:
            sentence += 1
        of_token.append(sentence)
    return [i + 1 for i, s in enumerate(of_token) if i + 1 == len(of_token) or of_token[i + 1] != s]


LETTERS = [
    *(
        "a",
        "B",
        "mill",
        "Dr",
        "the",
        "é",
        "e\u0301",
        "\u0301",
        "中",
        "。",
        "！",
        "한",
        "😀",
        "ﬁ",
        "İ",
        "Σ",
        "ß",
        "\u200d",
    ),
    *(". ", ".", "?", "! ", "…", "”", "“", '"', "'", "’", "'s ", "(", ")", ",", ";", "-", "1", "3.5"),
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u2029", "\x85", "\x0b", "\x1c"),
    *("\x00", "\x07", "\u200b", "\ufeff", "\ufffd", "[SEP]", "<extra_id_0>", "e.g. ", "\u202e", "\U000e0001"),
]
TEXT = st.lists(st.sampled_from(LETTERS), max_size=30).map("".join) | st.text(max_size=12)


@pytest.mark.parametrize("kind", KINDS)
@cases(150)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), how=st.sampled_from(["split", "lines"]))
@example(texts=[PROSE, "", PROSE[:60]], how="split")
@example(texts=["One.Two. 中。文。x\u0301.\u0301 A\n\nB.\n\n\nC"], how="split")
@example(texts=["A.\n\nB", "\x07. \x00", "Ends. \n", "  "], how="split")
def test_sentence_ends_are_exact_and_the_ids_are_those_of_the_whole_text(
    kind: str, texts: list[str], how: str
) -> None:
    tokenizer = tokenizer_of(kind)
    bounds = [sentence_bounds(text, source(sentences=how)) for text in texts]
    ids, ends = encoder_of(kind).encode_sentences(utf8(texts), bounds)
    expected = [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert lists(ids) == expected
    assert lists(ends) == [ends_oracle(tokenizer, t, b) for t, b in zip(texts, bounds, strict=True)]
    assert ids.flat.dtype == ends.flat.dtype == np.int32
    for row, places in zip(expected, lists(ends), strict=True):
        assert (places[-1:] or [0]) == [len(row)]
        assert all(a < b for a, b in pairwise([0, *places]))


@cases(150)
@given(text=TEXT, data=st.data())
def test_ends_are_exact_wherever_a_text_is_divided(text: str, data: st.DataObject) -> None:
    """The splitter's choice of places is not what makes cutting safe."""
    after = [i for i in range(1, len(text)) if not text[i - 1].isspace()]
    chosen = data.draw(st.sets(st.sampled_from(after), max_size=8)) if after else set()
    bounds = [*sorted(chosen), len(text)]
    for encoder in map(encoder_of, KINDS):
        ids, ends = encoder.encode_sentences(utf8([text]), [bounds])
        assert lists(ids) == lists(encode_batch(encoder.tokenizer, [text]))
        assert lists(ends) == [ends_oracle(encoder.tokenizer, text, bounds)]


def test_both_ways_of_finding_ends_are_tested() -> None:
    assert {kind for kind in KINDS if encoder_of(kind).boundaries is None} == {"prefix-space", "llama", "added"}


def test_what_a_cut_would_change_is_not_cut() -> None:
    """Fails if the reason for looking up places, and not cutting everywhere, has gone."""
    whole = encode_batch(tokenizer_of("llama"), ["end.\n\nnext"])
    parts = encode_batch(tokenizer_of("llama"), ["end.", "\n\nnext"])
    assert whole.flat.tolist() != parts.flat.tolist()


def test_no_texts_give_no_ends() -> None:
    for encoder in map(encoder_of, KINDS):
        assert [len(r) for r in encoder.encode_sentences(utf8([]), [])] == [0, 0]


def pieces(text: str, of: Source = SPLIT) -> list[str]:
    """The sentences of a text without the whitespace around them."""
    return [text[a:b].strip() for a, b in pairwise([0, *sentence_bounds(text, of)])]


def test_sentences_of_prose_are_those_a_reader_sees() -> None:
    assert pieces(PROSE)[:4] == [
        "Dr. Smith ground the corn.",
        "Did the miller see it?",
        "He did!",
        "Flour is white; bread is brown (mostly).",
    ]
    assert pieces("A heading\n\nIts text goes\non here. And here.\n \t\nNext") == [
        "A heading",
        "Its text goes\non here.",
        "And here.",
        "Next",
    ]
    assert pieces("Siehe z. B. Abschnitt 3. Danke.", source(language="de")) == ["Siehe z. B. Abschnitt 3.", "Danke."]


def test_each_line_that_is_not_blank_is_a_sentence_where_the_source_says_so() -> None:
    assert pieces("One. Two.\n\n  \nthree\r\nfour \n", LINES) == ["One. Two.", "three", "four"]
    assert sentence_bounds("a\nb\n", LINES) == [1, 4]
    assert sentence_bounds("", LINES) == [0]
    assert sentence_bounds(" \n ", LINES) == [3]


@cases(300)
@given(text=TEXT, language=st.sampled_from(LANGUAGES))
@example(text="A\u00a0. b", language="en")  # sentencex 1.0.32 panics at wide whitespace before a full stop
@example(text="x\u2029.y\u3000. z", language="hi")
def test_bounds_ascend_and_each_follows_a_sentences_last_character(text: str, language: str) -> None:
    bounds = sentence_bounds(text, source(language=language))
    assert bounds[-1] == len(text)
    assert all(a < b for a, b in pairwise(bounds))
    for a, b in pairwise([0, *bounds]):
        assert b == len(text) or not text[b - 1].isspace()
        assert text[a:b].strip() or len(bounds) == 1
        assert not re.search(r"\S[^\S\n]*\n\s*\n\s*\S", text[a:b]), "a sentence never crosses a blank line"


@cases(100)
@given(
    st.lists(st.sampled_from(["One two.", "Three?", "Dr. X went.", "no end", "(Yes. No.)", "3.5 is it."]), max_size=9)
)
def test_a_short_paragraph_is_divided_as_the_splitter_divides_it(parts: list[str]) -> None:
    text = " ".join(parts)
    expected, place = [], 0
    for part in sentencex.segment("en", text):
        expected.append(place + len(part.rstrip()))
        place += len(part)
    assert sentence_bounds(text, SPLIT) == (expected or [0])


HOSTILE = {
    "no punctuation": "word " * 400_000,
    "one word": "a" * 2_000_000,
    "full stops": "." * 2_000_000,
    "NULs": "\0" * 2_000_000,
    "combining marks": "\u0301" * 700_000,
    "open quotes": '"A. “B. ' * 250_000,
    "apostrophes": "it's A. " * 250_000,
    "open brackets": "(a. [B. " * 250_000,
    "blank lines": "\n " * 1_000_000,
    "paragraphs": "A.\n\n" * 200_000,
    "list items": "1. A\n" * 400_000,
    "wide spaces": "\u3000.\u00a0." * 250_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_makes_the_splitter_see_much_at_once_or_often(text: str) -> None:
    """Its time is quadratic in the quotes of what it sees: bounded here by counting, not by a clock."""
    seen: list[int] = []
    real = sentencex.segment

    def watched(language: str, part: str) -> list[str]:
        seen.append(len(part))
        return list(real(language, part))

    with patch.object(sentencex, "segment", watched):
        bounds = sentence_bounds(text, SPLIT)
    assert bounds[-1] == len(text)
    assert max(seen, default=0) <= 4096
    assert sum(seen) <= 2 * len(text) + 4096


def test_a_window_ends_no_sentence() -> None:
    words = ["word"] * 3000
    assert pieces(f"{' '.join(words)}. Next one. {' '.join(words)}") == [
        f"{' '.join(words)}.",
        "Next one.",
        " ".join(words),
    ]
    many = [f"Sentence {i} of this long paragraph ends here." for i in range(1000)]
    assert pieces(" ".join(many)) == many


class PanicException(BaseException):
    """Named like what Rust's panics become."""


def test_a_panic_of_the_splitter_costs_one_windows_ends_and_nothing_else() -> None:
    real = sentencex.segment

    def fragile(language: str, part: str) -> list[str]:
        if "bad" in part:
            raise PanicException("byte index 3 is not a char boundary")
        return list(real(language, part))

    with patch.object(sentencex, "segment", fragile):
        assert pieces("One. Two.\n\nbad. Three.\n\nFour. Five.") == ["One.", "Two.", "bad. Three.", "Four.", "Five."]

    def interrupted(*_: str) -> list[str]:
        raise KeyboardInterrupt

    with patch.object(sentencex, "segment", interrupted), pytest.raises(KeyboardInterrupt):
        sentence_bounds("One.", SPLIT)


def test_a_splitter_that_loses_text_is_not_believed() -> None:
    with patch.object(sentencex, "segment", lambda *_: ["One. "]):
        assert sentence_bounds("One. Two.", SPLIT) == [9]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_known_language_is_divided_at_its_own_full_stop(language: str) -> None:
    stop = {"hi": "।", "bn": "।", "mr": "।", "pa": "।", "am": "።", "my": "။", "hy": "։", "ja": "。", "zh": "。"}
    text = f"Xa xa{stop.get(language, '.')} Ya ya{stop.get(language, '.')}"
    assert len(pieces(text, source(language=language))) == 2


def test_the_fingerprint_follows_what_changes_the_ends_and_nothing_else() -> None:
    prints = [sentence_fingerprint(s) for s in (SPLIT, source(language="de"), LINES)]
    assert len({*prints}) == 3
    assert sentence_fingerprint(source(sentences="lines", language="de")) == prints[2], "lines know no language"
    with patch.object(sentences, "version", lambda _: "9.9"):
        assert sentence_fingerprint(SPLIT) != prints[0]
        assert sentence_fingerprint(LINES) == prints[2]


def test_an_encoded_text_is_read_as_plain_text() -> None:
    special = {t.content for t in tokenizer_of("wordpiece").get_added_tokens_decoder().values()}
    for kind in ("wordpiece", "bpe"):
        text = f"The mill. {' '.join(sorted(special))}. The end."
        ids, _ = encoder_of(kind).encode_sentences(utf8([text]), [sentence_bounds(text, SPLIT)])
        names = {tokenizer_of(kind).id_to_token(int(i)) for i in ids.flat}
        assert not names & (special - {"[UNK]"}), json.dumps(sorted(names & special))
