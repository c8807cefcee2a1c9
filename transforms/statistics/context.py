"""What the statistics need to know of a dataset before they read a shard; taken from its manifest."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import DataError
from schemas.keys import draw
from schemas.manifest import Manifest
from schemas.objectives import ObjectiveParameters, known_objectives, parse_objective
from transforms.surfaces import Surfaces


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """The facts against which rows are held. The audit checks them against tokenizer.json by itself."""

    parameters: ObjectiveParameters
    vocab_size: int
    special_ids: dict[str, int]
    """By role."""
    sentinel_ids: tuple[int, ...]
    """Of `<extra_id_0>` and on."""
    is_special: npt.NDArray[np.bool_]
    """bool [vocab_size]; True for ids that never stand for text."""
    sources: tuple[str, ...]
    lengths: dict[int, tuple[int, ...]]
    """Buckets of each stage, ascending."""
    validation_share: float
    fingerprint: str
    seed: int = 0
    """The job's; draws that a row's provenance names can be made again."""
    cuts: tuple[tuple[int, int, int], ...] = ()
    """(document key, copy, token) of documents that a stage's edge cuts, the token being the first behind it."""

    starts_word: npt.NDArray[np.bool_] | None = None
    """bool [vocab_size]; False for ids that continue a word. None where no tokenizer is known or it does not tell."""
    token_bytes: npt.NDArray[np.uint16] | None = None
    """uint16 [vocab_size], bytes of each id's text; None where the tokenizer is not known."""

    @property
    def kind(self) -> str:
        """The objective's kind."""
        return self.parameters.kind

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        surfaces: Surfaces | None = None,
        starts_word: npt.NDArray[np.bool_] | None = None,
    ) -> AuditContext:
        """From a manifest, and what the tokenizer's ids look like and which of them start words.

        Raises:
          DataError: the manifest names an objective that this version does not know.
        """
        kind = manifest.objective.get("kind")
        if kind not in known_objectives():
            raise DataError(
                "The audit does not know this objective",
                where="objective.kind in manifest.json",
                expected=f"one of {', '.join(known_objectives())}",
                got=repr(kind),
                remedy="Audit the dataset with the shardmill that wrote it",
            )
        tokenizer = manifest.tokenizer
        is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
        # An id beyond the vocabulary is for the tokenizer's own gate to report, not a reason to stop here.
        special = {*tokenizer.special_token_ids, *tokenizer.special_ids.values(), *tokenizer.sentinel_ids}
        is_special[[i for i in special if 0 <= i < tokenizer.vocab_size]] = True
        buckets: dict[int, set[int]] = {s.stage: set(s.lengths) for s in manifest.stages}
        for record in manifest.lengths:
            buckets.setdefault(record.stage, set()).add(record.length)
        return cls(
            parameters=parse_objective({k: v for k, v in manifest.objective.items() if k != "resolved"}),
            vocab_size=tokenizer.vocab_size,
            special_ids=dict(tokenizer.special_ids),
            sentinel_ids=tuple(i for i in tokenizer.sentinel_ids if 0 <= i < tokenizer.vocab_size),
            is_special=is_special,
            sources=tuple(s.name for s in manifest.sources),
            lengths={stage: tuple(sorted(lengths)) for stage, lengths in buckets.items()},
            validation_share=float(manifest.job.get("splits", {}).get("validation", 0.0)),
            fingerprint=manifest.fingerprint,
            seed=int(manifest.job.get("seed", 0)),
            starts_word=starts_word if starts_word is not None and len(starts_word) == tokenizer.vocab_size else None,
            token_bytes=None if surfaces is None else surfaces.byte_lengths(tokenizer.vocab_size),
            cuts=tuple(sorted((int(c.doc_key, 16), c.copy_number, c.token) for c in manifest.cuts)),
        )

    @property
    def text_ids(self) -> int:
        """Number of ids that stand for text, V' of the law of random replacements."""
        return int(self.vocab_size - self.is_special.sum())

    @functools.cached_property
    def special_roles(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(special ids, ascending; the ordinal of each one's role by name, one past the last where it has none)."""
        ids = np.flatnonzero(self.is_special)
        ordinal = {self.special_ids[role]: index for index, role in enumerate(sorted(self.special_ids))}
        return ids, np.array([ordinal.get(i, len(self.special_ids)) for i in ids.tolist()], dtype=np.int64)

    @functools.cached_property
    def _special_ranges(self) -> tuple[tuple[np.uint32, np.uint32], ...]:
        """(first, width less one) of two ranges that hold all special ids, parted at the widest gap between them."""
        ids = np.flatnonzero(self.is_special)
        gap = int(np.argmax(np.diff(ids))) + 1 if len(ids) > 1 else len(ids)
        return tuple((np.uint32(r[0]), np.uint32(r[-1] - r[0])) for r in (ids[:gap], ids[gap:]) if len(r))

    def special_places(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Where special ids stand among ids of the vocabulary, ascending.

        Two comparisons find those that may be, and a look into the table which of them are: vocabularies have their
        special ids together, or some at each end.
        """
        may_be = np.zeros(len(ids), dtype=bool)
        for first, width in self._special_ranges:
            may_be |= ids.view(np.uint32) - first <= width
        found = np.flatnonzero(may_be)
        return found[self.is_special[ids[found]]]

    @functools.cached_property
    def any_text_id(self) -> int:
        """An id that stands for text, shown in place of an id outside the vocabulary while it is measured."""
        return int(np.argmin(self.is_special))

    @functools.cached_property
    def token_hashes(self) -> npt.NDArray[np.uint64]:
        """uint64 [vocab_size], 64 random bits for each id."""
        return draw(0, "audit.token", np.arange(self.vocab_size))

    def previous_length(self, stage: int, length: int) -> int:
        """The next shorter bucket of the stage, 0 where there is none: rows of a bucket are longer than this."""
        return max((n for n in self.lengths.get(stage, ()) if n < length), default=0)
