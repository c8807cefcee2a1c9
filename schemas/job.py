"""The job file's data model: what to read, how to mix it, and which examples to make of it.

`schemas.jobfile` loads it from YAML; nothing here touches a file.
"""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from schemas.base import Count, Frozen, Share
from schemas.gates import GATES
from schemas.mixture import Budget, Mixture
from schemas.objectives import Objective, parse_objective
from schemas.source import Name, Source, Weight


class TrainTokenizer(Frozen):
    """A vocabulary to train on a seeded, weighted sample of the sources' training documents."""

    model: Literal["wordpiece", "bpe", "unigram"]
    """`wordpiece` (BERT), `bpe` (byte-level, GPT-2) or `unigram` (SentencePiece, T5)."""
    vocab_size: Annotated[int, Field(ge=384, le=2_000_000)] = 30522
    """Entries of the vocabulary, special tokens included."""
    lowercase: bool = False
    """Lowercase and strip accents first (`wordpiece` and `unigram`)."""
    sample_bytes: Count = 32_000_000
    """UTF-8 bytes of text to train on."""

    @model_validator(mode="after")
    def _bytes_keep_their_case(self) -> TrainTokenizer:
        if self.model == "bpe" and self.lowercase:
            raise ValueError("byte-level bpe keeps the text as it is: lowercase applies to wordpiece and unigram")
        return self


class TokenizerSpec(Frozen):
    """An existing `tokenizer.json`, or a vocabulary to train."""

    file: str | None = None
    """Path of a Hugging Face `tokenizer.json`."""
    train: TrainTokenizer | None = None
    """How to train one."""
    special_tokens: dict[
        Literal[
            "pad",
            "unk",
            "cls",
            "sep",
            "mask",
            "bos",
            "eos",
            "fim_prefix",
            "fim_middle",
            "fim_suffix",
            "nlu",
            "nlg",
            "s2s",
        ],
        str,
    ] = Field(default_factory=dict)
    """Names of special tokens by role, where the usual names do not tell."""

    @model_validator(mode="after")
    def _one_of(self) -> TokenizerSpec:
        if (self.file is None) == (self.train is None):
            raise ValueError("give exactly one of `file` and `train`")
        return self


class Splits(Frozen):
    """Shares of documents held out, chosen by document key."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of documents that are never trained on."""


Length = Annotated[int, Field(ge=1, le=1_048_576)]
"""Tokens of a row, special tokens included."""

_AUTO_MAX_LENGTH = 512


class Stage(Frozen):
    """A step of the curriculum."""

    stage: Name
    """Name, unique."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the budget; omit all to divide it equally."""
    lengths: Annotated[
        Annotated[Literal["auto"], Tag("auto")]
        | Annotated[list[Length], Field(min_length=1, max_length=64), Tag("list")],
        Discriminator(lambda value: "auto" if isinstance(value, str) else "list"),
    ]
    """Length buckets in tokens, ascending. Documents are cut for the longest. `auto`: at most 8 multiples of 8, those
    with the least padding for the stage's mixture."""
    max_length: Length | None = None
    """Of `lengths: auto`: what documents are cut for, 512 by default."""
    mixture: dict[str, Weight] | None = None
    """Weights of this stage; sources not named get none."""

    @field_validator("lengths")
    @classmethod
    def _ascending(cls, lengths: Literal["auto"] | list[int]) -> Literal["auto"] | list[int]:
        if lengths != "auto" and any(a >= b for a, b in pairwise(lengths)):
            raise ValueError(f"lengths must ascend without repeats, got {lengths}; write {sorted(set(lengths))}")
        return lengths

    @model_validator(mode="after")
    def _one_longest(self) -> Stage:
        if self.max_length is not None and self.lengths != "auto":
            raise ValueError("`max_length` is for `lengths: auto`; of given lengths the last is the longest")
        return self

    @property
    def declared_lengths(self) -> list[int]:
        """The lengths, as far as the job file says them: of `auto` the longest there may be."""
        return [self.max_length or _AUTO_MAX_LENGTH] if self.lengths == "auto" else self.lengths


