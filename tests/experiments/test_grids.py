"""The grids hold the paper's runs, and what two tables share is run once."""

import os
from pathlib import Path

import pytest

from experiments.papers import paper
from experiments.papers.results import in_order, names_of
from experiments.runner.cell import unavailable
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS, grids_of


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
        ("figure2", ("Krum", "Fang"), 0.0260),
        ("figure2", ("MultiKrum+UNION", "LabelFlip"), 0.0357),
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
    assert paper.printed("ml-1m", "sasrec", "cluster", "krum", 0.01) is None
    assert paper.drawn_in_figure3("gowalla", "mf", 2, adaptive=True) is None


def test_figure_3_has_the_drawn_decreases_of_its_model():
    for model, adaptive, fixed in (("mf", -0.309, -0.262), ("sasrec", -0.394, -0.212)):
        found = {entry.labels: entry.printed for entry in GRIDS["figure3"](Plan(model=model)).entries}
        assert found["adaptive", "2"].change == pytest.approx(adaptive)
        assert found["fixed", "4"].change == pytest.approx(fixed)
    assert not any(entry.printed for entry in GRIDS["figure3"](Plan(extra={"dropout": 0.1})).entries)


def test_table_4_compares_half_a_percent_with_one_percent():
    shares = {entry.labels[1] for entry in GRIDS["table4"](Plan()).entries}
    assert shares == {"", "0.5 %", "1 %"}


def test_the_figures_values_are_those_of_the_specification():
    """Where the specification lies beside the checkout, every value of its two tables is compared."""
    path = Path(os.environ.get("ROBUST_FEDREC_DATA", "")).parent / "spec" / "paper_figures.md"
    if not path.is_file():
        pytest.skip("the specification is not at hand")
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in path.read_text().splitlines()]
    by_label = {label: name for name, label in paper.DEFENSES.items()}
    compared = 0
    for row in rows:
        if row[0] in by_label and len(row) == 8:
            for attack, text in zip(paper.FIGURE_2_ATTACKS, row[1:], strict=True):
                printed = paper.printed("ml-1m", "mf", attack, by_label[row[0]], 0.01)
                if printed.place.startswith("figure 2"):
                    assert printed.hit_ratio == float(text.split()[0])
                else:
                    assert printed.hit_ratio == pytest.approx(float(text.split()[0]), abs=5e-4)
                compared += 1
        if row[0].endswith(("K fixed", "K adaptive")) and len(row) == 7:
            model, kind = row[0].lower().split(", k ")
            for clusters, text in zip(paper.INITIAL_CLUSTERS, row[1:], strict=True):
                drawn = paper.drawn_in_figure3("ml-1m", model, clusters, adaptive=kind == "adaptive")
                assert drawn.change == pytest.approx(-float(text) / 100)
                compared += 1
    assert compared == 49 + 24


def test_fewer_rounds_for_a_slow_defense_concern_that_defense_alone():
    grid = GRIDS["figure2"](Plan(rounds=6000, rounds_for={"krum": 3000}))
    assert {cell.options["defense"] for cell in grid.cells if cell.rounds == 3000} == {"krum"}
    # As many evaluations, so that the last five span the same share of the run.
    assert {cell.rounds / cell.options["eval-every"] for cell in grid.cells} == {30}


def test_what_depends_on_the_rounds_follows_those_of_the_defense():
    grid = GRIDS["recovery"](Plan(rounds=6000, rounds_for={"union+norm-bound": 2000}))
    stops = {cell.rounds: cell.options["attack-stop"] for cell in grid.cells if "attack-stop" in cell.options}
    assert stops == {6000: 3000, 2000: 1000}


def test_every_seed_meets_every_choice_of_attackers_and_its_own_is_the_usual_run():
    usual = GRIDS["table1"](Plan(seeds=(0, 1)))
    crossed = GRIDS["table1"](Plan(seeds=(0, 1), attacker_seeds=(0, 1, 2)))
    assert len(crossed.cells) == 3 * len(usual.cells)
    assert set(usual.cells) < set(crossed.cells)
    for entry in crossed.entries:
        pairs = [(one.options["seed"], one.options.get("attacker-seed", one.options["seed"])) for one in entry.cells]
        assert pairs == [(seed, attackers) for seed in (0, 1) for attackers in (0, 1, 2)]


def test_titles_say_the_rounds_where_they_are_not_the_papers():
    assert grids_of(["table4"], Plan(rounds=60))[0].title.endswith(", 60 rounds")
    assert "rounds" not in grids_of(["table4"], Plan())[0].title
    assert "rounds" not in grids_of(["deep-poisoning"], Plan("mnist", "lenet", rounds=100))[0].title


def test_each_reading_is_another_run_beside_the_papers_one_number():
    grid = GRIDS["readings"](Plan())
    assert len(set(grid.cells)) == len(grid.entries)
    by_line: dict[tuple[str, str], list] = {}
    for entry in grid.entries:
        by_line.setdefault(entry.labels[:2], []).append(entry)
    for line, entries in by_line.items():
        assert len(entries) >= 2, line
        assert len({entry.printed for entry in entries}) == 1
        assert entries[0].printed is not None, line
    # The first reading of each is the default: a run of the paper's own tables.
    usual = {cell for name in ("table1", "table3", "figure2") for cell in GRIDS[name](Plan()).cells}
    assert all(entries[0].cells[0] in usual for entries in by_line.values())


@pytest.mark.parametrize("name", [name for name in GRIDS if name not in ("recovery", "deep-poisoning")])
def test_every_line_is_compared_with_one_of_the_same_seeds(name):
    grid = GRIDS[name](Plan(seeds=(0, 1), attacker_seeds=(3, 4)))
    for entry in grid.entries:
        assert entry.baseline is not None
        pairs = zip(entry.cells, grid.entries[entry.baseline].cells, strict=True)
        assert all(
            one.options.get(seed) == other.options.get(seed)
            for one, other in pairs
            for seed in ("seed", "attacker-seed")
        )


def test_a_file_of_ones_own_is_found_from_any_folder_and_titles_name_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = GRIDS["table1"](Plan(dataset="own/data.csv"))
    assert {cell.options["dataset"] for cell in grid.cells} == {str(tmp_path / "own" / "data.csv")}
    assert "trained on data.csv," in grid.title
