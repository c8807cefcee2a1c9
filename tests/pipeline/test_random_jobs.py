"""Jobs that are drawn at random end with all gates passed and a model that trains on them, or are refused.

    SHARDMILL_JOBS=500 pytest -m slow tests/pipeline/test_random_jobs.py

Examples that people write have parameters that people write. These have any that the job file allows: rates up to 1,
rows of 12 tokens, stages of some of the sources, objectives on tokenizers that nobody pairs them with.
"""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_jobs import job_for, write_job, write_jsonl

from pipelines.cli import main

KINDS = ["mlm", "mlm", "replaced_token", "sentence_pair", "sentence_pair", "causal", "fim", "prefix_lm", "infilling"]
KINDS += ["span_corruption", "ul2"]
JOBS = int(os.environ.get("SHARDMILL_JOBS", "30"))


def share(draw: random.Random, most: float = 1.0) -> float:
    """In [0, most], the ends as often as what is between."""
    return round(draw.choice([0.0, most, draw.uniform(0, most), draw.uniform(0, most)]), 3)


def masking(draw: random.Random) -> dict[str, Any]:
    shown = share(draw)
    masks: dict[str, Any] = {
        "mask_rate": round(draw.uniform(0.02, draw.choice([0.2, 1.0])), 3),
        "selection": draw.choice(["exact", "bernoulli", "ngram", "span"]),
        "whole_word": draw.random() < 0.5,
        "mask_replace_prob": shown,
        "random_replace_prob": round(share(draw, 1 - shown), 2) if shown < 1 else 0.0,
        "short_sequence_rate": draw.choice([0.0, 0.1, share(draw)]),
    }
    if masks["selection"] == "ngram":
        masks["max_ngram"] = draw.choice([1, 2, 3, 16])
    if masks["selection"] == "span":
        masks |= {"span_geometric_p": round(draw.uniform(0.05, 0.9), 2), "max_span_words": draw.choice([1, 5, 64])}
    if masks["selection"] != "bernoulli" and draw.random() < 0.3:
        masks["max_predictions"] = draw.choice([1, 4, 20])
    return masks


def objective(draw: random.Random) -> dict[str, Any]:
    kind = draw.choice(KINDS)
    found: dict[str, Any] = {"kind": kind}
    if kind in ("mlm", "replaced_token"):
        return found | masking(draw) | {"pack": draw.choice(["document", "sentences", "full"])}
    if kind == "sentence_pair":
        return found | masking(draw) | draw.choice([{"random_next_prob": share(draw)}, {"task": "sop"}])
    packs = {"causal": ["concat", "best_fit", "decompose"], "prefix_lm": ["document", "concat"], "fim": ["best_fit"]}
    found["pack"] = draw.choice(packs.get(kind, ["document", "full"]))
    if kind == "fim":
        found |= {"fim_rate": share(draw), "spm_rate": share(draw)}
    if kind == "infilling":
        found |= {"mask_ratio": round(draw.uniform(0.01, 1), 2), "poisson_lambda": draw.choice([1, 3, 30])}
        found["permute_sentences"] = share(draw)
    if kind == "span_corruption":
        found |= {
            "noise_density": round(draw.uniform(0.02, 0.9), 2),
            "mean_noise_span_length": draw.choice([1, 3, 12]),
        }
    return found


def curriculum(draw: random.Random) -> list[dict[str, Any]]:
    least = draw.choice([12, 16, 31, 64])
    lengths = sorted({least, *(draw.randint(least, 3 * least) for _ in range(draw.randint(0, 3)))})
    stages: list[dict[str, Any]] = []
    for number in range(draw.choice([1, 2, 3])):
        stage: dict[str, Any] = {"stage": f"s{number}", "lengths": [n * (number + 1) for n in lengths]}
        if draw.random() < 0.2:
            stage |= {"lengths": "auto", "max_length": 128}
        if draw.random() < 0.3:
            stage["mixture"] = {"web": 1, "wiki": draw.choice([1, 3])}
        stages.append(stage)
    return stages if draw.random() < 0.7 else stages[::-1]


def random_job(draw: random.Random, corpus: Path) -> dict[str, Any]:
    model = draw.choice(["wordpiece", "bpe", "unigram"])
    tiny = [{"id": f"tiny-{i}", "text": draw.choice(["kan lin", "Mis.", "shura vos tako"])} for i in range(2000)]
    write_jsonl(corpus / "tiny.jsonl", tiny)
    job = job_for(
        corpus,
        seed=draw.randrange(2**31),
        tokenizer={"train": {"model": model, "vocab_size": 700, "sample_bytes": "100kB"}},
        objective=objective(draw),
        curriculum=curriculum(draw),
        budget=draw.choice([{"tokens": 3000}, {"epochs": round(draw.uniform(0.3, 4), 2)}]),
        splits={"validation": draw.choice([0, 0.1])},
    )
    job["sources"].append({"name": "tiny", "files": "corpus/tiny.jsonl", "id": "id"})
    for source in job["sources"]:
        source.pop("weight", None)
    job["mixture"] = draw.choice(
        [
            {"policy": "proportional"},
            {"policy": "temperature", "temperature": draw.choice([0.5, 2, 10])},
            {"policy": "unimax", "max_epochs": draw.choice([1, 3]), "on_shortfall": "shrink"},
        ]
    )
    return job


@pytest.mark.slow
@pytest.mark.parametrize("number", range(JOBS))
def test_a_job_drawn_at_random_passes_and_trains_or_is_refused(
    number: int, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.loop import TrainSettings, train

    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, random_job(random.Random(f"job {number}"), corpus))
    code = main(["prepare", str(job), "--direct_num_workers=1"])
    shown = capsys.readouterr()
    text = f"{job.read_text()}\n{shown.out}{shown.err}"
    assert "failed unexpectedly" not in text
    if code == 2 or "expected train rows, observed 0" in text:
        return  # refused, or documents of which no row can be made
    assert code == 0, text
    assert main(["verify", "out"]) == 0
    settings = TrainSettings(
        dataset="out", out="run", steps=2, tokens_per_batch=2048, eval_batches=1, device="cpu", tensorboard=False
    )
    assert train(settings, console=Console(file=io.StringIO())).finished
