"""`shardmill prepare`: tokenizer, tokenize, plan, materialize, finish and audit; resumes by itself."""

from __future__ import annotations

import json
import time

from pydantic import ValidationError
from rich.markup import escape

from pipelines import plan
from pipelines.audit import audit_dataset, audit_is_current, map_reduce_on, where_to_run, write_audit
from pipelines.engine import Engine
from pipelines.finish import finish, source_contents
from pipelines.materialize import materialize
from pipelines.run import Run
from pipelines.tokenize import Sidecars, finished_sidecars, tokenize
from pipelines.tokenizer import ensure_tokenizer
from schemas.counts import format_bytes, format_count
from schemas.errors import RequestError
from schemas.job import Job
from schemas.manifest import Manifest, read_manifest, read_shards
from schemas.plan import write_plan
from transforms.mixture import mix
from transforms.vocabulary import Vocabulary


def prepare(run: Run) -> int:
    """Everything from raw files to an audited dataset.

    Returns:
      0, or 1 if a gate of the audit fails.

    Raises:
      RequestError: the job cannot be done as written, or the output holds another dataset.
      DataError: the data is bad.
    """
    began = time.monotonic()
    run.check()
    manifest = finished_manifest(run)
    if manifest is None:
        run.say(f"[bold]{escape(run.job.name)}[/] → {escape(str(run.output))}  [dim]fingerprint {run.fingerprint}[/]")
        with run.lock():
            manifest = _build(run)
    elif audit_is_current(run.output):
        run.say(f"{escape(str(run.output))} is finished and matches the job; nothing to do")
        return 0 if _summary(run, manifest, began) else 1
    with run.lock():
        run.output.remove_temporaries()  # an earlier run may have been killed in its audit
        _audit(run)
    return 0 if _summary(run, manifest, began) else 1


def tokenize_only(run: Run) -> int:
    """The `tokenize` command: tokenizer and token store."""
    run.check()
    finished_manifest(run)  # another job's dataset keeps its token store
    with run.lock():
        run.store.remove_temporaries()
        tokenize(run, ensure_tokenizer(run))
    return 0


def train_only(run: Run) -> int:
    """The `tokenizer` command."""
    finished_manifest(run)  # another job's dataset keeps its tokenizer
    with run.lock():
        vocabulary = ensure_tokenizer(run)
    run.say(f"{run.store / 'tokenizer.json'}: {vocabulary.size:,} tokens, sha256 {vocabulary.sha256}")
    return 0


def materialize_only(run: Run) -> int:
    """The `materialize` command: plan and shards from a complete token store, without the audit.

    Raises:
      RequestError: the token store is not complete.
    """
    run.check()
    if finished_manifest(run) is not None:
        run.say(f"{escape(str(run.output))} is finished and matches the job; nothing to do")
        return 0
    with run.lock():
        vocabulary = ensure_tokenizer(run)
        _, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
        if todo:
            raise RequestError(
                "The token store is not complete",
                where=str(run.store),
                expected="a part for every input range",
                got=f"{len(todo)} ranges still to do, the first of source {todo[0].source!r}",
                remedy="Run `shardmill tokenize` first, or `shardmill prepare`, which does all steps",
            )
        run.output.remove_temporaries()
        _materialize_and_finish(run, vocabulary, sidecars)
    return 0


def _build(run: Run) -> Manifest:
    run.output.remove_temporaries()
    run.store.remove_temporaries()
    vocabulary = ensure_tokenizer(run)
    return _materialize_and_finish(run, vocabulary, tokenize(run, vocabulary))


def _materialize_and_finish(run: Run, vocabulary: Vocabulary, sidecars: Sidecars) -> Manifest:
    made = plan.make(run, sidecars, vocabulary)
    run.resolved_objective(vocabulary, [stage.lengths for stage in made.stages])
    plan.say(run, made)
    # From here on blocks may change, and until all have there is no dataset.
    (run.output / "manifest.json").remove()
    write_plan(run.output / "plan.parquet", made.table)
    commits = materialize(run, made, sidecars, vocabulary)
    return finish(run, made, sidecars, commits, vocabulary)


