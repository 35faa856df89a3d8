"""From summaries to a table."""

import csv
import io
import math
from dataclasses import replace

import pytest
from scipy import integrate
from scipy.special import gamma

from experiments.papers.tables import lines_of, sheet
from experiments.papers.verdicts import half_life, worst_case
from experiments.report.intervals import interval
from experiments.report.sheet import Sheet
from experiments.runner.completion import Completion
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS


def _summary(value: float, last: float | None = None) -> dict:
    last = value if last is None else last
    return {
        "test": {"hr@5": value, "ndcg@5": value / 2},
        "test_last_five": {"hr@5": last, "ndcg@5": last / 2},
        "seconds": 1.0,
    }


@pytest.mark.parametrize("values", [[0.1, 0.4], [0.2, 0.25, 0.35], [1.0, 2.0, 2.5, 4.0, 7.0]])
def test_the_interval_holds_95_percent_of_students_density(values):
    found, freedom = interval(values), len(values) - 1
    error = math.sqrt(sum((value - found.mean) ** 2 for value in values) / freedom / len(values))
    constant = gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / gamma(freedom / 2)
    inside, _ = integrate.quad(
        lambda t: constant * (1 + t * t / freedom) ** (-(freedom + 1) / 2), -found.half / error, found.half / error
    )
    assert inside == pytest.approx(0.95, abs=1e-6)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    assert interval([0.5]).half is None
    assert interval([]) is None


def _table1(values: dict[str, list[float]]):
    grid = GRIDS["table1"](Plan(seeds=(0, 1)))
    named = {entry.labels[0]: entry for entry in grid.entries}
    summaries = {
        cell: _summary(value)
        for name, found in values.items()
        for cell, value in zip(named[name].cells, found, strict=False)
    }
    return grid, Completion(summaries, {})


def test_ours_the_papers_and_the_difference_stand_side_by_side():
    grid, completion = _table1({"no attack": [0.04, 0.05], "ClusterAttack": [0.02, 0.03]})
    line = next(line for line in lines_of(grid, completion) if line.labels == ("ClusterAttack",))
    assert line.best.mean == pytest.approx(0.025)
    assert line.printed == 0.02451
    assert line.difference == pytest.approx(0.025 - 0.02451)
    # Seed by seed: 0.02/0.04 and 0.03/0.05.
    assert line.change.mean == pytest.approx((0.5 + 0.6) / 2 - 1)
    assert line.printed_change == pytest.approx(0.02451 / 0.03549 - 1)


def test_a_change_needs_both_runs_of_a_seed():
    grid, completion = _table1({"no attack": [0.04], "ClusterAttack": [0.02, 0.03]})
    line = next(line for line in lines_of(grid, completion) if line.labels == ("ClusterAttack",))
    assert line.change.mean == pytest.approx(-0.5)
    assert line.change.count == 1


def test_a_change_needs_runs_of_the_same_length():
    grid = GRIDS["defense-tax"](Plan(rounds_for={"krum": 3000}))
    lines = lines_of(grid, Completion({cell: _summary(0.03) for cell in grid.cells}, {}))
    without = {line.labels[0] for line in lines if line.change is None}
    assert without == {"no defense", "Krum"}


def test_what_was_not_run_and_what_cannot_be_run_are_told_apart():
    grid, completion = _table1({"no attack": [0.04]})
    lost = next(entry for entry in grid.entries if entry.labels == ("LIE",)).cells[0]
    text = sheet(grid, replace(completion, problems={lost: "there is no attack 'lie'"})).markdown()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "not run" in rows["Fang"]
    assert "not available" in rows["LIE"]
    assert "there is no attack 'lie'" in text


def test_cells_with_fewer_rounds_are_marked():
    grid = GRIDS["figure2"](Plan(rounds_for={"krum": 3000}))
    text = sheet(grid, Completion({cell: _summary(0.03) for cell in grid.cells}, {})).markdown()
    marked = [line for line in text.splitlines() if line.startswith("|") and "†" in line]
    assert marked
    assert all("Krum" in line for line in marked)
    assert "3000 rounds instead of 6000" in text


def test_the_three_formats_say_the_same():
    made = Sheet("50 % of a_b", ["attack", "HR@5"], [["a|b & c_d", "0.1 ± 0.2"]], [{"attack": "x", "hr": 0.123456789}])
    assert r"a\|b & c_d" in made.markdown()
    assert r"a|b \& c\_d & 0.1 $\pm$ 0.2 \\" in made.latex()
    assert r"\caption{50 \% of a\_b}" in made.latex()
    assert list(csv.DictReader(io.StringIO(made.csv()))) == [{"attack": "x", "hr": "0.123456789"}]


