"""A job's declared numbers: published tables as job files, and rounding alone is never blamed."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from test_table_linter import PILE
from unit_helpers import cases, job

import transforms.objectives.registry  # noqa: F401  (makes the objectives known)
from schemas.job import Job
from schemas.jobfile import parse_job
from transforms.declared import declared_problems
from transforms.mixture import mix
from transforms.table_linter import Interval, Problem

# Brown et al. 2020, GPT-3, arXiv 2005.14165, table 2.2, as one writes it in a job file.
GPT3 = """
name: gpt-3
output: out
tokenizer: {file: tokenizer.json}
sources:
  - {name: CommonCrawl, tokens: 410e9, weight: 0.60, epochs: 0.44}
  - {name: WebText2, tokens: 19e9, weight: 0.22, epochs: 2.9}
  - {name: Books1, tokens: 12e9, weight: 0.08, epochs: 1.9}
  - {name: Books2, tokens: 55e9, weight: 0.08, epochs: 0.43}
  - {name: Wikipedia, tokens: 3e9, weight: 0.03, epochs: 3.4}
budget: {tokens: 300e9}
"""
BY_PASSES = "mixture: {policy: epochs}\n"
PERCENT = GPT3.replace("0.60", "60").replace("0.22", "22").replace("0.08", "8").replace("0.03", "3")


def problems(text: str, available: dict[str, int] | None = None) -> list[Problem]:
    made = parse_job(text)
    return declared_problems(made, available or {})


def named(found: list[Problem]) -> list[str]:
    return [name for p in found for name in p.rows]


def pile_job(**changes: dict[str, Any]) -> str:
    """The Pile's table 1 in units of 1e9 in place of GiB, with these keys of sources replaced."""
    sources = []
    for line in PILE.split("\n")[1:-1]:
        name, raw, weight, epochs, _ = line.split()
        share = float(Decimal(weight).scaleb(-2))
        sources.append({"name": name, "tokens": f"{raw}e9", "weight": share, "epochs": float(epochs)})
        sources[-1].update(changes.get(name, {}))
    return yaml.safe_dump(
        {
            "name": "pile",
            "output": "out",
            "tokenizer": {"file": "tokenizer.json"},
            "sources": sources,
            "budget": {"tokens": "1254.20e9"},
        }
    )


# Published tables as jobs


@pytest.mark.parametrize("text", [GPT3, GPT3 + BY_PASSES, PERCENT], ids=["weights", "epochs", "percent"])
def test_gpt3s_table_names_webtext2_alone_whatever_the_policy_uses(text: str) -> None:
    (problem,) = problems(text)
    assert problem.rows == ("WebText2",)
    for words in ("2.9 passes over 19B tokens are 52.725B to 57.525B", "300B", "agrees with its share"):
        assert words in problem.message
    assert problems(text.replace("2.9", "3.4")) == []
    assert named(problems(text.replace("0.44", "0.54"))) == ["CommonCrawl", "WebText2"]


def test_gpt3s_table_names_webtext2_where_the_budget_follows_from_the_passes() -> None:
    text = GPT3.replace("budget: {tokens: 300e9}", BY_PASSES)
    assert named(problems(text)) == ["WebText2"]
    assert problems(text.replace("2.9", "3.4")) == []


@pytest.mark.parametrize("policy", ["", BY_PASSES], ids=["weights", "epochs"])
def test_the_piles_table_closes_and_one_wrong_cell_is_named(policy: str) -> None:
    assert problems(pile_job() + policy) == []
    assert named(problems(pile_job(ArXiv={"epochs": 2.2}) + policy)) == ["ArXiv"]
    assert named(problems(pile_job(Books3={"weight": 0.1107}) + policy)) == ["Books3"]
    assert named(problems(pile_job(FreeLaw={"tokens": "61.15e9"}) + policy)) == ["FreeLaw"]


# Rules


def two(available: dict[str, int], *, budget: Any = None, policy: str = "weights", **columns: Any) -> list[Problem]:
    """Problems of a job of sources a and b, counted, with these (a, b) of each key."""
    sources = [
        {"name": n, "files": [n], **{k: v[i] for k, v in columns.items() if v[i] is not None}}
        for i, n in enumerate("ab")
    ]
    made = job(sources=sources, mixture={"policy": policy}, **({"budget": budget} if budget else {}))
    return declared_problems(made, available)


COUNTED = {"a": 1_000_000, "b": 3_000_000}


