"""Trains a vocabulary on a seeded, weighted sample of the sources' training documents, reproducibly.

The same job and inputs give the same `tokenizer.json`, byte for byte. Two trainers of `tokenizers` do not promise
that: its WordPiece trainer numbers the continuing letters in the order of a randomly seeded hash map, which decides
ties between merges, and its Unigram trainer sums floats in such an order. So WordPiece gets all its letters numbered
beforehand, and Unigram is trained by `sentencepiece`, which is deterministic and several times faster.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from schemas.errors import DataError, RequestError
from schemas.job import Job, Source, TrainTokenizer
from schemas.keys import document_keys, draw, text_key, validation_mask
from schemas.store import InputRange
from transforms.mixture import normalised_weights
from transforms.read import read_records
from transforms.vocabulary import TRAINED_SPECIAL_TOKENS

_OVERSAMPLE = 8
"""Ranges are read until they hold this many times the bytes wanted, so that the sample is not a few files' text."""

_ALPHABET = 1000
"""Most distinct characters of a WordPiece vocabulary (the default of BERT's tools)."""

_Drawn = tuple[int, int, tuple[str, ...]]
"""(keyed hash, document key, texts: one, or prefix with input and target)."""


def sample_texts(job: Job, ranges: dict[str, list[InputRange]], on_bytes: Callable[[int], None]) -> list[str]:
    """Texts of training documents of all sources, about `sample_bytes` in all, in proportion to the weights.

    A pair gives two: the prefix with the input, and the target.
    Within a source the documents with the smallest keyed hashes are taken, out of ranges in keyed order, so the
    sample depends on nothing but the seed and the corpus. A source too small for its share gives all it has.

    Args:
      job: the job; its `tokenizer.train` says how many bytes.
      ranges: the input ranges by source.
      on_bytes: called with the bytes sampled of each source as they are reached.
    """
    assert job.tokenizer.train is not None
    weights = normalised_weights(job.in_effect, {name: sum(r.cost_bytes for r in rs) for name, rs in ranges.items()})
    texts: list[str] = []
    for source in job.sources:
        if weights.get(source.name):
            wanted = int(job.tokenizer.train.sample_bytes * weights[source.name])
            chosen = _sample_source(job, source, ranges[source.name], wanted)
            texts += chosen
            on_bytes(sum(len(text.encode()) for text in chosen))
    if not texts:
        raise DataError("There is no text to train a tokenizer on", where="sources", got="no readable document")
    return texts


def _sample_source(job: Job, source: Source, ranges: list[InputRange], wanted_bytes: int) -> list[str]:
    places = np.array([text_key(r.file, str(r.begin)) for r in ranges], dtype=np.uint64)
    order = draw(job.seed, "tokenizer.range", places)
    held: list[_Drawn] = []
    held_bytes = seen_bytes = 0
    for i in np.argsort(order, kind="stable").tolist():
        for records in read_records(ranges[i], source, job.limits.max_record_bytes):
            keys = document_keys(source.name, records.ids)
            train = ~validation_mask(keys, job.splits.validation)
            hashes = draw(job.seed, "tokenizer.document", keys)
            for j in np.flatnonzero(train).tolist():
                held.append((int(hashes[j]), int(keys[j]), records.texts_of(j)))
                held_bytes += (size := _size(held[-1]))
                seen_bytes += size
            if held_bytes > 4 * max(wanted_bytes, 1):
                held, held_bytes = _smallest(held, wanted_bytes)
        if seen_bytes >= _OVERSAMPLE * wanted_bytes:
            break
    return [text for _, _, texts in _smallest(held, wanted_bytes)[0] for text in texts]


def _size(drawn: _Drawn) -> int:
    return sum(len(text.encode()) for text in drawn[2])


def _smallest(held: list[_Drawn], wanted_bytes: int) -> tuple[list[_Drawn], int]:
    """The documents of the smallest hashes whose texts reach the bytes wanted, and their size."""
    held = sorted(held)
    sizes = np.cumsum([_size(drawn) for drawn in held])
    count = min(len(held), int(np.searchsorted(sizes, wanted_bytes)) + 1)
    return held[:count], int(sizes[count - 1]) if count else 0


