"""The grids hold the paper's runs, and what two tables share is run once."""

import pytest

from experiments.papers import paper
from experiments.papers.results import in_order, names_of
from experiments.runner.cell import unavailable
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS


@pytest.mark.parametrize("model", ["mf", "sasrec"])
@pytest.mark.parametrize("name", GRIDS)
def test_every_run_of_every_grid_can_be_run_here(name, model):
    problems = {cell.name: unavailable(cell) for cell in GRIDS[name](Plan("gowalla", model)).cells}
    assert not {name: problem for name, problem in problems.items() if problem}


def test_table_1_is_part_of_figure_2():
    plan = Plan(seeds=(0, 1))
    assert set(GRIDS["table1"](plan).cells) <= set(GRIDS["figure2"](plan).cells)


def test_a_command_for_all_runs_shared_cells_once_and_whole_seeds_first():
    plan = Plan(seeds=(0, 1))
    grids = [GRIDS[name](plan) for name in names_of("all")]
    cells = in_order(grids)
    assert len(cells) == len(set(cells)) < sum(len(grid.cells) for grid in grids)
    seeds = [cell.options["seed"] for cell in cells]
    assert seeds == sorted(seeds)


@pytest.mark.parametrize(
    ("place", "run", "value"),
    [
        ("table3", ("MultiKrum+UNION", "ClusterAttack"), 0.03378),
        ("table1", ("Fang",), 0.03038),
        ("table3", ("MultiKrum+UNION", "ClusterAttack+CL"), 0.03525),
        ("table4", ("LIE", "0.5 %"), 0.03465),
        ("table5", ("NormBound+UNION", "ClusterAttack"), 0.03351),
        ("figure2", ("no defense", "ClusterAttack"), 0.02451),
    ],
)
def test_the_papers_numbers_stand_at_their_runs(place, run, value):
    found = {entry.labels: entry.printed for entry in GRIDS[place](Plan()).entries}
    assert found[run].hit_ratio == value


def test_gowalla_and_sasrec_get_their_own_settings():
    gowalla = GRIDS["table1"](Plan(dataset="gowalla"))
    assert gowalla.entries[-1].cells[0].options["cluster-clusters"] == 8
    assert {cell.options["weight-decay"] for cell in gowalla.cells} == {1e-6}
    assert gowalla.entries[-1].printed.metrics == {"hr@5": 0.01664, "ndcg@5": 0.01117}
    sasrec = GRIDS["table3"](Plan(dataset="gowalla", model="sasrec"))
    assert {cell.options["norm-bound-threshold"] for cell in sasrec.cells} == {2.5}


def test_numbers_of_other_data_sets_are_not_compared_with_the_paper():
    assert not any(entry.printed for entry in GRIDS["table1"](Plan(dataset="synthetic")).entries)
    assert paper.printed("ml-1m", "mf", "cluster", "krum", 0.01) is None


def test_fewer_rounds_for_a_slow_defense_concern_that_defense_alone():
    grid = GRIDS["figure2"](Plan(rounds=6000, rounds_for={"krum": 3000}))
    assert {cell.options["defense"] for cell in grid.cells if cell.rounds == 3000} == {"krum"}
    # As many evaluations, so that the last five span the same share of the run.
    assert {cell.rounds / cell.options["eval-every"] for cell in grid.cells} == {30}


def test_what_depends_on_the_rounds_follows_those_of_the_defense():
    [without, with_task] = GRIDS["figure4"](Plan(rounds=6000, rounds_for={"union": 3000})).cells
    assert without.options["record-updates"] == with_task.options["record-updates"] == "2700-3000/10"
    grid = GRIDS["recovery"](Plan(rounds=6000, rounds_for={"union+norm-bound": 2000}))
    stops = {cell.rounds: cell.options["attack-stop"] for cell in grid.cells if "attack-stop" in cell.options}
    assert stops == {6000: 3000, 2000: 1000}
