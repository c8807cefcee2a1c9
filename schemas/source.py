"""A source in the job file: a named corpus, the fields to read of its records, and how its sentences are found."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from schemas.base import Count, Frozen

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

LANGUAGES = tuple(
    "am ar bg bn de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk zh".split()  # noqa: SIM905
)
"""What the splitter, sentencex, has rules for; it takes any other code for English without a word. Catalan and Danish
are left out: for these it compiles a regular expression at every full stop, 50 kB a second (sentencex 1.0.32)."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _safe_folder(value: str) -> str:
    if ".." in value:
        raise ValueError("must not contain '..'")
    if value.endswith((".json", ".parquet")):
        raise ValueError("must not end like a file of the token store, .json or .parquet")
    return value


def _known_language(value: str) -> str:
    if value not in LANGUAGES:
        raise ValueError(
            f"the sentence splitter has no rules for the language {value!r}; known: {', '.join(LANGUAGES)}; take "
            "one of like punctuation, such as en, or `sentences: lines` where each line is a sentence"
        )
    return value


Name = Annotated[str, Field(pattern=_NAME, max_length=80), AfterValidator(_safe_folder)]
"""A name that is safe as a folder: letters, digits, `_`, `-` and single dots; starts with a letter or digit."""

Weight = Annotated[float, Field(ge=0)]
"""A share of tokens; weights need not add to one."""


class Source(Frozen):
    """A named corpus with a weight."""

    name: Name
    """Unique; becomes a folder of the token store."""
    files: Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])] = Field(
        default_factory=list
    )
    """Paths or globs, local, s3:// or gs://; relative ones are relative to the job file."""
    format: Literal["auto", "jsonl", "parquet", "txt", "lines"] = "auto"
    """`auto` goes by suffix. `txt`: documents separated by blank lines. `lines`: one document a line."""
    text: str = "text"
    """Field or column that holds the text (jsonl and parquet)."""
    input: str | None = None
    """In place of `text`, with `target`: field or column of the text that is given, where records are pairs."""
    target: str | None = None
    """Field or column of the text that is to be written."""
    prefix: str = ""
    """Goes before each input, such as `"translate English to French: "`; no part of the corpus' bytes."""
    id: str | None = None
    """Field or column that identifies a document; default: file name and position."""
    sentences: Literal["split", "lines"] = "split"
    """Where the objective reads sentences. `split`: a rule-based splitter finds them. `lines`: each line is one."""
    language: Annotated[str, AfterValidator(_known_language)] = "en"
    """Of the text, for the splitter: a two-letter code."""
    weight: Weight | None = None
    """Share of the training tokens; omit all weights to mix in proportion to the tokens available. Under `mixture:
    {policy: epochs}` not used, but checked against the passes."""
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """Most passes over this source."""
    epochs: Annotated[float, Field(ge=0)] | None = None
    """Passes over this source, for `mixture: {policy: epochs}`; tokens and budget follow. Under `policy: weights` not
    used, but checked against weights and budget."""
    tokens: Count | None = None
    """Tokens available, in place of `files`, to plan without data."""

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        if bool(self.files) == (self.tokens is not None):
            raise ValueError("give exactly one of `files` and `tokens`")
        if (self.input is None) != (self.target is None):
            given, lacking = ("input", "target") if self.target is None else ("target", "input")
            raise ValueError(f"`{given}` is given without `{lacking}`; a pair needs both, a document has a `text`")
        if self.input is None:
            if self.prefix:
                raise ValueError("`prefix` goes before the `input` of pairs; give `input` and `target` too")
            return self
        if self.input == self.target:
            raise ValueError(f"`input` and `target` name the same field {self.input!r}; a pair has two")
        if self.text != "text":
            raise ValueError(
                f"give `text` for documents or `input` and `target` for pairs, got `text: {self.text}` too"
            )
        if self.format in ("txt", "lines"):
            raise ValueError(
                f"`input` and `target` are fields of jsonl or parquet; a file of format {self.format} has none"
            )
        return self

    @property
    def holds_pairs(self) -> bool:
        """True if a record is an input and a target."""
        return self.input is not None

    @property
    def text_fields(self) -> tuple[tuple[str, str], ...]:
        """(key of the job file, field or column of a record) of each text of a record."""
        if self.input is None or self.target is None:
            return (("text", self.text),)
        return (("input", self.input), ("target", self.target))
