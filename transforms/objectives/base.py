"""What every objective is: parameters → resolved numbers → examples → law.

An objective is one module with a class that implements `ObjectiveBuilder`; `transforms.objectives` registers
it. Building is a pure function of (documents, keys, copies, seed, parameters): the same document, copy and seed
give the same masks in any block, batch or neighbourhood.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import RequestError
from schemas.tables import EXAMPLES
from transforms.ragged import Ragged, concatenate
from transforms.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Documents of one source and one pass over it, as they enter an objective."""

    ids: Ragged
    """int32, without special tokens; every document has at least one token."""
    keys: npt.NDArray[np.uint64]
    """[documents]."""
    copy: int
    """Which pass over the source."""

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples of one source before they are sorted into length buckets."""

    input_ids: Ragged
    """int32, special tokens included."""
    doc_keys: Ragged
    """uint64, the pieces' documents in order."""
    doc_offsets: Ragged
    """int64, first token of each piece within its document."""
    doc_lengths: Ragged
    """int32, corpus tokens of each piece."""
    copy: npt.NDArray[np.int32]
    """[rows]."""
    lists: dict[str, Ragged] = field(default_factory=dict)
    """The objective's own list columns."""
    scalars: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    """The objective's own scalar columns."""
    losses: dict[str, int] = field(default_factory=dict)
    """Corpus tokens that are in no example, by reason."""

    def __len__(self) -> int:
        return len(self.copy)

    def to_table(self, kind: str, source: str) -> pa.Table:
        """As a table with the dataset's schema of this kind of objective."""
        schema = EXAMPLES[kind]
        columns: dict[str, Any] = {
            "input_ids": self.input_ids,
            "length": self.input_ids.lengths.astype(np.int32),
            "source": pa.DictionaryArray.from_arrays(np.zeros(len(self), np.int32), pa.array([source])),
            "doc_keys": self.doc_keys,
            "doc_offsets": self.doc_offsets,
            "doc_lengths": self.doc_lengths,
            "copy": self.copy,
            **self.lists,
            **self.scalars,
        }
        arrays = [
            c.to_arrow(f.type.value_type) if isinstance(c := columns[f.name], Ragged) else pa.array(c, type=f.type)
            for f in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


class ObjectiveBuilder(Protocol):
    """The interface of an objective."""

    kind: str

    def resolve(self, length: int) -> dict[str, Any]:
        """Every number that follows from the parameters at this bucket length.

        Raises:
          RequestError: the objective cannot make rows of this length.
        """

    def build(self, documents: Documents, *, longest: int, seed: int) -> Examples:
        """Examples of at most `longest` tokens from these documents."""

    def row_lengths(
        self, doc_lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, longest: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(row lengths, how many rows of each) that documents of these lengths become, for the plan's preview."""


def require_length(kind: str, length: int, least: int, why: str) -> None:
    """Refuse a length with no room for a corpus token beside the special tokens."""
    if length < least:
        raise RequestError(
            f"A length of {length} is too short for {kind}",
            where="curriculum lengths",
            expected=f"at least {least}, {why}",
            got=str(length),
            remedy="Give longer lengths",
        )


def require_token(vocabulary: Vocabulary, kind: str, role: str) -> int:
    """The id of a special token the objective cannot do without.

    Raises:
      RequestError: the vocabulary has no token of this role.
    """
    found = vocabulary.special_ids.get(role)
    if found is None:
        raise RequestError(
            f"The tokenizer has no {role!r} token, which {kind} needs",
            where="tokenizer",
            expected=f"a special token for {role!r}, such as {', '.join(vocabulary.usual_names(role))}",
            got=f"special tokens for {', '.join(sorted(vocabulary.special_ids)) or 'nothing'}",
            remedy=f"Name it in the job file as `tokenizer: {{special_tokens: {{{role}: …}}}}`, or train a tokenizer",
        )
    return found


def join_examples(parts: list[Examples]) -> Examples:
    """The rows of all parts, in order; there must be at least one part."""
    first = parts[0]
    return Examples(
        input_ids=concatenate([p.input_ids for p in parts], np.int32),
        doc_keys=concatenate([p.doc_keys for p in parts], np.uint64),
        doc_offsets=concatenate([p.doc_offsets for p in parts], np.int64),
        doc_lengths=concatenate([p.doc_lengths for p in parts], np.int32),
        copy=np.concatenate([p.copy for p in parts]),
        lists={n: concatenate([p.lists[n] for p in parts], first.lists[n].flat.dtype) for n in first.lists},
        scalars={n: np.concatenate([p.scalars[n] for p in parts]) for n in first.scalars},
        losses={k: sum(p.losses.get(k, 0) for p in parts) for k in sorted({k for p in parts for k in p.losses})},
    )