def test_passes_that_follow_from_weights_and_budget_agree_and_others_do_not() -> None:
    given = {"budget": {"tokens": 2_000_000}, "weight": (0.75, 0.25)}
    assert two(COUNTED, epochs=(1.5, 0.17), **given) == []
    assert two(COUNTED, epochs=(1.5, None), **given) == []
    (problem,) = two(COUNTED, epochs=(2, 0.17), **given)
    assert problem.rows == ("a",)
    assert "a share of 0.75 is 1.49M to 1.51M, but 2 passes over 1M tokens are 1.95M to 2.05M" in problem.message
    # Passes over counted tokens that are used are as good a table.
    assert two(COUNTED, policy="epochs", epochs=(1.5, 0.5), weight=(0.5, 0.5)) == []
    assert named(two(COUNTED, policy="epochs", epochs=(1.5, 0.5), weight=(0.75, 0.25))) == ["a", "b"]
    assert two(COUNTED, policy="epochs", epochs=(1.5, 0.5), budget={"tokens": "3M"}) == []
    (problem,) = two(COUNTED, policy="epochs", epochs=(1.5, 0.5), budget={"tokens": "4M"})
    assert problem.rows == ()
    assert "no more than 3.2M tokens, short of a total of 4M" in problem.message


def test_weights_that_add_to_one_only_as_rounded_are_shares() -> None:
    def first(weights: list[float], passes: float) -> list[str]:
        sources = [{"name": f"s{i}", "files": [f"s{i}"], "weight": w} for i, w in enumerate(weights)]
        sources[0]["epochs"] = passes
        made = job(sources=sources, budget={"tokens": 10**9})
        return named(declared_problems(made, {s["name"]: 10**9 for s in sources}))

    # 1.01 in all, as rounded 0.985 to 1.035: 0.6 is 0.595 to 0.605 and not 0.6/1.01 = 0.594.
    adds_to_one = [0.60, 0.22, 0.08, 0.08, 0.03]
    assert first(adds_to_one, 0.602) == []
    assert first(adds_to_one, 0.594) == ["s0"]
    # 1.10 in all is no rounding: 0.6 is 0.6/1.1 = 0.545.
    adds_to_more = [0.60, 0.22, 0.08, 0.08, 0.12]
    assert first(adds_to_more, 0.602) == ["s0"]
    assert first(adds_to_more, 0.545) == []


def test_other_weights_count_over_their_sum() -> None:
    # 30 to 70 in any unit is 0.3; as rounded, 29.5/100 to 30.5/100.
    for weight in ((30, 70), (3.0, 7.01), (1.5, 3.5)):
        assert two(COUNTED, budget={"tokens": "1M"}, weight=weight, epochs=(0.3, None)) == []
    assert two(COUNTED, budget={"tokens": "1M"}, weight=(30, 70), epochs=(0.304, None)) == []
    (problem,) = two(COUNTED, budget={"tokens": "1M"}, weight=(30, 70), epochs=(0.307, None))
    assert "a share of 0.3 is 295000 to 305000" in problem.message


def test_without_weights_the_sources_are_taken_in_proportion_and_passes_have_to_agree() -> None:
    assert two(COUNTED, budget={"epochs": 1.5}, epochs=(1.5, 1.5)) == []
    assert named(two(COUNTED, budget={"epochs": 1.5}, epochs=(1.8, 1.4))) == ["a", "b"]
    # Tokens by hand and a budget in passes over them are as uncertain as each other.
    sources = [{"name": n, "tokens": t, "epochs": 1.5} for n, t in (("a", "19e9"), ("b", "410e9"))]
    assert declared_problems(job(sources=sources, budget={"epochs": 1.5}), {}) == []


def test_a_budget_in_passes_is_not_cut_to_whole_tokens_before_it_is_compared() -> None:
    third = 0.3333333333333333
    assert two({"a": 5, "b": 8}, budget={"epochs": third}, epochs=(third, third)) == []


def test_a_stage_with_a_mixture_of_its_own_counts_by_its_share() -> None:
    stages = [
        {"stage": "p", "share": 0.75, "lengths": [8]},
        {"stage": "q", "share": 0.25, "lengths": [8], "mixture": {"b": 2.0}},
    ]
    sources = [
        {"name": "a", "files": ["a"], "weight": 0.4, "epochs": 0.30},
        {"name": "b", "files": ["b"], "weight": 0.6, "epochs": 0.23},
    ]
    made = job(sources=sources, curriculum=stages, budget={"tokens": 1_000_000})
    planned, _ = mix(made, COUNTED)
    assert sum(s.tokens.get("a", 0) for s in planned) == 300_000
    assert declared_problems(made, COUNTED) == []
    even = job(sources=sources, budget={"tokens": 1_000_000})
    assert named(declared_problems(even, COUNTED)) == ["a", "b"]
    nothing = [{"stage": "p", "lengths": [8], "mixture": {"b": 1}}]
    never = job(sources=sources, curriculum=nothing, budget={"tokens": 1_000_000})
    assert "a share of 0 is 0, but" in declared_problems(never, COUNTED)[0].message


