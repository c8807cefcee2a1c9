"""Every recipe is a job that runs out of the box, with the numbers its comments say."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import pytest
from small_jobs import WORDS, Shardmill, manifest_of, shards_of, write_jsonl

import transforms.objectives.registry  # noqa: F401 - a job file can name the objectives that are imported
from pipelines.recipe import Changes, fill_in, recipe_names, recipe_text
from schemas.errors import RequestError
from schemas.job import Job
from schemas.jobfile import parse_job
from transforms.objectives.registry import objective_for
from transforms.vocabulary import Vocabulary, future_vocabulary

ONE = "--direct_num_workers=1"
NAMES = ("albert", "bart", "bert", "code-fim", "electra", "gpt", "roberta", "spanbert", "t5", "ul2")


def job_of(name: str) -> Job:
    return parse_job(recipe_text(name), where=name)


def vocabulary_of(job: Job) -> Vocabulary:
    assert job.tokenizer.train is not None
    return future_vocabulary(job.tokenizer.train.vocab_size)


def comments(text: str) -> list[str]:
    """Comments in order; the recipes have no # elsewhere."""
    return [line.split("#", 1)[1] for line in text.splitlines() if "#" in line]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of several sentences each, of very different lengths, some far longer than any row."""
    draw = random.Random("stories")
    rows = []
    for i in range(70):
        sentences = [
            " ".join(draw.choices(WORDS, k=draw.randint(1, 25))).capitalize()
            for _ in range(max(1, int(draw.expovariate(1 / 30))))
        ]
        rows.append({"id": str(i), "text": ". ".join(sentences) + "."})
    folder = tmp_path_factory.mktemp("stories")
    write_jsonl(folder / "stories.jsonl", rows)
    return folder


def test_the_recipes_are_these() -> None:
    assert tuple(recipe_names()) == NAMES


def test_a_wheel_would_carry_the_recipes() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert "recipes/*.yaml" in project["tool"]["setuptools"]["package-data"]["pipelines"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_job_whose_objective_resolves_at_its_lengths(name: str) -> None:
    """Fails if a recipe names a key, a kind or a length that the objective does not take."""
    job = job_of(name)
    assert job.name == name
    objective = objective_for(job.objective, vocabulary_of(job))
    for stage in job.curriculum:
        for length in stage.lengths:
            assert objective.resolve(length)["length"] == length


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_where_its_numbers_are_from(name: str) -> None:
    text = recipe_text(name)
    assert all(len(line) <= 118 for line in text.splitlines())
    assert "arXiv" in text.splitlines()[0]
    assert "# file: tokenizer.json" in text
    assert sum("aper, " in c or "ode: " in c or "ode, " in c for c in comments(text)) >= 4


@pytest.mark.parametrize(
    ("name", "steps_rows_tokens", "corpus_tokens"),
    [
        ("albert", [(125_000, 4096, 512 - 3)], 3.3e9),
        ("bart", [(500_000, 8000, 512 - 2)], 33e9),
        ("bert", [(900_000, 256, 128 - 3), (100_000, 256, 512 - 3)], 3.3e9),
        ("electra", [(1_000_000, 128, 128 - 2)], 3.3e9),
        ("gpt", [(1, 1, 300e9)], 499e9),
        ("roberta", [(500_000, 8192, 512 - 2)], 33e9),
        ("spanbert", [(2_400_000, 256, 512 - 2)], 3.3e9),
    ],
)
def test_budgets_and_shares_follow_from_the_papers_steps(
    name: str, steps_rows_tokens: list[tuple[int, int, float]], corpus_tokens: float
) -> None:
    """Fails if a budget or a stage's share is not what steps · rows · tokens of a row come to."""
    job = job_of(name)
    tokens = [steps * rows * length for steps, rows, length in steps_rows_tokens]
    assert job.budget.epochs == pytest.approx(sum(tokens) / corpus_tokens, rel=0.01)
    assert [stage.share for stage in job.curriculum] == pytest.approx([t / sum(tokens) for t in tokens], abs=1e-4)


