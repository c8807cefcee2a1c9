"""Shown rows say what the model sees, with and without colour, and are the same ones every time."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tiny_dataset import make_dataset
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from pipelines.show import Example, pick_examples, show
from schemas.errors import DataError, RequestError
from schemas.manifest import read_manifest, read_shards
from schemas.storage import Location
from transforms.objectives.mlm import Mlm
from transforms.objectives.span_corruption import SpanCorruption
from transforms.surfaces import Surfaces


def printed(dataset: Location, **options) -> str:  # type: ignore[no-untyped-def]
    target = io.StringIO()
    show(dataset, console=Console(file=target, soft_wrap=True, width=100), **options)
    return target.getvalue()


def test_masked_places_are_readable_without_colour(mlm_dataset: Location) -> None:
    text = printed(mlm_dataset, n=6)
    assert "\x1b[" not in text
    assert "[MASK=" in text
    assert "[kept " in text
    assert "→" in text
    assert "[CLS]" in text
    assert "books · train · stage 0 short · length 16" in text
    assert "[MASK=x] masked, x is the label" in text


def test_colour_is_used_on_a_terminal(mlm_dataset: Location) -> None:
    target = io.StringIO()
    show(mlm_dataset, console=Console(file=target, force_terminal=True, color_system="standard", width=100))
    assert "\x1b[1;31m[MASK=" in target.getvalue()


def test_causal_rows_show_where_documents_begin(causal_dataset: Location) -> None:
    examples = pick_examples(causal_dataset, n=4)
    several = [e for e in examples if len(e.documents) > 1]
    assert several
    for example in several:
        starts = [s for s in example.spans if s.kind == "boundary"]
        assert len(starts) == len(example.documents) - 1
        ends = [s.text for s in example.spans if s.kind == "special"]
        assert set(ends) - {" [UNK]"} == {" [EOS]"}
        assert len(ends) >= len(starts)
    assert "[document " in printed(causal_dataset, n=4)


def row_of(dataset: Location, example: Example) -> dict[str, Any]:
    table = pq.read_table((dataset / example.path).uri, partitioning=None)
    return dict(table.slice(example.row, 1).to_pylist()[0])


def test_packed_rows_show_where_documents_begin_between_their_masks(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, Mlm(pack="full"), blocks=1)
    several = [e for e in pick_examples(dataset, n=8) if len(e.documents) > 1]
    assert several
    surfaces = Surfaces.of((dataset / "tokenizer.json").read_bytes())
    for example in several:
        row = row_of(dataset, example)
        parts = "".join(s.text for s in example.spans).split("\n[document ")
        assert len(parts) == len(example.documents)
        for part, (key, offset, _) in zip(parts[1:], example.documents[1:], strict=True):
            assert part.startswith(f"{key:016x} from token {offset}]\n")
        # Each part ends with its piece's separator.
        assert all(part.rstrip().endswith("[SEP]") for part in parts)
        kinds = Counter(s.kind for s in example.spans)
        assert sum(kinds[k] for k in ("mask", "random", "kept")) == len(row["mask_positions"])
        for kind, pattern in (("mask", r"\[MASK=(.*)\]"), ("kept", r"\[kept (.*)\]"), ("random", r"\[(.*)→.*\]")):
            texts = [re.fullmatch(pattern, s.text) for s in example.spans if s.kind == kind]
            labels = {surfaces.text([label]).strip() for label in row["mask_labels"]}
            assert all(found and found.group(1) in labels for found in texts)


def test_sentinels_show_the_tokens_that_the_target_gives_back(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, SpanCorruption(), blocks=1)
    surfaces = Surfaces.of((dataset / "tokenizer.json").read_bytes())
    for example in pick_examples(dataset, n=4):
        row = row_of(dataset, example)
        shown = [s.text for s in example.spans if s.kind == "sentinel"]
        target = surfaces.text(row["target_ids"])
        assert len(shown) == sum(surfaces.name(t).startswith("<extra_id_") for t in row["input_ids"])
        for i, text in enumerate(shown):
            name, hidden = text.removeprefix("[").removesuffix("]").split("=")
            assert name == f"<extra_id_{i}>"
            assert hidden
            assert f"{name} {hidden}" in target or f"{name}{hidden}" in target  # a span may begin within a word
    assert "a sentinel stands for x" in printed(dataset, n=2)


def test_a_shown_row_is_the_shards_row(mlm_dataset: Location) -> None:
    decoded = Tokenizer.from_file((mlm_dataset / "tokenizer.json").uri)
    for example in pick_examples(mlm_dataset, n=5):
        row = row_of(mlm_dataset, example)
        assert example.tokens == len(row["input_ids"])
        assert example.source == row["source"]
        kinds = [s.kind for s in example.spans if s.kind in ("mask", "random", "kept")]
        assert len(kinds) == len(row["mask_positions"])
        mask_texts = [s.text for s in example.spans if s.kind == "mask"]
        mask_id = decoded.token_to_id("[MASK]")
        labels = [
            decoded.id_to_token(label).removeprefix("##")
            for place, label in zip(row["mask_positions"], row["mask_labels"], strict=True)
            if row["input_ids"][place] == mask_id
        ]
        assert mask_texts == [f"[MASK={label}]" for label in labels]


def test_the_same_rows_every_time_spread_over_sources_and_lengths(mlm_dataset: Location) -> None:
    first, again = pick_examples(mlm_dataset, n=6), pick_examples(mlm_dataset, n=6)
    assert first == again
    assert {e.source for e in first} == {"books", "code"}
    assert len({(e.path, e.row) for e in first}) == 6
    assert first[0].length < first[-1].length


def test_rows_are_chosen_by_split_stage_and_length(mlm_dataset: Location) -> None:
    for stage in (1, "long", "1"):
        for example in pick_examples(mlm_dataset, n=3, split="validation", stage=stage, length=128):
            assert (example.split, example.stage, example.length) == ("validation", 1, 128)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"split": "trian"}, ["'trian'", "train, validation", "did you mean 'train'"]),
        ({"stage": 7}, ["stage 7", "0, 1"]),
        ({"stage": "middle"}, ["'middle'", "0, 1"]),
        ({"length": 48}, ["length 48", "16, 32, 64, 128"]),
        ({"stage": 0, "length": 128}, ["length 128", "stage 0", "16, 32, 64"]),
        ({"n": 0}, ["-n", "at least 1"]),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(
    options: dict, names: list[str], mlm_dataset: Location
) -> None:  # type: ignore[type-arg]
    with pytest.raises(RequestError) as error:
        pick_examples(mlm_dataset, **options)
    for name in names:
        assert name.lower() in error.value.paragraph().lower()


def test_a_damaged_shard_and_a_missing_tokenizer_are_data_errors(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    (dataset / "tokenizer.json").remove()
    with pytest.raises(DataError, match="tokenizer cannot be read"):
        show(dataset, console=Console(file=io.StringIO()))
    dataset = make_dataset(tmp_path)
    for path in read_shards(dataset)["path"].to_pylist():
        (dataset / path).write_bytes(b"")
    with pytest.raises(DataError, match="shard cannot be read"):
        show(dataset, console=Console(file=io.StringIO()))


def test_long_rows_are_cut_and_say_so(mlm_dataset: Location) -> None:
    example = pick_examples(mlm_dataset, n=1, length=128, most_tokens=10)[0]
    assert example.spans[-1].text == f" … {example.tokens - 10:,} more tokens"


def test_byte_level_pieces_join_into_characters_and_cut_ones_show_as_such() -> None:
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    surfaces = Surfaces.of(tokenizer.to_str().encode())
    ids = tokenizer.encode("naïve 語\n").ids
    assert surfaces.text(ids) == "naïve 語\n"
    assert surfaces.text(ids[:3]) == "na�"


def test_metaspace_pieces_and_byte_fallback_are_read() -> None:
    surfaces = Surfaces({0: "▁the", 1: "<0xC3>", 2: "<0xA9>"}, "metaspace", "##")
    assert surfaces.text([0, 1, 2]) == " theé"


def test_the_manifest_of_the_fixture_is_what_show_reads(mlm_dataset: Location) -> None:
    assert read_manifest(mlm_dataset).objective["kind"] == "mlm"
    assert json.loads((mlm_dataset / "tokenizer.json").read_bytes())["model"]["type"] == "WordPiece"
