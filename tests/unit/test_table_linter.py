"""The table linter: published tables close or do not, wrong cells are named, and rounding alone is never blamed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit_helpers import cases

from transforms.table_linter import Interval, Printed, Problem, Row, exactly, lint_table, rounded

PERCENT = Fraction(1, 100)
BILLION = 10**9


def printed(number: str, unit: int | Fraction = 1) -> Printed:
    """A number as a table shows it, rounded to its last digit, in this unit."""
    _, _, decimals = number.partition(".")
    return rounded(Fraction(number) * unit, unit / Fraction(10) ** len(decimals))


def whole(tokens: int) -> Interval:
    """An exact total."""
    return exactly(tokens).interval


# Gao et al. 2020, The Pile, arXiv 2101.00027, table 1 (also in the README of EleutherAI/the-pile): component, raw
# size in GiB, weight in percent, epochs, effective size in GiB; the total is 1254.20 GiB.
PILE = """
Pile-CC           227.12 18.11 1.0 227.12
PubMed-Central     90.27 14.40 2.0 180.55
Books3            100.96 12.07 1.5 151.44
OpenWebText2       62.77 10.01 2.0 125.54
ArXiv              56.21  8.96 2.0 112.42
Github             95.16  7.59 1.0  95.16
FreeLaw            51.15  6.12 1.5  76.73
StackExchange      32.20  5.13 2.0  64.39
USPTO-Backgrounds  22.90  3.65 2.0  45.81
PubMed-Abstracts   19.26  3.07 2.0  38.53
Gutenberg-PG-19    10.88  2.17 2.5  27.19
OpenSubtitles      12.98  1.55 1.5  19.47
Wikipedia-en        6.38  1.53 3.0  19.13
DM-Mathematics      7.75  1.24 2.0  15.49
Ubuntu-IRC          5.52  0.88 2.0  11.03
BookCorpus2         6.30  0.75 1.5   9.45
EuroParl            4.59  0.73 2.0   9.17
HackerNews          3.90  0.62 2.0   7.80
YoutubeSubtitles    3.73  0.60 2.0   7.47
PhilPapers          2.38  0.38 2.0   4.76
NIH-ExPorter        1.89  0.30 2.0   3.79
Enron-Emails        0.88  0.14 2.0   1.76
"""

# Brown et al. 2020, GPT-3, arXiv 2005.14165, table 2.2: billions of tokens, weight in percent, epochs at 300B tokens.
GPT3 = [
    ("Common Crawl", "410", "60", "0.44"),
    ("WebText2", "19", "22", "2.9"),
    ("Books1", "12", "8", "1.9"),
    ("Books2", "55", "8", "0.43"),
    ("Wikipedia", "3", "3", "3.4"),
]


PILE_TOTAL = printed("1254.20").interval


def pile(*, taken: bool = False) -> list[Row]:
    rows = []
    for line in PILE.split("\n")[1:-1]:
        name, raw, weight, epochs, effective = line.split()
        rows.append(
            Row(
                name=name,
                tokens=printed(raw),
                weight=printed(weight, unit=PERCENT),
                epochs=exactly(Fraction(epochs)),  # chosen, and not rounded
                taken=printed(effective) if taken else None,
            )
        )
    return rows


def gpt3() -> list[Row]:
    return [
        Row(
            name=name,
            tokens=printed(tokens, unit=BILLION),
            weight=printed(weight, unit=PERCENT),
            epochs=printed(epochs),
        )
        for name, tokens, weight, epochs in GPT3
    ]


def changed(rows: list[Row], name: str, **cells: Printed | None) -> list[Row]:
    return [replace(r, **cells) if r.name == name else r for r in rows]


def named(problems: list[Problem]) -> set[str]:
    return {name for p in problems for name in p.rows}


# Published tables


@pytest.mark.parametrize("taken", [False, True])
def test_the_piles_table_closes_within_its_printed_rounding(taken: bool) -> None:
    rows = pile(taken=taken)
    assert len(rows) == 22
    assert lint_table(rows, PILE_TOTAL) == []
    assert lint_table(rows[::-1], PILE_TOTAL) == []


def test_gpt3s_table_closes_but_for_one_row() -> None:
    problems = lint_table(gpt3(), whole(300 * BILLION))
    assert named(problems) == {"WebText2"}
    (problem,) = problems
    # By hand: 21.5 to 22.5 % of 300B are 64.5B to 67.5B; 2.85 to 2.95 passes over 18.5B to 19.5B are 52.725B to
    # 57.525B. The weight needs 64.5/19.5 to 67.5/18.5 passes.
    assert problem.implied["epochs"] == Interval(Fraction(645, 195), Fraction(675, 185))
    assert problem.implied["weight"] == Interval(Fraction("0.17575"), Fraction("0.19175"))
    assert problem.implied["tokens"] == Interval(BILLION * Fraction(6450, 295), BILLION * Fraction(6750, 285))
    for text in ("WebText2", "64.5B to 67.5B", "52.725B to 57.525B", "3.30769 to 3.64865"):
        assert text in problem.message
    # The other sources settle which of the two is wrong.
    assert problem.message.endswith("which agrees with its share")
    # Unless one of them does not say what it takes.
    (vague,) = lint_table([*gpt3(), Row(name="unknown")], whole(300 * BILLION))
    assert vague.rows == ("WebText2",)
    assert "other sources" not in vague.message
    # What it says would fit, fits.
    for epochs in ("3.4", "3.5", "3.6"):
        assert lint_table(changed(gpt3(), "WebText2", epochs=printed(epochs)), whole(300 * BILLION)) == []


@pytest.mark.parametrize("name", [r.name for r in pile()])
@pytest.mark.parametrize("column", ["tokens", "weight", "epochs", "taken"])
def test_one_wrong_cell_of_the_pile_is_found_and_its_row_named(name: str, column: str) -> None:
    row = next(r for r in pile(taken=True) if r.name == name)
    old: Printed = getattr(row, column)
    # Two or four units of the last place, or a tenth of a pass: hardly a slip of the pen.
    step = {
        "tokens": Fraction("0.02"),
        "weight": Fraction("0.0002"),
        "epochs": Fraction("0.1"),
        "taken": Fraction("0.04"),
    }
    half = (old.interval.high - old.interval.low) / 2
    for sign in (1, -1):
        value = old.value + sign * step[column]
        if value <= half:
            continue
        new = Printed(value, Interval(value - half, value + half))
        problems = lint_table(changed(pile(taken=True), name, **{column: new}), PILE_TOTAL)
        assert named(problems) == {name}
        # Put right as the problem says, the row closes.
        right = problems[0].implied[column]
        assert right.low <= old.interval.high
        assert right.high >= old.interval.low


@pytest.mark.parametrize("name", ["Pile-CC", "FreeLaw", "Enron-Emails"])
def test_the_rest_of_the_table_tells_which_cell_of_a_row_is_wrong(name: str) -> None:
    row = next(r for r in pile() if r.name == name)
    assert row.epochs
    assert row.weight
    doubled = changed(pile(), name, epochs=exactly(row.epochs.value * 2))
    assert lint_table(doubled, PILE_TOTAL)[0].message.endswith("which agrees with its share")
    half = row.weight.interval.high - row.weight.value
    weight = row.weight.value * 2
    heavy = changed(pile(), name, weight=Printed(weight, Interval(weight - half, weight + half)))
    problems = lint_table(heavy, PILE_TOTAL)
    assert problems[0].rows == (name,)
    assert problems[0].message.endswith("which agrees with its passes")


def test_a_table_read_at_the_wrong_total_does_not_close() -> None:
    # 825.18 GiB is the raw size, a total of another column.
    assert named(lint_table(pile(), printed("825.18").interval)) == {r.name for r in pile()}


# Laws

COUNTS = st.integers(1, 10**6)


@st.composite
def true_tables(draw: st.DrawFn) -> tuple[list[Row], Interval]:
    """A table that holds exactly, then printed with few digits; some cells left out."""
    size = draw(st.integers(1, 6))
    tokens = draw(st.lists(COUNTS, min_size=size, max_size=size))
    passes = draw(st.lists(st.fractions(Fraction(1, 20), 8, max_denominator=30), min_size=size, max_size=size))
    taken = [t * e for t, e in zip(tokens, passes, strict=True)]
    total = sum(taken)
    places = {c: draw(st.integers(-4, 3)) for c in ("tokens", "taken", "total")}
    places |= {c: draw(st.integers(0, 4)) for c in ("epochs", "weight")}

    def print_(value: Fraction, column: str) -> Printed:
        scale = Fraction(10) ** places[column]
        return rounded(Fraction(round(value * scale)) / scale, 1 / scale)

    left_out = draw(
        st.sets(st.tuples(st.integers(0, size - 1), st.sampled_from(["tokens", "weight", "epochs", "taken"])))
    )
    rows = []
    for i in range(size):
        cells: dict[str, Any] = {
            "tokens": print_(Fraction(tokens[i]), "tokens"),
            "weight": print_(taken[i] / total, "weight"),
            "epochs": print_(passes[i], "epochs"),
            "taken": print_(taken[i], "taken"),
        }
        rows.append(Row(name=str(i), **{c: v for c, v in cells.items() if (i, c) not in left_out}))
    return rows, print_(total, "total").interval


@cases(120)
@given(true_tables())
def test_a_table_that_holds_is_never_blamed_for_its_rounding(table: tuple[list[Row], Interval]) -> None:
    rows, total = table
    assume(total.low > 0)
    assert lint_table(rows, total) == []


def bounds(rows: list[Row]) -> list[tuple[float, float, float, float]]:
    """By row: the least and greatest weight, and the least and most tokens taken by the other cells."""
    found = []
    for row in rows:
        low, high = 0.0, 1e300
        if row.tokens and row.epochs:
            low = float(row.tokens.interval.low * row.epochs.interval.low)
            high = float(row.tokens.interval.high * row.epochs.interval.high)
        if row.taken:
            low, high = max(low, float(row.taken.interval.low)), min(high, float(row.taken.interval.high))
        weight = row.weight.interval if row.weight else Interval(Fraction(0), 1e290)
        found.append((float(weight.low), float(weight.high), low, high))
    return found


def misses(found: list[tuple[float, float, float, float]], at: float) -> float:
    """By how much the rows' bounds are missed at that total: a convex function, at most 0 where the table closes."""
    lows = [max(w * at, low) for w, _, low, _ in found]
    highs = [min(w * at, high) for _, w, _, high in found]
    return max(sum(lows) - at, at - sum(highs), *(a - b for a, b in zip(lows, highs, strict=True)))