def test_nothing_is_said_of_a_source_whose_tokens_are_not_counted() -> None:
    given = {"budget": {"tokens": 2_000_000}, "weight": (0.75, 0.25), "epochs": (9.0, 9.0)}
    assert named(two(COUNTED, **given)) == ["a", "b"]
    assert named(two({"b": 3_000_000}, **given)) == ["b"]
    assert two({"b": 3_000_000}, **{**given, "budget": {"epochs": 0.5}}) == []
    assert two({"a": 0, "b": 0}, epochs=(1, 1)) == []


@pytest.mark.parametrize(
    "mixture",
    [
        {"policy": "weights"},
        {"policy": "proportional"},
        {"policy": "temperature", "temperature": 2},
        {"policy": "unimax", "max_epochs": 2},
    ],
    ids=lambda m: m["policy"],
)
def test_a_job_that_declares_no_more_than_its_policy_uses_has_no_problem(mixture: dict[str, Any]) -> None:
    sources = [{"name": n, "files": [n]} for n in "ab"]
    assert declared_problems(job(sources=sources, mixture=mixture), COUNTED) == []
    stages = [{"stage": "p", "lengths": [8], "mixture": {"a": 1}}]
    assert declared_problems(job(sources=sources, mixture=mixture, curriculum=stages), COUNTED) == []


@pytest.mark.parametrize("weight", [(0.34, 0.67), (2, 1), (60, 16), (0.9, 0), (1, 1)], ids=str)
def test_weights_or_passes_alone_are_never_a_problem(weight: tuple[float, float]) -> None:
    assert two(COUNTED, weight=weight, budget={"tokens": "1M"}) == []
    assert two(COUNTED, weight=weight) == []
    assert two(COUNTED, epochs=weight, policy="epochs") == []


@pytest.mark.parametrize(
    ("epochs", "low", "high"),
    [
        ((2.9, 0.44), "2.85", "2.95"),  # two significant digits
        ((0.44, 2.9), "0.435", "0.445"),
        ((0.6, 0.22), "0.595", "0.605"),  # written 0.60
        ((1.5, 0.22), "1.45", "1.55"),
        ((12.0, 3.25), "11.95", "12.05"),
        ((2, 1), "1.95", "2.05"),
        ((12, 0.44), "11.5", "12.5"),
        ((0.33, 12), "0.325", "0.335"),
        ((0, 0.22), "0", "0.005"),
    ],
)
def test_passes_are_rounded_as_their_column_shows(epochs: tuple[float, float], low: str, high: str) -> None:
    available = {"a": 10**9, "b": 1}
    (problem, *_) = two(available, budget={"tokens": 10**12}, weight=(0.999, 0.001), epochs=epochs)
    low_tokens, high_tokens = (Fraction(x) * 10**9 for x in (low, high))
    assert f"passes over 1B tokens are {Interval(low_tokens, high_tokens)}" in problem.message


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        ("410e9", "405B to 415B"),
        ("410_000_000_000", "405B to 415B"),
        ("0.41T", "405B to 415B"),
        ("19e9", "18.5B to 19.5B"),
        ("1000", "500 to 1500"),
        (123_456, "123456 to 123456"),
    ],
)
def test_tokens_by_hand_are_rounded_to_their_last_digit_that_is_not_zero(tokens: Any, shown: str) -> None:
    sources = [{"name": "a", "tokens": tokens, "weight": 1.25, "epochs": 1.0}]
    made = job(sources=sources, mixture={"policy": "epochs"}, budget={"tokens": 1})
    (problem,) = declared_problems(made, {})
    # Passes are 0.95 to 1.05 in turn.
    low, high = (Fraction(Decimal(x.rstrip("B"))) * (10**9 if "B" in x else 1) for x in shown.split(" to "))
    half = Fraction(1, 2) if tokens == 123_456 else 0
    products = Interval((low - half) * Fraction("0.95"), (high + half) * Fraction("1.05"))
    assert f"tokens are {products}" in problem.message


