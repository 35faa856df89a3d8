"""All of the evidence in one command: what comes first, what fits, and what the numbers say beside the paper's."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from experiments.papers.agreement import NEAR, agreement_sheet, compared, judged
from experiments.papers.reproduction import PARTS, Part, cells_of, reproduce
from experiments.papers.tables import lines_of
from experiments.report.intervals import Interval
from experiments.runner.completion import Completion, Place, complete
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS


def _summary(value: float) -> dict:
    metrics = {"hr@5": value, "ndcg@5": value / 2}
    return {"test": metrics, "test_last_five": metrics, "seconds": 1.0}


@pytest.mark.parametrize(
    ("ours", "half", "paper", "expected"),
    [
        (-0.30, 0.02, -0.31, "agrees"),
        (-0.30, 0.02, -0.25, "differs"),
        (-0.30, 0.20, -0.31, "cannot tell"),
        (-0.30, 0.095, -0.31, "cannot tell"),
        (-0.30, None, -0.30, "cannot tell"),
        (-0.30, 0.02, None, None),
    ],
)
def test_a_change_agrees_only_where_its_whole_interval_is_near_the_papers(ours, half, paper, expected):
    grid = GRIDS["table1"](Plan())
    line = lines_of(grid, Completion({}, {}))[0]
    assert NEAR == 0.1
    assert judged(replace(line, change=Interval(ours, half, 2), printed_change=paper)) == expected


@pytest.mark.parametrize("seeds_of_the_other", [(0, 1), (0, 1, 2)])
def test_a_run_that_two_tables_share_is_compared_once(seeds_of_the_other):
    seeds = {"table1": (0, 1), "table4": seeds_of_the_other}
    grids = [GRIDS[name](Plan(seeds=seeds[name])) for name in seeds]
    cells = {entry.labels: entry.cells for grid in grids for entry in grid.entries}
    summaries = {cell: _summary(0.04) for cell in cells["no attack",]}
    summaries |= {cell: _summary(0.03) for cell in cells["ClusterAttack",]}
    completion = Completion(summaries, {})
    assert set(cells["ClusterAttack",]) <= set(cells["ClusterAttack", "1 %"])
    assert [line.labels for _, line in compared(grids, completion)] == [("ClusterAttack",)]
    (record,) = agreement_sheet(grids, completion).records
    assert record["change"] == pytest.approx(-0.25)
    assert record["paper_change"] == pytest.approx(0.02451 / 0.03549 - 1)
    assert record["judgement"] == "differs"


def test_the_first_runs_are_the_first_tables_and_none_is_made_twice():
    cells = cells_of(PARTS)
    assert len(cells) == len(set(cells))
    assert set(cells[:35]) == set(GRIDS["table1"](Plan(seeds=tuple(range(5)))).cells)
    assert {cell for part in PARTS for cell in part.grid.cells} == set(cells)


def test_no_run_is_begun_that_would_end_after_the_budget(tmp_path):
    output, part = io.StringIO(), Part("figure4", 1, "synthetic", rounds=2)
    place, console = Place(tmp_path / "runs", where={"tracker": "none"}), Console(file=output)
    # A run takes ten seconds and more by the estimate, this one a few.
    assert complete(part.grid.cells, place, console, seconds=5).summaries == {}
    assert reproduce([part], place, tmp_path / "results", console, hours=5 / 3600) == 0
    assert "0 of 2 runs are there" in output.getvalue()
    assert not (tmp_path / "results" / "figure4.md").exists()
    assert "0 changes" in (tmp_path / "results" / "agreement.md").read_text()