@cases(120)
@given(
    true_tables(), st.integers(0, 5), st.sampled_from(["tokens", "weight", "epochs", "taken"]), st.integers(-40, 40)
)
def test_a_table_closes_if_and_only_if_some_total_fits_all_rows(
    table: tuple[list[Row], Interval], which: int, column: str, shift: int
) -> None:
    rows, total = table
    assume(total.low > 0)
    row = rows[which % len(rows)]
    cell: Printed | None = getattr(row, column)
    if cell:  # spoil it, or nearly
        step = (Fraction(cell.interval.high) - cell.interval.low) / 8 * shift
        low, high = cell.interval.low + step, Fraction(cell.interval.high) + step
        assume(low >= 0)
        rows = changed(rows, row.name, **{column: Printed(cell.value + step, Interval(low, high))})
    closes_as_it_should(rows, total)


SPANS = st.tuples(st.integers(0, 20), st.integers(0, 6))


@st.composite
def loose_tables(draw: st.DrawFn) -> tuple[list[Row], Interval]:
    """Coarse numbers, so that rows agree or not by themselves, with each other and with the total."""
    rows = []
    for i in range(draw(st.integers(1, 4))):
        weight, taken = draw(st.none() | SPANS), draw(st.none() | SPANS)
        rows.append(Row(name=str(i), weight=span(weight, Fraction(1, 20)), taken=span(taken, Fraction(5))))
    total = span(draw(st.tuples(st.integers(1, 30), st.integers(0, 20))), Fraction(5))
    assert total
    return rows, total.interval


