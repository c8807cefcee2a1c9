"""The probe learns what a table tells, and says what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_datasets import write_dataset
from test_training import LEARNABLE, cyclic

from trainer.loop import TrainSettings, train
from trainer.probe import main, read_tsv


def write_table(path: Path, rows: int, seed: int) -> Path:
    """Whether a sentence's words count up or down."""
    rng = np.random.default_rng(seed)
    lines = ["sentence\tlabel"]
    for up in rng.random(rows) < 0.5:
        words = [f"w{7 + (rng.integers(20) + i) % 20}" for i in range(6)]
        lines.append(f"{' '.join(['w30' if up else 'w31', *words])}\t{int(up)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_saved_model_learns_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", objective="mlm", specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    settings = TrainSettings(
        dataset=data, out=tmp_path / "run", steps=2, tokens_per_batch=64, device="cpu", tensorboard=False
    )
    train(settings, console=Console(quiet=True))
    # The test's tokenizer has no rule for parting words, so the table's words are parted here.
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import WhitespaceSplit

    place = tmp_path / "run/final/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(place))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(place))
    tables = [
        str(write_table(tmp_path / f"{n}.tsv", rows, seed))
        for seed, (n, rows) in enumerate((("train", 200), ("dev", 60)))
    ]
    assert main([str(tmp_path / "run/final"), *tables, "--epochs", "2", "--learning-rate", "2e-3"]) == 0
    shown = capsys.readouterr().out
    assert float(shown.split("accuracy ")[1].split("%")[0]) > 90


def test_pairs_and_named_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('sentence1\tsentence2\tlabel\na "b\tc\tyes\n')
    assert read_tsv(path).texts == [('a "b', "c")]
    assert read_tsv(path, texts=["sentence2"], label="sentence1").labels == ['a "b']


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("a\tb\n1\t2\n", "--text"),
        ("sentence\tlabel\n", "no rows"),
        ("sentence\tlabel\nx\n", "line 2"),
        (None, "No such"),
    ],
)
def test_a_bad_table_is_one_paragraph(
    content: str | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = tmp_path / "t.tsv", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    if content is not None:
        table.write_text(content)
    assert main([str(model), str(table), str(table)]) == 2
    assert named in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no"), "a.tsv", "b.tsv"]) == 2
    assert "no saved model" in capsys.readouterr().err
