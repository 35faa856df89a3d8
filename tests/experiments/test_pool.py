"""Cells in processes of their own: what is there stays, what another grid is at is waited for."""

import fcntl
from pathlib import Path

from experiments.runner.cell import Cell, cell, finished
from experiments.runner.pool import run_cells

SMALL = {"dataset": "synthetic", "num-server-rounds": 2, "clients-per-round": 5}


class Told:
    def __init__(self) -> None:
        self.began_at: list[Cell] = []
        self.problems: list[str | None] = []

    def began(self, cell: Cell) -> None:
        self.began_at.append(cell)

    def at(self, cell: Cell, rounds: int, latest: str) -> None:
        assert rounds <= cell.rounds

    def ended(self, cell: Cell, problem: str | None) -> None:
        self.problems.append(problem)


def test_a_run_that_another_grid_completed_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    one = cell(SMALL)
    assert run_cells([one], tmp_path, 1, Told(), {"tracker": "none"}) == {}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / one.name).iterdir()}
    told = Told()
    assert run_cells([one], tmp_path, 1, told, {"tracker": "none"}) == {}
    assert told.problems == [None]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / one.name).iterdir()} == before


def test_a_run_that_another_grid_is_at_is_tried_again_until_it_is_free(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("experiments.runner.pool.TAKEN_PAUSE", 0.1)
    one, told = cell(SMALL), Told()
    lock = tmp_path / ".claims" / f"{one.name}.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def free_at_the_second_try(cell: Cell) -> None:
            Told.began(told, cell)
            if len(told.began_at) == 2:
                fcntl.flock(held, fcntl.LOCK_UN)

        monkeypatch.setattr(told, "began", free_at_the_second_try)
        assert run_cells([one], tmp_path, 1, told, {"tracker": "none"}) == {}
    assert len(told.began_at) >= 2
    assert told.problems == [None]
    assert finished(one, tmp_path) is not None
