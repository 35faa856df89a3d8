"""The card that ``python -m data`` prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.__main__ import main
from data.card import BARS, popularity_share, sparkline


def test_the_card_counts_what_is_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.inter"
    rows = ["a\tx\t1", "a\ty\t2", "a\tz\t3", "a\tw\t4", "b\tx\t1", "b\ty\t2"]
    path.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]))
    assert main([str(path), "--data-dir", str(tmp_path)]) == 0
    printed = {line.split("│")[1].strip(): line.split("│")[2] for line in capsys.readouterr().out.splitlines()[2:-1]}
    assert printed["users"].split() == ["2"]
    assert printed["items"].split() == ["4"]
    assert printed["interactions"].split() == ["6"]
    assert printed["density"].startswith(" 75.0000%")
    assert printed["average length"].startswith(" 3.0 ")
    assert "train 4, validation 1, test 1" in printed["split"]
    assert printed["not evaluated"].startswith(" 1 user")
    assert printed["items not in train"].split() == ["2"]


def test_an_unknown_data_set_is_said_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["netflix", "--data-dir", str(tmp_path)]) == 1
    assert "'netflix'" in capsys.readouterr().err


@pytest.mark.parametrize("items", [1, 5, 1000])
def test_the_curve_falls_from_the_highest_bar(items: int) -> None:
    curve = sparkline(np.arange(items, 0, -1) ** 3 + 1)
    assert curve[0] == BARS[-1]
    assert [BARS.index(bar) for bar in curve] == sorted((BARS.index(bar) for bar in curve), reverse=True)


def test_an_even_curve_shares_evenly() -> None:
    assert popularity_share(np.full(200, 7), 0.1) == pytest.approx(0.1)
