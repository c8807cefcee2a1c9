"""From JSON Lines to stored token ids on one core: shardmill's tokenize, `datasets.map` and datatrove's tokenizer.

    python tests/benchmarks/peers_tokenize.py CORPUS [--megabytes 60] [--model bpe] [--repeat 3]

Each runs in a process of its own, on the same documents of CORPUS in random order, with the same tokenizer, trained
beforehand. Times are CPU seconds of the process and its children, imports included. datatrove is not a dependency:
it takes part if it can be imported (`pip install datatrove`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def shardmill(data: Path, tokenizer: Path, out: Path) -> None:
    """Raw text to the token store."""
    from schemas.source import Source
    from schemas.store import InputRange
    from transforms.tokenize import TokenizeOptions, tokenize_range

    size = data.stat().st_size
    piece = InputRange(
        source="s",
        part=0,
        uri=str(data),
        file=data.name,
        format="jsonl",
        compression=None,
        begin=0,
        end=size,
        size_bytes=size,
        mtime_ns=0,
        cost_bytes=size,
    )
    sha256 = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    options = TokenizeOptions(
        store=str(out),
        source=Source(name="s", files=[str(data)]),
        tokenizer_uri=str(tokenizer),
        tokenizer_sha256=sha256,
        validation=0.01,
        max_record_bytes=2**23,
    )
    tokenize_range(piece, options)


def datasets_map(data: Path, tokenizer: Path, out: Path) -> None:
    """`load_dataset` and `map` in batches of 1000, the ids kept in its Arrow cache."""
    import datasets
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    rows = datasets.load_dataset("json", data_files=str(data), split="train", cache_dir=str(out))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [e.ids for e in loaded.encode_batch_fast(batch["text"], add_special_tokens=False)]}

    rows.map(encode, batched=True, remove_columns=["text"])


def datatrove(data: Path, tokenizer: Path, out: Path) -> None:
    """Its reader and its tokenizer, one task."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    steps = [
        JsonlReader(str(data.parent), glob_pattern=data.name),
        DocumentTokenizer(str(out / "tokens"), tokenizer_name_or_path=str(tokenizer), shuffle_documents=False),
    ]
    LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=str(out / "log")).run()


def cpu_seconds(run: Callable[[Path, Path, Path], None], data: Path, tokenizer: Path) -> tuple[float, float]:
    """(CPU seconds, MiB of memory at most) of a run in a process of its own."""
    out = Path(tempfile.mkdtemp(prefix="peer-"))
    reader, writer = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        run(data, tokenizer, out)
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        writer.send((sum(u.ru_utime + u.ru_stime for u in usage), max(u.ru_maxrss for u in usage) / 2**10))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    shutil.rmtree(out)
    if process.exitcode:
        raise SystemExit(f"{run.__name__} failed")
    found: tuple[float, float] = reader.recv()
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--model", default="bpe", choices=["wordpiece", "bpe", "unigram"])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="peers-"))
    data, tokenizer = folder / "documents.jsonl", folder / "tokenizer.json"
    size = prepare(options, data, tokenizer)
    runs = [shardmill, datasets_map, *([datatrove] if importlib.util.find_spec("datatrove") else [])]
    seconds: dict[str, list[float]] = {run.__name__: [] for run in runs}
    memory = dict.fromkeys(seconds, 0.0)
    for _ in range(options.repeat):
        for run in runs:
            took, peak = cpu_seconds(run, data, tokenizer)
            seconds[run.__name__].append(took)
            memory[run.__name__] = max(memory[run.__name__], peak)
    ours = seconds["shardmill"]
    for name, found in seconds.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(found, ours, strict=True))
        print(
            f"{name:13} {size / statistics.median(found) / 1e6:6.2f} MB/s, {memory[name]:.0f} MiB; "
            f"shardmill needs 1/{ratio:.2f} of its time"
        )
    shutil.rmtree(folder)


def prepare(options: argparse.Namespace, data: Path, tokenizer: Path) -> int:
    """Write documents and tokenizer; in a process of its own, so that each run begins with little memory."""

    def work(connection: multiprocessing.connection.Connection) -> None:
        import orjson
        from tokenize_throughput import VOCABULARY, read_corpus

        from schemas.job import TrainTokenizer
        from transforms.tokenizer_training import train_tokenizer

        texts, size = read_corpus(options.corpus), 0
        random.Random(1).shuffle(texts)
        spec = TrainTokenizer(model=options.model, vocab_size=VOCABULARY[options.model], lowercase=False)
        tokenizer.write_bytes(train_tokenizer(spec, texts[:700]))
        with open(data, "wb") as file:
            for text in texts:
                if size < options.megabytes * 10**6:
                    file.write(orjson.dumps({"text": text}) + b"\n")
                    size += len(text.encode())
        connection.send(size)

    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=work, args=(writer,))
    process.start()
    size: int = reader.recv()
    process.join()
    return size


if __name__ == "__main__":
    main()
