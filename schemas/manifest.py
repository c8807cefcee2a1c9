"""`manifest.json`: written last, says everything a reader needs; without it a dataset does not exist."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from schemas.base import Frozen
from schemas.errors import DataError, RequestError
from schemas.ledger import Ledger
from schemas.place_errors import reading_errors
from schemas.storage import Location
from schemas.tables import FORMAT_VERSION, SHARDS

_SHARD_PATH = r"\Adata/split=[a-z]+/stage=[0-9]+/length=[0-9]+/[0-9]{5,}\.parquet\z"


class TokenizerRecord(Frozen):
    """The tokenizer that made the ids."""

    sha256: str
    vocab_size: Annotated[int, Field(ge=1, le=2**31)]
    special_ids: dict[str, int]
    """By role: pad, unk, cls, sep, mask, bos, eos, fim_prefix …, as far as the vocabulary has them."""
    special_token_ids: list[int]
    """All ids that never stand for text, sentinels included, ascending."""
    sentinel_ids: list[int] = Field(default_factory=list)
    """Of `<extra_id_0>` and on, as far as the vocabulary has them."""

    @property
    def pad_id(self) -> int:
        """What fills rows up: the pad id, else that of the end of sequence, else 0; never attended to."""
        return self.special_ids.get("pad", self.special_ids.get("eos", 0))


class SourceRecord(Frozen):
    """What became of one source."""

    name: str
    weight: float
    """Normalised share of the train split's tokens that the plan gives it."""
    available_tokens: int
    available_documents: int
    planned_tokens: int
    realised_tokens: int
    epochs: float
    """Realised passes over the source's train split."""
    validation_tokens: int
    validation_documents: int
    content_sha256: str
    """Of the token store's parts in order: what the ids were."""


class StageRecord(Frozen):
    """What became of one stage of the train split."""

    stage: int
    name: str
    lengths: list[int]
    planned_tokens: int
    realised_tokens: int
    sources: dict[str, dict[str, int]]
    """By source: `{"planned_tokens", "realised_tokens"}`."""


class LengthRecord(Frozen):
    """What became of one length bucket."""

    split: str
    stage: int
    length: int
    rows: int
    tokens: int
    """Of `input_ids`, special tokens included."""
    padding: float
    """Share of padding when every row is padded to `length`."""


class CutDocument(Frozen):
    """A document that the end of a stage runs through; the next stage begins with its rest."""

    source: str
    stage: int
    """That ends there."""
    doc_key: str
    """16 hex digits."""
    copy_number: int
    """Which pass over the source."""
    token: int
    """The document's first token behind the cut."""


class InputRecord(Frozen):
    """An input file as it was when it was read."""

    source: str
    file: str
    size_bytes: int
    mtime_ns: int


class Totals(Frozen):
    """Sums over all shards."""

    rows: int
    tokens: int
    corpus_tokens: int
    shards: int
    bytes: int


class Manifest(Frozen):
    """The dataset's manifest."""

    format_version: int = FORMAT_VERSION
    name: str
    fingerprint: str
    """What the rows are made of; every shard carries it too."""
    plan_fingerprint: str
    """What decides how much of each source goes where."""
    shardmill_version: str
    job: dict[str, Any]
    tokenizer: TokenizerRecord
    objective: dict[str, Any]
    """`kind`, the parameters with their defaults, and `resolved`: one entry a length."""
    sources: list[SourceRecord]
    stages: list[StageRecord]
    lengths: list[LengthRecord]
    cuts: list[CutDocument] = Field(default_factory=list)
    """One for each source and stage of the train split at most."""
    inputs: list[InputRecord]
    ledger: Ledger
    totals: Totals

    def to_json(self) -> bytes:
        """Indented JSON with keys in the order of the fields."""
        return (json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(dataset: Location) -> Manifest:
    """The manifest of a dataset.

    Raises:
      RequestError: there is no dataset at that place, or it is of another format version.
      DataError: the manifest is damaged.
    """
    place = dataset / "manifest.json"
    try:
        raw = json.loads(place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        unfinished = (dataset / "plan.parquet").exists() or (dataset / "data").exists()
        no_bucket = not (dataset.is_local or dataset.root.exists())
        missing = f"no bucket {dataset.root}" if no_bucket else "no manifest.json"
        raise RequestError(
            "There is no finished dataset here",
            where=str(dataset),
            expected="a directory with manifest.json, which `shardmill prepare` writes last",
            got="an unfinished dataset" if unfinished else missing,
            remedy="Run `shardmill prepare` to its end" if unfinished else "Give a dataset's directory",
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError("The manifest is damaged", where=str(place), got=str(error)) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise RequestError(
            "The dataset is of another format version",
            where=str(place),
            expected=f"format_version {FORMAT_VERSION}",
            got=repr(version),
            remedy="Read it with the shardmill that wrote it, or prepare it again",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            "The manifest is damaged",
            where=f"{place}, at {'.'.join(map(str, first['loc']))}",
            got=first["msg"],
        ) from error


@contextlib.contextmanager
def manifest_errors(dataset: Location) -> Iterator[None]:
    """Say that the manifest is damaged where a value in it is of the right type and still makes no sense.

    Raises:
      DataError: for what a calculation from the manifest's values raised within the block.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise DataError(
            "The manifest is damaged: a value in it makes no sense",
            where=str(dataset / "manifest.json"),
            got=f"{type(error).__name__}: {error}",
            remedy="Restore the manifest, or prepare the dataset again",
        ) from error


def read_shards(dataset: Location, columns: Sequence[str] = SHARDS.names) -> pa.Table:
    """The index of shards, `shards.parquet`, in the order of the plan; of it some columns, `path` among them.

    Raises:
      DataError: the index is missing, damaged, or names anything but a shard within the dataset.
    """
    place = dataset / "shards.parquet"
    try:
        with reading_errors(place), place.open_input() as source:
            # ParquetFile, since read_table would first import pyarrow.dataset, a tenth of a second
            table = pq.ParquetFile(source).read(columns=list(columns)).select(columns)
            table = table.cast(pa.schema([SHARDS.field(name) for name in columns]))
    except (FileNotFoundError, pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise DataError("The index of shards cannot be read", where=str(place), got=str(error)) from error
    good = pc.fill_null(pc.match_substring_regex(table["path"], _SHARD_PATH), False)
    for path in table["path"].filter(pc.invert(good)).slice(0, 1).to_pylist():
        raise DataError(
            "The index of shards names a path that is no shard's",
            where=str(place),
            expected="data/split=…/stage=…/length=…/NNNNN.parquet, within the dataset",
            got=repr(path),
        )
    return table
