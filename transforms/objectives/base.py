"""What every objective is: parameters → resolved numbers → columns → examples → law → how a row is drawn.

An objective is one module with one class derived from `Objective`, beside the class of its parameters; defining it
makes it known. Building is a pure function of (documents, keys, copy, seed, parameters): the same document, copy and
seed give the same masks in any block, batch or neighbourhood.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import RequestError
from schemas.objectives import ObjectiveParameters
from schemas.tables import Column, example_schema
from transforms.objectives.drawing import Drawing
from transforms.ragged import Int64, Ragged
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:  # laws are judged by what measures and judges; a builder needs neither
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Documents of one source and one pass over it, as they enter an objective."""

    ids: Ragged
    """int32, without special tokens; every document has at least one token."""
    keys: npt.NDArray[np.uint64]
    """[documents]."""
    copy: int
    """Which pass over the source."""
    sentence_ends: Ragged | None = None
    """int32, ascending token offsets of sentence ends, the last the document's end; if the objective reads them."""
    targets: Ragged | None = None
    """int32, the targets' tokens; if the objective reads pairs."""
    begins: Int64 | None = None
    """[documents], the token at which a document begins here, where a stage's edge cut off what is before it; None
    for 0 throughout."""
    goes_on: npt.NDArray[np.bool_] | None = None
    """[documents], which of them a stage's edge cuts off before their end; None for none."""

    def __len__(self) -> int:
        return len(self.keys)

    def first_tokens(self, doc: Int64) -> Int64:
        """Where the documents of these indices begin, in tokens of the whole document."""
        return np.zeros(len(doc), np.int64) if self.begins is None else self.begins[doc]

    @property
    def ends(self) -> npt.NDArray[np.bool_]:
        """[documents], which of them end here, and so are followed by an end-of-sequence token if any is."""
        return np.ones(len(self), bool) if self.goes_on is None else ~self.goes_on

    @property
    def tokens(self) -> int:
        """Corpus tokens of all documents."""
        return len(self.ids.flat) + (len(self.targets.flat) if self.targets is not None else 0)


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
    scalars: dict[str, npt.NDArray[np.generic] | pa.Array] = field(default_factory=dict)
    """The objective's own scalar columns."""
    losses: dict[str, int] = field(default_factory=dict)
    """Corpus tokens that are in no example, by reason."""
    gains: dict[str, int] = field(default_factory=dict)
    """Corpus tokens that are in more examples than one, by reason."""

    def __len__(self) -> int:
        return len(self.copy)

    def to_table(self, columns: Sequence[Column], source: str) -> pa.Table:
        """As a table with the columns every example has and the objective's own."""
        schema = example_schema(columns)
        values: dict[str, Any] = {
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
            c.to_arrow(f.type.value_type) if isinstance(c := values[f.name], Ragged) else pa.array(c, type=f.type)
            for f in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


Law = tuple[tuple[str, ...], str]
"""A law of rows that holds without exception: the figures that count what breaks it, and the law in words."""

_KNOWN: dict[str, type[Objective]] = {}


class Objective(ABC):
    """An objective with its parameters, for one vocabulary."""

    parameters_class: ClassVar[type[ObjectiveParameters]]
    """The class of its parameters; its `kind` names the objective."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """Columns beside those that every example has."""
    laws: ClassVar[Mapping[str, Law]] = {}
    """The gates of its laws without exception, by name."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if (parameters := cls.__dict__.get("parameters_class")) is not None:
            _KNOWN[parameters.model_fields["kind"].default] = cls

    @classmethod
    @abstractmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> Self:
        """The objective for a vocabulary.

        Raises:
          RequestError: the vocabulary lacks what the objective needs.
        """

    @abstractmethod
    def resolve(self, length: int) -> dict[str, Any]:
        """Every number that follows from the parameters at this bucket length, `length` first.

        Raises:
          RequestError: the objective cannot make rows of this length.
        """

    @abstractmethod
    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Examples of these documents for buckets of these lengths, ascending; none is longer than the last."""

    @abstractmethod
    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """(row lengths, how many rows of each) that documents of these lengths become, for the plan's preview."""

    @staticmethod
    @abstractmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Add the figures of rows of this objective; each is named in `laws` or judged in `gates`."""

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """Gates beyond `laws`: counts, shares and distributions against the objective's law."""
        return []

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """What of a row is hidden and what is to be predicted; a row's values by column."""
        return Drawing()


def known_objective(kind: str) -> type[Objective]:
    """The class of a kind of objective; KeyError where its module is not imported."""
    return _KNOWN[kind]


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


def require_word_starts(vocabulary: Vocabulary, key: str) -> npt.NDArray[np.bool_]:
    """Which ids start a word, bool [size], for an objective that counts in words.

    Raises:
      RequestError: the tokenizer does not tell.
    """
    if vocabulary.starts_word is None:
        raise RequestError(
            "This tokenizer does not tell where words start",
            where=f"objective.{key}",
            expected="WordPiece (##), byte-level BPE (Ġ) or Metaspace (▁)",
            remedy=f"Leave {key} out, or use another tokenizer",
        )
    return vocabulary.starts_word