def train_tokenizer(spec: TrainTokenizer, texts: list[str]) -> bytes:
    """The JSON of a tokenizer trained on these texts.

    Raises:
      RequestError: the vocabulary is too small for the letters of the text.
    """
    trained = {"wordpiece": _wordpiece, "bpe": _byte_level_bpe, "unigram": _unigram}[spec.model](spec, texts)
    return trained.to_str(pretty=False).encode()


def _special() -> list[AddedToken]:
    return [AddedToken(t, special=True, normalized=False) for t in TRAINED_SPECIAL_TOKENS]


def _wordpiece(spec: TrainTokenizer, texts: list[str]) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=spec.lowercase)
    letters = _letters(texts, normalizer.normalize_str)
    reserved = [*TRAINED_SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters)]
    _require_room(spec, len(reserved))
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=spec.vocab_size,
        # Numbering "a" and "##a" for every letter beforehand is what makes ties between merges reproducible.
        special_tokens=reserved,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    learner.train_from_iterator(iter(texts), trainer, length=len(texts))
    # The learner took the letters for special tokens; the finished tokenizer must not.
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(with_added_tokens=False), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(_special())
    return tokenizer


def _letters(texts: list[str], normalize: Callable[[str], str]) -> list[str]:
    """The commonest characters of the normalised texts, ties by code point, sorted."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        points = np.frombuffer(normalize(text).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        values, n = np.unique(points, return_counts=True)
        counts[values] += n
    common = np.argsort(-counts, kind="stable")[:_ALPHABET]
    return [c for p in np.sort(common[counts[common] > 0]).tolist() if not (c := chr(p)).isspace()]


def _byte_level_bpe(spec: TrainTokenizer, texts: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _require_room(spec, len(TRAINED_SPECIAL_TOKENS) + len(alphabet))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=_special(),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer, length=len(texts))
    return tokenizer


def _unigram(spec: TrainTokenizer, texts: list[str]) -> Tokenizer:
    _require_room(spec, len(TRAINED_SPECIAL_TOKENS) + 100)
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.lowercase:
        steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    normalizer = normalizers.Sequence(steps)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts, normalizer.normalize_str),
            model_writer=model,
            model_type="unigram",
            vocab_size=spec.vocab_size - len(TRAINED_SPECIAL_TOKENS) + 1,  # it counts an unknown token too
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            character_coverage=0.9995,
            num_threads=2,  # part of the result: the sums are split by thread
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise RequestError(
            "The unigram vocabulary could not be trained",
            where="tokenizer.train",
            got=str(error),
            remedy="Give a smaller vocab_size or more text",
        ) from error
    learnt = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(learnt.id_to_piece(i), learnt.get_score(i)) for i in range(1, learnt.get_piece_size())]
    taken = set(TRAINED_SPECIAL_TOKENS)
    # Special tokens are no pieces: a piece can be matched inside a text, however unlikely its score. The unknown
    # token has to be one, and gets a score at which any other way to spell its name is better.
    vocab = [("[UNK]", -1e4), *((p, score) for p, score in pieces if p not in taken)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(_special())
    return tokenizer


def _sentences(texts: list[str], normalize: Callable[[str], str]) -> Iterator[str]:
    """Lines, since sentencepiece passes over sentences of more than 4192 bytes."""
    for text in texts:
        for line in text.splitlines():
            if stripped := normalize(line).strip():
                yield stripped


def _require_room(spec: TrainTokenizer, least: int) -> None:
    if spec.vocab_size < least:
        raise RequestError(
            "The vocabulary is too small",
            where="tokenizer.train.vocab_size",
            expected=f"at least {least}: special tokens and the letters of the text",
            got=str(spec.vocab_size),
            remedy="Give a larger vocab_size",
        )