def test_numbers_beyond_any_sense_are_named_and_no_traceback() -> None:
    given = {"budget": {"tokens": 2_000_000}, "weight": (1e308, 5e-324)}
    (problem, _) = two({"a": 10**15, "b": 10**15}, epochs=(1e308, 1e308), **given)
    assert "a share of 1 is 2M, but 1e+296T passes over 1000T tokens are 1e+300T;" in problem.message


# Laws


@dataclass(frozen=True)
class Truth:
    """A table that holds: whole tokens of each source, and what is taken of it."""

    tokens: list[int]
    taken: list[int]

    @property
    def total(self) -> int:
        return sum(self.taken)


TRUTHS = st.lists(st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)), min_size=2, max_size=6).map(
    lambda pairs: Truth([p[0] for p in pairs], [min(p[1], 90 * p[0]) for p in pairs])
)
"""Of any size, and at most 90 passes."""

ALIKE = st.lists(st.tuples(st.integers(10**7, 10**8), st.floats(0.2, 5)), min_size=2, max_size=6).map(
    lambda pairs: Truth([p[0] for p in pairs], [int(p[0] * p[1]) for p in pairs])
)
"""No source so small that nothing is left of its numbers in print."""


def shown(value: Fraction, digits: int, *, significant: bool) -> float:
    """Rounded for print, to decimals or to significant digits."""
    exact = Context(prec=60).divide(Decimal(value.numerator), Decimal(value.denominator))
    if significant:
        return float(Context(prec=digits, rounding=ROUND_HALF_EVEN).plus(exact))
    return float(round(exact, digits))


ROUNDING = st.tuples(st.integers(1, 5), st.just(False)) | st.tuples(st.integers(2, 5), st.just(True))
"""Decimals, or significant digits where True."""


@st.composite
def tables(draw: st.DrawFn, truths: st.SearchStrategy[Truth]) -> dict[str, Any]:
    """A true table, and how its columns are printed."""
    return {
        "truth": draw(truths),
        "unit": draw(st.sampled_from([1, 100, 37])),
        "weight": draw(ROUNDING),
        "epochs": draw(ROUNDING),
        "by_hand": draw(st.booleans()),
        "digits": draw(st.integers(1, 4)),
        "policy": draw(st.sampled_from(["weights", "epochs"])),
        "budget": draw(st.booleans()),
    }


def job_of(table: dict[str, Any], factor: Fraction = Fraction(1)) -> tuple[Job, dict[str, int]]:
    """The table as a job; the passes over the first source are multiplied by `factor`."""
    truth, unit = table["truth"], table["unit"]
    sources, available = [], {}
    for i, (tokens, taken) in enumerate(zip(truth.tokens, truth.taken, strict=True)):
        passes = Fraction(taken, tokens) * (factor if i == 0 else 1)
        source: dict[str, Any] = {"name": str(i)}
        digits, significant = table["weight"]
        source["weight"] = shown(Fraction(taken, truth.total) * unit, digits, significant=significant)
        digits, significant = table["epochs"]
        source["epochs"] = shown(passes, digits, significant=significant)
        if table["by_hand"]:
            source["tokens"] = int(shown(Fraction(tokens), table["digits"], significant=True))
        else:
            source["files"] = [str(i)]
            available[str(i)] = tokens
        sources.append(source)
    assume(any(s["weight"] for s in sources))
    assume(any(s["epochs"] for s in sources))
    changes: dict[str, Any] = {"sources": sources, "mixture": {"policy": table["policy"]}}
    if table["budget"] or table["policy"] == "weights":
        changes["budget"] = {"tokens": truth.total}
    return job(**changes), available


@cases(250)
@given(tables(TRUTHS))
def test_a_table_that_holds_is_never_blamed_for_how_it_was_rounded(table: dict[str, Any]) -> None:
    made, available = job_of(table)
    assert [p.message for p in declared_problems(made, available)] == []


@cases(250)
@given(tables(ALIKE), st.sampled_from([Fraction(1, 2), Fraction(3, 5), Fraction(5, 3), Fraction(2)]))
def test_a_cell_moved_by_far_more_than_its_rounding_is_found(table: dict[str, Any], factor: Fraction) -> None:
    made, available = job_of(
        table | {"by_hand": False, "budget": True, "weight": (4, True), "epochs": (3, True)}, factor
    )
    assert named(declared_problems(made, available)) == ["0"]