def test_t5_rows_are_as_long_as_the_comment_says() -> None:
    job = job_of("t5")
    resolved = objective_for(job.objective, vocabulary_of(job)).resolve(512)
    assert (resolved["raw_tokens"], resolved["target_length"]) == (568, 114)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_out_of_the_box(name: str, stories: Path, tmp_path: Path, shardmill: Shardmill) -> None:
    """Fails if what a recipe asks for cannot be built, breaks a law of the audit, or is not all in the dataset."""
    options = ["--files", f"{stories}/*.jsonl", "--budget", "1.5 epochs", "--vocab-size", "600"]
    path = tmp_path / "job.yaml"
    path.write_text(shardmill("recipe", name, *options))
    assert "gates pass" in shardmill("prepare", path, ONE)
    out = tmp_path / "out" / name
    shardmill("verify", out)
    assert shardmill("show", out, "-n", "1")
    assert manifest_of(out)["objective"]["kind"] == job_of(name).objective.kind
    buckets = set(shards_of(out)["bucket"].to_pylist())
    assert buckets == {length for stage in job_of(name).curriculum for length in stage.lengths}


def test_without_a_name_the_recipes_are_listed(shardmill: Shardmill) -> None:
    shown = shardmill("recipe")
    for name in NAMES:
        (line,) = (line for line in shown.splitlines() if line.split(" ")[0] == name)
        assert "arXiv" in line


@pytest.mark.parametrize("name", NAMES)
def test_without_options_a_recipe_is_printed_as_it_is(name: str, shardmill: Shardmill) -> None:
    assert shardmill("recipe", name) == recipe_text(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_filled_in_is_in_the_job_and_all_comments_stay(name: str) -> None:
    """Fails if an option is lost, or if a comment is, which is most of what a recipe is worth."""
    changes = Changes(files=("a/*.jsonl", "b.txt"), text="body", output="elsewhere", budget="2M", vocab_size="9k")
    filled = fill_in(name, changes)
    job, recipe = parse_job(filled), job_of(name)
    (source,) = job.sources
    assert (source.files, source.text, job.output) == (["a/*.jsonl", "b.txt"], "body", "elsewhere")
    assert (job.budget.tokens, job.budget.epochs) == (2_000_000, None)
    assert job.tokenizer.train is not None
    assert job.tokenizer.train.vocab_size == 9000
    assert comments(filled) == comments(recipe_text(name))
    same = {"sources", "budget", "output", "tokenizer"}
    assert job.model_dump(exclude=same) == recipe.model_dump(exclude=same)


def test_a_budget_may_be_in_passes() -> None:
    job = parse_job(fill_in("bert", Changes(budget="1.5 epochs")))
    assert (job.budget.tokens, job.budget.epochs) == (None, 1.5)
    assert len(job.sources) == 2


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a b.jsonl",
            "it's.jsonl",
            'say "x".jsonl',
            "a, b.txt",
            "[x]/{y}.txt",
            "a: b.txt",
            "a #b.txt",
            "ä/日本.txt",
        ),
        *(
            "s3://bucket/x-*.parquet",
            "*.jsonl",
            "true",
            "1e3",
            "null",
            "~/x.txt",
            "\\d.txt",
            "&a.txt",
            "a\\1.txt",
            "-",
        ),
    ],
)
def test_any_path_can_be_filled_in(path: str) -> None:
    """Fails if a path that means something in YAML or in a pattern becomes another one, or another key."""
    job = parse_job(fill_in("gpt", Changes(files=(path,), text=path, output=path)))
    assert (job.sources[0].files, job.sources[0].text, job.output) == ([path], path, path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bret"], "Did you mean 'bert'?"),
        (["bert", "--budget", "many"], "training tokens such as 2M"),
        (["bert", "--budget", "0"], "greater than 0"),
        (["bert", "--vocab-size", "large"], "a whole number"),
        (["bert", "--vocab-size", "12"], "greater than or equal to 384"),
        (["bert", "--text", "body"], "--files"),
        (["--files", "x.txt"], "Write the name first"),
        (["bert", "--stages", "2"], "takes no '--stages'"),
    ],
)
def test_a_wrong_request_is_one_paragraph_with_a_remedy(
    arguments: list[str], said: str, shardmill: Shardmill
) -> None:
    shown = shardmill("recipe", *arguments, expect=2)
    assert said in " ".join(shown.split())
    assert shown.startswith("error: ")


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(RequestError, match="no recipe 'gtp'"):
        recipe_text("gtp")