def span(ends: tuple[int, int] | None, unit: Fraction) -> Printed | None:
    if ends is None:
        return None
    low, width = ends
    return Printed(low * unit, Interval(low * unit, (low + width) * unit))


@cases(400)
@given(loose_tables())
def test_rows_are_weighed_against_each_other_and_the_total(table: tuple[list[Row], Interval]) -> None:
    closes_as_it_should(*table)


def closes_as_it_should(rows: list[Row], total: Interval) -> None:
    """The least miss is found by cutting the range of totals in three: an independent way, in floating point."""
    found = bounds(rows)
    low, high = float(total.low), float(total.high)
    for _ in range(80):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if misses(found, a) <= misses(found, b) else (a, high)
    miss = misses(found, low)
    problems = lint_table(rows, total)
    if abs(miss) > 1e-9 * high:  # else it hangs on a single point, which only fractions can tell
        assert bool(problems) == (miss > 0), [p.message for p in problems]


# What is not a single row


def test_weights_that_do_not_add_to_one_are_found_without_any_tokens() -> None:
    def table(*given: str) -> list[Row]:
        return [Row(name=str(i), weight=printed(w)) for i, w in enumerate(given)]

    assert lint_table(table("0.33", "0.33", "0.33"), whole(10**9)) == []  # three thirds
    (problem,) = lint_table(table("0.33", "0.33", "0.30"), whole(10**9))
    assert problem.rows == ()
    assert "no more than 975M tokens, short of a total of 1B" in problem.message
    (problem,) = lint_table(table("0.5", "0.62"), whole(10**9))
    assert "1.065B tokens or more, beyond a total of 1B" in problem.message
    # A row without a weight may have what is missing, but nothing makes up for too much.
    assert lint_table([*table("0.33", "0.30"), Row(name="rest")], whole(10**9)) == []
    assert len(lint_table([*table("0.5", "0.62"), Row(name="rest")], whole(10**9))) == 1