class Bound(Frozen):
    """A user's bound on a figure of the audit."""

    min: float | None = None
    """Least value that passes."""
    max: float | None = None
    """Greatest value that passes."""

    @model_validator(mode="after")
    def _not_empty(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("give `min`, `max` or both")
        return self


class Limits(Frozen):
    """Bounds and sizes with defaults that suit most jobs."""

    max_reject_share: Share = 0.01
    """Share of a source's records that may be rejected before the run fails."""
    range_bytes: Count = 16 * 2**20
    """Bytes of one input range of a line-based or Parquet file."""
    max_record_bytes: Annotated[Count, Field(ge=1024)] = 8 * 2**20
    """A longer record is rejected as `too_long`. Where texts are encoded whole, tokenizing takes about 120 bytes of
    memory a byte of the longest."""
    block_tokens: Count | None = None
    """Corpus tokens of a block, the unit of work of `materialize`; default by the tokens available (1M to 32M)."""


_ALL_ONCE = Budget(epochs=1.0)


class Job(Frozen):
    """A whole job. See the README for an example."""

    name: Name
    """Name of the dataset."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """All order and all masks follow from it."""
    output: str
    """Directory of the dataset."""
    tokens: str | None = None
    """Directory of the token store, which jobs may share; default `<output>/tokens`."""
    tokenizer: TokenizerSpec
    sources: Annotated[list[Source], Field(min_length=1)]
    mixture: Mixture = Mixture()
    budget: Budget = _ALL_ONCE
    splits: Splits = Splits()
    objective: Objective = Field(default_factory=lambda: parse_objective({"kind": "mlm"}))
    curriculum: Annotated[list[Stage], Field(min_length=1)] = Field(
        default_factory=lambda: [Stage(stage="main", share=1.0, lengths=[128, 256, 512])]
    )
    gates: dict[str, Bound] = Field(default_factory=dict)
    """Bounds on figures of the audit, beyond the built-in gates."""
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Job:
        names = [s.name for s in self.sources]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"sources: two sources are named {repeated[0]!r}; names must be unique")
        if folded := sorted({n.lower() for n in names if [m.lower() for m in names].count(n.lower()) > 1}):
            raise ValueError(f"sources: names that differ only in case share a folder on some disks: {folded[0]!r}")
        given = [s.weight is not None for s in self.sources]
        if any(given) and not all(given):
            missing = [s.name for s in self.sources if s.weight is None]
            raise ValueError(f"sources: weight given for some sources but not for {', '.join(missing)}")
        if all(given) and not any(s.weight for s in self.sources):
            raise ValueError("sources: all weights are zero; give at least one source a positive weight")
        self._check_policy()
        stages = [s.stage for s in self.curriculum]
        if repeated := sorted({n for n in stages if stages.count(n) > 1}):
            raise ValueError(f"curriculum: two stages are named {repeated[0]!r}; names must be unique")
        shares = [s.share for s in self.curriculum]
        if any(x is None for x in shares) and any(x is not None for x in shares):
            raise ValueError("curriculum: share given for some stages but not for others")
        total = sum(x for x in shares if x is not None)
        if shares[0] is not None and abs(total - 1) > 1e-6:
            raise ValueError(
                f"curriculum: the stages' shares must add to 1, got {total:g}; divide each by that, or leave out all "
                "for equal stages"
            )
        for stage in self.curriculum:
            if stage.mixture is None:
                continue
            if unknown := sorted(set(stage.mixture) - set(names)):
                raise ValueError(
                    f"curriculum: the mixture of stage {stage.stage!r} names {unknown[0]!r}, which is no source; "
                    f"sources: {', '.join(names)}"
                )
            if not any(stage.mixture.values()):
                raise ValueError(f"curriculum: all weights in the mixture of stage {stage.stage!r} are zero")
        if unknown := sorted(set(self.gates) - set(GATES)):
            raise ValueError(f"gates: no gate is named {unknown[0]!r}; known: {', '.join(sorted(GATES))}")
        self._require_what_the_objective_reads()
        return self

    def _require_what_the_objective_reads(self) -> None:
        for source in self.sources:
            if self.objective.reads_pairs and source.files and not source.holds_pairs:
                raise ValueError(
                    f"sources: the objective {self.objective.kind} reads pairs, but source {source.name!r} names no "
                    "`input` and `target`; give the fields of both in place of `text`, or choose another objective"
                )
            if source.holds_pairs and not self.objective.reads_pairs:
                raise ValueError(
                    f"sources: source {source.name!r} names an `input` and a `target`, but the objective "
                    f"{self.objective.kind} reads documents; give `text` in place of both, or choose an objective of "
                    "pairs such as seq2seq"
                )

    def _check_policy(self) -> None:
        """Weights and passes belong to policies; each of these two policies checks what the other uses."""
        policy = self.mixture.policy
        if policy not in ("weights", "epochs"):
            if any(s.weight is not None for s in self.sources):
                raise ValueError(
                    "sources: weights are for mixture policy: weights, and for epochs, which checks them, "
                    f"got policy: {policy}; leave them out"
                )
            if given := [s.name for s in self.sources if s.epochs is not None]:
                raise ValueError(
                    f"sources: `epochs` of {given[0]!r} is for mixture policy: epochs, and for weights, which checks "
                    f"it, got policy: {policy}; leave it out, or bound the passes with `max_epochs`"
                )
        if policy != "epochs":
            return
        if lacking := [s.name for s in self.sources if s.epochs is None]:
            raise ValueError(
                f"sources: mixture policy: epochs needs `epochs` of every source; {lacking[0]!r} has none"
            )
        if not any(s.epochs for s in self.sources):
            raise ValueError("sources: all `epochs` are zero; give at least one source a positive number of passes")
        if "budget" in self.model_fields_set and self.budget.tokens is None:
            raise ValueError(
                "budget: under mixture policy: epochs the budget follows from the passes; leave it out, "
                "or give the `tokens` you expect, to have them checked"
            )

    @property
    def in_effect(self) -> Job:
        """The job without the numbers that its policy only checks: neither vocabulary nor plan follows from them."""
        unused = {"weights": "epochs", "epochs": "weight"}.get(self.mixture.policy)
        if unused is None:
            return self
        sources = [s.model_copy(update={unused: None}) for s in self.sources]
        budget = _ALL_ONCE if self.mixture.policy == "epochs" else self.budget
        return self.model_copy(update={"sources": sources, "budget": budget})

    @property
    def planned_without_data(self) -> bool:
        """True if some source gives `tokens` in place of files."""
        return any(s.tokens is not None for s in self.sources)

    def source(self, name: str) -> Source:
        """The source of that name."""
        return next(s for s in self.sources if s.name == name)

    def stage_shares(self) -> list[Fraction]:
        """Each stage's share of the budget, exact, adding to one."""
        shares = [Fraction(str(s.share)) if s.share is not None else Fraction(1) for s in self.curriculum]
        return [x / sum(shares) for x in shares]

    def canonical(self) -> dict[str, Any]:
        """The job as plain JSON values with every default filled in."""
        return dict(json.loads(self.model_dump_json()))
