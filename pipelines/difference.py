"""What became different between two datasets: fields, mixture, vocabulary, and why their fingerprints differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.report.result import AuditResult
from schemas.errors import RequestError
from schemas.manifest import Manifest
from schemas.storage import Location
from transforms.statistics import AuditContext
from transforms.statistics.divergence import FieldChange, compare_fields, count_fields
from transforms.surfaces import Surfaces

_MOST_SHOWN = 12
_MOST_TOKENS = 8

_OF_ROWS = ("seed", "tokenizer", "splits", "objective", "limits.max_record_bytes", "limits.range_bytes")
"""Parts of a job that the dataset's fingerprint covers, beside the sources' files and fields."""

_OF_PLAN = ("mixture", "budget", "limits.block_tokens", "curriculum")
"""Parts that only the plan's fingerprint covers, beside weights and passes."""

_OF_PLAN_SOURCES = ("weight", "max_epochs", "epochs")

_UNCOVERED = ("name", "output", "tokens", "gates")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One difference between two jobs, their tokenizers or their inputs."""

    what: str
    """As the job file writes it, such as `objective.mask_rate`."""
    there: str
    here: str
    covered_by: str
    """`rows`: the dataset's fingerprint. `plan`: the plan's alone. `neither`: it changes no byte."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """How two vocabularies differ."""

    same: bool
    there_ids: int
    here_ids: int
    only_there: tuple[str, ...]
    only_here: tuple[str, ...]
    moved: int
    """Tokens that both have under different ids."""
    used_there: int
    """Ids that occur in train rows."""
    used_here: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What became different from another dataset to this one."""

    there: str
    """Place of the other dataset."""
    there_passed: bool
    """Whether it passes its own gates."""
    fields: tuple[FieldChange, ...]
    """Those that moved most beyond chance first."""
    mixture: tuple[tuple[str, float, float], ...]
    """(source, share there, share here) of train tokens, greatest change first."""
    vocabulary: Vocabulary
    reasons: tuple[Reason, ...]
    same_rows: bool
    """The datasets' fingerprints are equal."""
    same_plan: bool

    @property
    def biggest(self) -> FieldChange | None:
        """The field of both that moved most, None where nothing moved beyond chance."""
        return next((f for f in self.fields if f.both and f.beyond_chance_bits > 0), None)

    def sentence(self) -> str:
        """The difference in one sentence."""
        if self.biggest is None:
            return "Nothing differs beyond chance."
        value, there, here = self.biggest.movers[0]
        return (
            f"The biggest mover is {self.biggest.field}, {self.biggest.divergence_bits:.4f} bits: "
            f"{value!r} {there:.2%} → {here:.2%}."
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "sentence": self.sentence()}


def difference(here: AuditResult, there: AuditResult) -> Difference:
    """What became different from `there` to `here`; reads both tokenizers, writes nothing."""
    names = [_token_names(result.dataset, result.manifest) for result in (there, here)]
    fields = [
        count_fields(
            result.statistics,
            AuditContext.of(result.manifest),
            {s.stage: s.name for s in result.manifest.stages},
            names,
        )
        for result, names in zip((there, here), names, strict=True)
    ]
    shares = [{k: v / max(1, sum(f["source"].values())) for k, v in f.get("source", {}).items()} for f in fields]
    mixture = [(s, shares[0].get(s, 0.0), shares[1].get(s, 0.0)) for s in sorted({**shares[0], **shares[1]})]
    return Difference(
        there=str(there.dataset),
        there_passed=there.passed,
        fields=tuple(compare_fields(*fields)),
        mixture=tuple(sorted(mixture, key=lambda m: (-abs(m[2] - m[1]), m[0]))),
        vocabulary=_vocabulary(there, here, *names),
        reasons=tuple(explain(there.manifest, here.manifest)),
        same_rows=there.manifest.fingerprint == here.manifest.fingerprint,
        same_plan=there.manifest.plan_fingerprint == here.manifest.plan_fingerprint,
    )


def _token_names(dataset: Location, manifest: Manifest) -> list[str]:
    """What each id is called; its number where the tokenizer cannot be read, of which its own gate speaks."""
    try:
        surfaces = Surfaces.of((dataset / "tokenizer.json").read_bytes())
    except (FileNotFoundError, IsADirectoryError, RequestError):
        surfaces = Surfaces({}, "bytes", "##")
    return [surfaces.name(i) for i in range(manifest.tokenizer.vocab_size)]


def _vocabulary(there: AuditResult, here: AuditResult, old: Sequence[str], new: Sequence[str]) -> Vocabulary:
    before, after = ({name: i for i, name in enumerate(names)} for names in (old, new))
    used = [int((r.statistics.token_counts("train") > 0).sum()) for r in (there, here)]
    return Vocabulary(
        same=there.manifest.tokenizer.sha256 == here.manifest.tokenizer.sha256,
        there_ids=len(old),
        here_ids=len(new),
        only_there=tuple(sorted(set(before) - set(after))),
        only_here=tuple(sorted(set(after) - set(before))),
        moved=sum(after.get(name, i) != i for name, i in before.items()),
        used_there=used[0],
        used_here=used[1],
    )


