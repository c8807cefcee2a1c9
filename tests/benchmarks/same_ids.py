"""Compares, over a whole corpus, the ids of remembered pieces with those of `encode_batch_fast`.

    python tests/benchmarks/same_ids.py CORPUS [--kinds gpt2,bert,…]

Every configuration that tests/unit/test_boundaries.py knows, each with a vocabulary trained on the corpus: byte-level
BPE with the patterns of GPT-2, StarCoder, Llama 3, Qwen 2 and GPT-4o, with and without NFC; BERT's normalizer with
each of its switches; Unigram behind the normalizers of ALBERT, T5 and others. Exits 1 if a document differs.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import time
from pathlib import Path
from unittest.mock import patch

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

import numpy as np
import test_boundaries
from tokenize_throughput import read_corpus

from schemas.job import TrainTokenizer
from transforms.encode import encode_batch
from transforms.read import BATCH_BYTES
from transforms.texts import utf8
from transforms.tokenizer_training import train_tokenizer


def batches(texts: list[str]) -> list[list[str]]:
    """Texts in batches as the reader makes them."""
    made, held = [[]], 0
    for text in texts:
        made[-1].append(text)
        held += len(text)
        if held >= BATCH_BYTES:
            made.append([])
            held = 0
    return made


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--kinds", default=",".join(test_boundaries.KINDS))
    options = parser.parse_args()
    texts = read_corpus(options.corpus)
    sample = random.Random(2).sample(texts, min(700, len(texts)))

    @functools.cache
    def trained(model: str) -> bytes:
        return train_tokenizer(TrainTokenizer(model=model, vocab_size=30_000, lowercase=model != "bpe"), sample)

    different = 0
    with patch.object(test_boundaries, "trained", trained):
        for kind in options.kinds.split(","):
            made = test_boundaries.encoder(kind)
            fast = whole = tokens = wrong = 0.0
            for batch in batches(texts):
                data = utf8(batch)
                began = time.process_time()
                found = made.encode(data)
                fast += time.process_time() - began
                began = time.process_time()
                expected = encode_batch(made.tokenizer, batch)
                whole += time.process_time() - began
                tokens += len(expected.flat)
                same = np.array_equal(found.offsets, expected.offsets) and np.array_equal(found.flat, expected.flat)
                wrong += not same
            different += wrong
            print(
                f"{kind:20} {len(texts)} documents, {tokens / 1e6:.1f}M tokens, {wrong:.0f} batches differ; "
                f"one cold pass: {whole / fast:.1f} times the speed; {len(made.memo):,} pieces",
                flush=True,
            )
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
