"""The tokenizer step: put the job's tokenizer into the token store, training it if the job says so."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from pipelines.run import Run
from schemas.counts import format_bytes
from schemas.errors import RequestError
from schemas.fingerprint import fingerprint, text_identity
from schemas.source import Source
from transforms.tokenizer_training import sample_texts, train_tokenizer
from transforms.vocabulary import Vocabulary, read_vocabulary


def ensure_tokenizer(run: Run) -> Vocabulary:
    """Make `<tokens>/tokenizer.json` the job's tokenizer, and return its facts.

    Raises:
      RequestError: the token store is shared and belongs to another tokenizer.
    """
    place = run.store / "tokenizer.json"
    present = place.read_bytes() if place.info() else None
    if run.tokenizer_file is not None:
        wanted = run.tokenizer_file
        if present is not None and present != wanted:
            _refuse_if_shared(run, _sha256(present), _sha256(wanted))
        if present != wanted:
            place.write_bytes(wanted)
        return _vocabulary(run, wanted)
    record = run.store / "tokenizer.training.json"
    made_from = _training_fingerprint(run)
    if present is not None:
        known = json.loads(record.read_bytes()) if record.info() else {}
        if known == {"fingerprint": made_from, "sha256": _sha256(present)}:
            return _vocabulary(run, present)
        _refuse_if_shared(run, known.get("fingerprint", _sha256(present)), made_from)
    data = _train(run)
    place.write_bytes(data)
    record.write_bytes(json.dumps({"fingerprint": made_from, "sha256": _sha256(data)}).encode())
    return _vocabulary(run, data)


def known_tokenizer(run: Run) -> bytes | None:
    """The job's tokenizer, None where it is not trained yet."""
    if run.tokenizer_file is not None:
        return run.tokenizer_file
    place = run.store / "tokenizer.json"
    return place.read_bytes() if place.info() else None


def known_vocabulary(run: Run) -> Vocabulary | None:
    """The facts of the job's tokenizer, None where it is not trained yet."""
    data = known_tokenizer(run)
    return _vocabulary(run, data) if data is not None else None


def _train(run: Run) -> bytes:
    spec = run.job.tokenizer.train
    assert spec is not None
    began = time.monotonic()
    sampled: list[int] = []
    with run.console.status("  reading a sample for the tokenizer"):
        texts = sample_texts(run.job, run.ranges, sampled.append)
    size = format_bytes(sum(sampled))
    with run.console.status(f"  training a {spec.model} vocabulary of {spec.vocab_size:,} on {size}"):
        data = train_tokenizer(spec, texts)
    run.say(
        f"[bold]tokenizer[/]    {spec.model}, {spec.vocab_size:,} tokens, trained on {size} of "
        f"{len(texts):,} texts  [dim]{time.monotonic() - began:.1f} s[/]"
    )
    return data


def _training_fingerprint(run: Run) -> str:
    assert run.job.tokenizer.train is not None
    return fingerprint(
        {
            "train": run.job.tokenizer.train.model_dump(),
            "seed": run.job.seed,
            "splits": run.job.splits.model_dump(),
            "limits": [run.job.limits.max_record_bytes, run.job.limits.range_bytes],
            "sources": {s.name: [_texts(s), s.id, s.weight, s.format] for s in run.job.in_effect.sources},
            "inputs": run.inputs_fingerprint,
        }
    )


def _texts(source: Source) -> Any:
    return text_identity(source) if source.holds_pairs else source.text


def _refuse_if_shared(run: Run, present: str, wanted: str) -> None:
    if run.owns_store:
        return  # an earlier, unfinished try of this dataset; its parts are made anew
    raise RequestError(
        "The token store belongs to another tokenizer",
        where=str(run.store),
        expected=f"fingerprint {wanted[:32]}, of this job's tokenizer",
        got=f"fingerprint {present[:32]}",
        remedy=f"Give another `tokens` directory, or share the store's tokenizer with "
        f"`tokenizer: {{file: {run.store}/tokenizer.json}}`",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _vocabulary(run: Run, data: bytes) -> Vocabulary:
    names = {str(role): token for role, token in run.job.tokenizer.special_tokens.items()}
    return read_vocabulary(data, names, where=str(run.store / "tokenizer.json"))
