"""What a run says while it trains and when it ends, and what it leaves where it did not begin."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.results.closing import closing_lines
from server.results.progress import fitted
from server.results.run_directory import dropped_if_unused


@given(st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=6), st.integers(1, 120))
def test_a_line_of_progress_fits_and_is_cut_between_its_parts(parts: list[str], width: int) -> None:
    line = fitted(parts, width)
    assert len(line) <= width
    beginnings = ["  ".join(parts[:count]) for count in range(1, len(parts) + 1)]
    assert line in beginnings or line == parts[0][:width]


def test_the_last_lines_are_status_metrics_and_detection() -> None:
    summary = {
        "status": "completed",
        "rounds": 1,
        "seconds": 2.4,
        "best_round": 1,
        "test": {"hr@5": 0.25, "hr@10": 0.5},
        "test_last_five": {"hr@5": None},
        "detection": {"union": {"precision": 1.0, "recall": 0.5, "false_positive_rate": None}, "mean": {}},
    }
    assert closing_lines(summary) == [
        "completed after 1 round in 2 s",
        "test, best round 1: hr@5 0.2500",
        "union: precision 1.000, recall 0.500",
    ]


@pytest.mark.parametrize(("written", "stays"), [("lock", False), ("config.json", True)])
def test_a_run_that_never_began_leaves_no_folder(written: str, stays: bool, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / written).touch()
    with pytest.raises(RuntimeError), dropped_if_unused(directory):
        raise RuntimeError
    assert directory.exists() == stays