def test_the_worst_case_is_the_attack_that_hurts_most_and_never_the_run_without_one():
    grid = GRIDS["worst-case"](Plan())
    values = {"no attack": 0.01, "Fang": 0.02, "ClusterAttack": 0.025}
    summaries = {entry.cells[0]: _summary(values.get(entry.labels[1], 0.03)) for entry in grid.entries}
    rows = worst_case(grid, Completion(summaries, {})).rows
    assert len(rows) == 8
    assert {row[1] for row in rows} == {"Fang"}
    assert {row[4] for row in rows} == {"+100.0 %"}


def test_the_worst_attack_is_found_by_seeds_that_both_runs_have():
    grid = GRIDS["worst-case"](Plan(seeds=(0, 1)))
    of_seed = {"no attack": (0.04, 0.05), "Fang": (0.03, None), "ClusterAttack": (0.035, 0.04)}
    summaries = {
        one: _summary(value)
        for entry in grid.entries
        for one, value in zip(entry.cells, of_seed.get(entry.labels[1], (None, None)), strict=True)
        if value is not None
    }
    made = worst_case(grid, Completion(summaries, {}))
    # Fang: 0.03/0.04; ClusterAttack: the mean of 0.035/0.04 and 0.04/0.05.
    assert {(row[1], row[4]) for row in made.rows} == {("Fang", "\u221225.0 %")}
    assert "runs are missing" in made.markdown()


def test_the_half_life_is_when_half_of_the_lost_is_back():
    honest = [(10, 0.5), (20, 0.5), (30, 0.5), (40, 0.5)]
    assert half_life([(10, 0.375), (20, 0.25), (30, 0.3), (40, 0.375)], honest, stop=20) == 20
    assert half_life([(10, 0.375), (20, 0.25), (30, 0.3), (40, 0.37)], honest, stop=20) is None
    assert half_life(honest, honest, stop=20) is None


def test_a_change_differs_from_the_papers_where_that_lies_outside_its_interval():
    """ClusterAttack's printed change is −30.9 %; the interval of two equal changes is a point, of unlike ones wide."""
    for attacked, expected in (([0.0277, 0.0277], "differs"), ([0.02, 0.03], "cannot be told apart"), ([0.02], None)):
        grid, completion = _table1({"no attack": [0.04, 0.04], "ClusterAttack": attacked})
        [line] = [one for one in lines_of(grid, completion) if (one.labels, one.metric) == (("ClusterAttack",), "hr@5")]
        assert line.verdict == expected
        made = sheet(grid, completion)
        assert ("the two changes" in made.columns) == (expected is not None)
        assert any(expected in row for row in made.rows) if expected else True


def test_where_attackers_are_crossed_with_seeds_both_spreads_are_told():
    """Changes that depend on the malicious users alone: seeds bring no spread, and the interval is that of three."""
    grid = GRIDS["table1"](Plan(seeds=(0, 1), attacker_seeds=(0, 1, 2)))
    changes = (-0.1, -0.3, -0.2)
    attacked = next(entry for entry in grid.entries if entry.labels == ("ClusterAttack",))
    summaries = {cell: _summary(0.04) for cell in grid.entries[0].cells}
    summaries |= {
        cell: _summary(0.04 * (1 + changes[cell.options.get("attacker-seed", cell.options["seed"])]))
        for cell in attacked.cells
    }
    line = next(one for one in lines_of(grid, Completion(summaries, {})) if one.labels == ("ClusterAttack",))
    assert line.spread.seeds == pytest.approx(0, abs=1e-9)
    assert line.spread.attackers == pytest.approx(0.1)
    assert (line.change.mean, line.change.half) == pytest.approx((-0.2, interval(changes).half))
    made = sheet(grid, Completion(summaries, {}))
    assert "from attackers to attackers" in made.columns
    assert any("10.0 points" in row for row in made.rows)


def test_the_order_of_unions_names_is_explained_once():
    texts = [sheet(GRIDS[name](Plan()), Completion({}, {})).markdown() for name in ("figure2", "table1")]
    assert [text.count("union+multi-krum") for text in texts] == [1, 0]