def finished_manifest(run: Run) -> Manifest | None:
    """The manifest of the finished dataset in the job's output, None if there is work to do.

    There is also work to do where the job's budget or curriculum changed since, as long as its first stage still
    begins as it did: blocks that stay as they are are kept.

    Raises:
      RequestError: the output holds another job's dataset, or this job's from other inputs.
    """
    if not (run.output / "manifest.json").info():
        return None
    manifest = read_manifest(run.output)
    same_plan = manifest.plan_fingerprint == run.plan_fingerprint
    if manifest.fingerprint != run.fingerprint or not (same_plan or _extends(run, manifest)):
        what = "The output directory holds another job's dataset"
        if manifest.fingerprint == run.fingerprint:
            what = "The output directory holds this job's dataset with another mixture or lengths from the start"
        got = f"{manifest.name!r}, fingerprint {manifest.fingerprint}, plan {manifest.plan_fingerprint}"
        raise _refusal(run, what, got)
    if not _same_inputs(run, manifest):
        raise _refusal(
            run,
            "The output directory holds a dataset of this job, made from inputs that have changed since",
            f"fingerprint {manifest.fingerprint} of the earlier contents",
        )
    if not same_plan:
        run.say(
            f"{escape(str(run.output))} holds this job's dataset by an earlier budget or curriculum; "
            "its blocks are kept where they stay as they are"
        )
        return None
    for shard in read_shards(run.output).select(["path", "bytes"]).to_pylist():
        info = (run.output / shard["path"]).info()
        if info is None or info.size_bytes != shard["bytes"]:
            run.say(f"  [yellow]note[/] {shard['path']} is missing or cut short; it is written again")
            return None
    return manifest


def _extends(run: Run, manifest: Manifest) -> bool:
    """True if the first stage has the mixture, lengths and block size of the finished dataset's, so begins alike."""
    available = {s.name: s.available_tokens for s in manifest.sources}
    try:
        earlier = Job.model_validate(manifest.job)
    except ValidationError:
        return False  # a job of another version
    firsts = [
        (mix(job, available)[0][0].shares, job.curriculum[0].lengths, job.curriculum[0].max_length)
        for job in (earlier, run.job)
    ]
    return firsts[0] == firsts[1] and earlier.limits.block_tokens == run.job.limits.block_tokens


def _same_inputs(run: Run, manifest: Manifest) -> bool:
    """True if the inputs are as they were: by size and time, or, where only the time differs, by contents."""
    now = {(name, f.file, f.size_bytes, f.mtime_ns) for name, files in run.inputs.items() for f in files}
    if now == {(i.source, i.file, i.size_bytes, i.mtime_ns) for i in manifest.inputs}:
        return True
    with run.lock():
        vocabulary = ensure_tokenizer(run)
        _, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
        if todo:
            run.say("  [yellow]note[/] input files have new modification times; tokenizing them again to compare")
            sidecars = tokenize(run, vocabulary)
    return source_contents(sidecars) == {s.name: s.content_sha256 for s in manifest.sources}


def _refusal(run: Run, what: str, got: str) -> RequestError:
    return RequestError(
        what,
        where=str(run.output),
        expected=f"an empty directory, or the dataset of this job: fingerprint {run.fingerprint}, "
        f"plan {run.plan_fingerprint}",
        got=got,
        remedy="The dataset was not touched. Give the job another `output`, or delete the directory yourself",
    )


def _audit(run: Run) -> None:
    began = time.monotonic()
    # Workers that a job asked for are for its tokens; a small dataset is audited sooner without them.
    engine = Engine(debug=run.engine.debug) if run.engine.is_local else run.engine
    large = where_to_run(engine, run.output) is not None
    with run.console.status("  auditing the shards"):
        result = audit_dataset(run.output, map_reduce=map_reduce_on(run.engine, run.output) if large else None)
        write_audit(result, run.output)
    failed = [g for g in result.gates if not g.passed]
    verdict = (
        f"[red]{len(failed)} of {len(result.gates)} gates fail[/]" if failed else f"{len(result.gates)} gates pass"
    )
    run.say(f"[bold]audit[/]        {verdict}  [dim]{time.monotonic() - began:.1f} s[/]")
    for gate in failed:
        run.say(f"  [red]{gate.name}[/] expected {escape(str(gate.expected))}, observed {escape(str(gate.observed))}")


def _summary(run: Run, manifest: Manifest, began: float) -> bool:
    """Say what there is now; returns whether the audit passed."""
    totals = manifest.totals
    report = json.loads((run.output / "audit" / "audit.json").read_bytes())
    run.say(
        f"[bold green]dataset[/]      {escape(str(run.output))}: {totals.rows:,} examples, "
        f"{format_count(totals.corpus_tokens)} corpus tokens, {totals.shards} shards, {format_bytes(totals.bytes)}  "
        f"[dim]{time.monotonic() - began:.1f} s in all[/]"
    )
    run.say(f"report       {run.output / 'audit' / 'report.html'}")
    return bool(report["passed"])