def explain(there: Manifest, here: Manifest) -> list[Reason]:
    """Why two datasets' fingerprints differ, and what differs beside: those that change rows first."""
    reasons: list[tuple[str, str, str, str]] = []
    if there.tokenizer.sha256 != here.tokenizer.sha256:
        reasons.append(("tokenizer.json", there.tokenizer.sha256[:16], here.tokenizer.sha256[:16], "rows"))
    none = "not given"
    jobs = [_flat(_by_name(m.job)) for m in (there, here)]
    paths = sorted({**jobs[0], **jobs[1]})
    reasons += [(p, str(jobs[0].get(p, none)), str(jobs[1].get(p, none)), _cover(p)) for p in paths]
    files = [{(i.source, i.file): f"{i.size_bytes:,} bytes" for i in m.inputs} for m in (there, here)]
    for key in sorted({**files[0], **files[1]}):
        sizes = [f.get(key, "no such file") for f in files]
        reasons.append((f"sources.{key[0]}: {key[1]}", sizes[0], sizes[1], "rows"))
    contents = [{s.name: s.content_sha256[:16] for s in m.sources} for m in (there, here)]
    both = sorted({*contents[0]} & {*contents[1]})
    reasons += [(f"token ids of {s}", contents[0][s], contents[1][s], "rows") for s in both]
    order = {"rows": 0, "plan": 1, "neither": 2}
    found = [Reason(what=w, there=a, here=b, covered_by=c) for w, a, b, c in reasons if a != b]
    return sorted(found, key=lambda r: order[r.covered_by])


def _by_name(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job with its lists of sources and stages by name, so that a changed order is no difference."""
    return {
        **job,
        "sources": {s["name"]: s for s in job.get("sources", ())},
        "curriculum": {s["stage"]: s for s in job.get("curriculum", ())},
    }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            k: v for name, part in value.items() for k, v in _flat(part, f"{path}.{name}" if path else name).items()
        }
    return {path: value}


def _cover(path: str) -> str:
    first = path.split(".")[0]
    if first in _UNCOVERED:
        return "neither"
    if path.startswith(_OF_ROWS):
        return "rows"
    if path.startswith(_OF_PLAN) or path.rsplit(".", 1)[-1] in _OF_PLAN_SOURCES:
        return "plan"
    return "rows" if first == "sources" else "neither"


def show_difference(found: Difference, console: Console) -> None:
    """Print a difference."""
    console.print(f"\n[bold]against {escape(found.there)}[/]", highlight=False)
    if not found.there_passed:
        console.print("[yellow]it fails its own audit, so what differs may be what is wrong there[/]")
    console.print(f"[bold]{escape(found.sentence())}[/]", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("field", "divergence", "by chance", "greatest change"):
        table.add_column(heading, justify="left" if heading in ("field", "greatest change") else "right")
    for f in found.fields[:_MOST_SHOWN]:
        mover = f"{f.movers[0][0]} {f.movers[0][1]:.2%} → {f.movers[0][2]:.2%}" if f.movers else "none"
        table.add_row(escape(f.field), f"{f.divergence_bits:.5f}", f"{f.chance_bits:.5f}", escape(mover))
    console.print(table)
    moved = [m for m in found.mixture if abs(m[2] - m[1]) >= 0.0005]
    text = ", ".join(f"{s} {a:.1%} → {b:.1%}" for s, a, b in moved[:_MOST_SHOWN])
    console.print(f"mixture: {escape(text or 'the same to 0.05 percentage points')}", highlight=False)
    console.print(f"vocabulary: {escape(_vocabulary_text(found.vocabulary))}", highlight=False)
    same = {True: "the same", False: "other"}
    console.print(f"fingerprints: {same[found.same_rows]} rows, {same[found.same_plan]} plan", highlight=False)
    for r in found.reasons[: 2 * _MOST_SHOWN]:
        what = {"rows": "rows", "plan": "plan only", "neither": "no byte"}[r.covered_by]
        console.print(
            f"  {escape(r.what)}: {escape(r.there)} → {escape(r.here)}  [dim]changes {what}[/]", highlight=False
        )
    if not found.reasons:
        console.print("  jobs, tokenizers and inputs are the same")


def _vocabulary_text(v: Vocabulary) -> str:
    used = f"ids used {v.used_there:,} → {v.used_here:,}"
    if v.same:
        return f"the same tokenizer, {v.here_ids:,} ids; {used}"
    parts = [f"{v.there_ids:,} → {v.here_ids:,} ids"]
    for what, tokens in (("gone", v.only_there), ("new", v.only_here)):
        if tokens:
            more = ", …" if len(tokens) > _MOST_TOKENS else ""
            parts.append(f"{len(tokens):,} {what} ({', '.join(tokens[:_MOST_TOKENS])}{more})")
    return "; ".join([*parts, f"{v.moved:,} under another id", used])
