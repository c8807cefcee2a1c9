"""Remembered pieces against `encode_batch_fast`, one core, the same text in the same run.

    python tests/benchmarks/tokenize_throughput.py CORPUS [--megabytes 300] [--models wordpiece,bpe,unigram]
        [--reference 0.1] [--profile]

CORPUS is a folder of .jsonl, .parquet and .txt files (each text format also compressed). Its documents are repeated,
shuffled anew each time, until they make so many megabytes. The encoder begins with nothing remembered; the reference
encodes every tenth batch (`--reference`), in between, so that both see the same noise of the machine. Times are CPU
seconds of one thread. Ids are compared wherever both encode.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from whole_job import sources

from schemas.job import TrainTokenizer
from transforms.encode import Encoder, encode_batch
from transforms.ragged import Ragged
from transforms.read import BATCH_BYTES
from transforms.texts import strings, utf8
from transforms.tokenizer_training import train_tokenizer
from transforms.vocabulary import load_tokenizer

VOCABULARY = {"wordpiece": 30_000, "bpe": 32_000, "unigram": 32_000}


def read_corpus(corpus: Path) -> list[str]:
    """Every document of a folder."""
    from tempfile import TemporaryDirectory

    import yaml
    from whole_job import read_texts

    with TemporaryDirectory() as folder:
        job = Path(folder) / "job.yaml"
        spec = {"name": "b", "output": "out", "tokenizer": {"train": {"model": "bpe", "vocab_size": 30_000}}}
        job.write_text(yaml.safe_dump({**spec, "sources": sources(corpus.resolve()), "budget": {"epochs": 1}}))
        return read_texts(job)


def batches(texts: list[str], wanted_bytes: int) -> Iterator[Ragged]:
    """Shuffled documents, again and again, in batches as the reader makes them."""
    rng, held, held_bytes, done = random.Random(1), [], 0, 0
    while done < wanted_bytes:
        for text in rng.sample(texts, len(texts)):
            held.append(text)
            held_bytes += len(text)
            if held_bytes >= BATCH_BYTES:
                batch = utf8(held)
                yield batch
                done += len(batch.flat)
                held, held_bytes = [], 0
                if done >= wanted_bytes:
                    return


def measure(
    model: str, texts: list[str], wanted_bytes: int, reference: float, profile: cProfile.Profile | None
) -> None:
    """Encode with both and print the ratio."""
    vocabulary = TrainTokenizer(model=model, vocab_size=VOCABULARY[model], lowercase=model != "bpe")
    sample = random.Random(2).sample(texts, min(len(texts), 700 if model == "unigram" else 1500))
    data = train_tokenizer(vocabulary, sample)
    tokenizer = load_tokenizer(data)
    began = time.process_time()
    encoder = Encoder(tokenizer)
    fast = time.process_time() - began
    whole = whole_bytes = fast_bytes = 0.0
    every, tenths, different = max(1, round(1 / reference)), [], 0
    for i, batch in enumerate(batches(texts, wanted_bytes)):
        if profile:
            profile.enable()
        began = time.process_time()
        ids = encoder.encode(batch)
        fast += time.process_time() - began
        if profile:
            profile.disable()
        fast_bytes += len(batch.flat)
        if i % every == every // 2:
            documents = strings(batch)
            began = time.process_time()
            encodings = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
            whole += time.process_time() - began
            del encodings
            whole_bytes += len(batch.flat)
            expected = encode_batch(tokenizer, documents)
            different += not ((expected.flat == ids.flat).all() and (expected.offsets == ids.offsets).all())
        if fast_bytes >= (len(tenths) + 1) * wanted_bytes / 10:
            tenths.append(fast_bytes / fast / 1e6)
    speed, plain = fast_bytes / fast / 1e6, whole_bytes / whole / 1e6
    print(
        f"{model}: {fast_bytes / 1e6:.0f} MB at {speed:.1f} MB/s, encode_batch_fast {plain:.2f} MB/s on "
        f"{whole_bytes / 1e6:.0f} MB of it: ratio {speed / plain:.2f}; {different} batches differ; "
        f"{len(encoder.memo):,} pieces, {encoder.memo.held_bytes / 2**20:.0f} MiB"
    )
    print("  MB/s after each tenth: " + ", ".join(f"{s:.1f}" for s in tenths))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--models", default="wordpiece,bpe,unigram")
    parser.add_argument("--reference", type=float, default=0.1, help="share of the batches the reference encodes")
    parser.add_argument("--profile", action="store_true", help="where the encoder's time goes")
    options = parser.parse_args()
    texts = read_corpus(options.corpus)
    print(f"{len(texts)} documents, {sum(len(t.encode()) for t in texts) / 1e6:.1f} MB of text")
    for model in options.models.split(","):
        profile = cProfile.Profile() if options.profile else None
        measure(model, texts, options.megabytes * 10**6, options.reference, profile)
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(16)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB, the corpus included")


if __name__ == "__main__":
    main()