def test_rows_that_close_by_themselves_may_need_different_totals() -> None:
    total = printed("1", unit=1000).interval  # 500 to 1500
    rows = [
        Row(name="a", weight=printed("0.500"), taken=exactly(300)),  # a total of about 600
        Row(name="b", weight=printed("0.250"), taken=exactly(300)),  # of about 1200
        Row(name="c"),
    ]
    (problem,) = lint_table(rows, total)
    assert problem.rows == ("a", "b")
    assert "599.401 to 600.601" in problem.message
    assert lint_table([rows[0], rows[2]], total) == lint_table(rows[1:], total) == []


def test_rows_that_do_not_add_to_the_total_are_found_by_tokens_and_passes_alone() -> None:
    rows = [
        Row(name="a", tokens=exactly(100), epochs=exactly(2)),
        Row(name="b", tokens=exactly(50), epochs=exactly(1)),
    ]
    assert lint_table(rows, whole(250)) == []
    (problem,) = lint_table(rows, whole(260))
    assert problem.rows == ()
    assert "no more than 250 tokens, short of a total of 260" in problem.message
    (problem,) = lint_table(rows, whole(240))
    assert "250 tokens or more, beyond a total of 240" in problem.message
    assert lint_table([*rows, Row(name="c", tokens=exactly(5))], whole(260)) == []
    assert len(lint_table([*rows, Row(name="c", tokens=exactly(5))], whole(240))) == 1


def test_a_row_that_says_one_thing_only_cannot_contradict_itself() -> None:
    for cells in (
        {"tokens": exactly(5)},
        {"epochs": exactly(5)},
        {"weight": exactly(1)},
        {"taken": exactly(100)},
        {},
    ):
        assert lint_table([Row(name="a", **cells)], whole(100)) == []  # type: ignore[arg-type]


def test_nothing_of_a_source_fits_a_weight_of_zero_only() -> None:
    rest = Row(name="b", weight=exactly(1))
    assert (
        lint_table([Row(name="a", weight=exactly(0), tokens=exactly(9), epochs=exactly(0)), rest], whole(100)) == []
    )
    (problem,) = lint_table(
        [Row(name="a", weight=exactly(0), tokens=exactly(9), epochs=exactly(1)), rest], whole(100)
    )
    assert problem.rows == ("a",)
    # 0.00 may stand for up to half a percent.
    rows = [Row(name="a", weight=printed("0.00"), taken=exactly(4)), Row(name="b", weight=printed("1.00"))]
    assert lint_table(rows, whole(1000)) == []
    assert lint_table(changed(rows, "a", taken=exactly(6)), whole(1000))[0].rows == ("a",)


def test_a_cell_that_rounds_to_nothing_leaves_the_others_open_above() -> None:
    rows = [Row(name="a", weight=exactly(1), tokens=printed("0"), epochs=exactly(3))]
    (problem,) = lint_table(rows, whole(90))
    assert str(problem.implied["epochs"]) == "180 or more"
    assert str(problem.implied["tokens"]) == "30"


# Rounding


@pytest.mark.parametrize(
    ("value", "unit", "low", "high"),
    [
        ("2.9", "0.1", "2.85", "2.95"),
        ("2.9", "0.01", "2.895", "2.905"),
        ("410", "10", "405", "415"),
        ("0", "1", "0", "0.5"),
        ("3", "0", "3", "3"),
    ],
)
def test_a_rounded_number_stands_for_half_a_unit_to_both_sides_and_never_for_less_than_nothing(
    value: str, unit: str, low: str, high: str
) -> None:
    made = rounded(Fraction(value), Fraction(unit))
    assert (made.value, made.interval) == (Fraction(value), Interval(Fraction(low), Fraction(high)))


def test_a_total_that_may_be_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="total"):
        lint_table([Row(name="a")], printed("0").interval)
