"""The k-core, against the definition, and as a file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.__main__ import main
from data.atomic import read_inter, write_inter
from data.core import core
from data.interactions import Interactions, from_columns


def rows_of(interactions: Interactions) -> list[tuple[str, str, float]]:
    owners = np.repeat(np.arange(interactions.num_users), interactions.counts)
    return [
        (interactions.user_ids[user], interactions.item_ids[item], float(time))
        for user, item, time in zip(owners, interactions.items, interactions.times, strict=True)
    ]


def made(pairs: list[tuple[int, int]]) -> Interactions:
    users, items = (np.array([pair[at] for pair in pairs], np.int64) for at in (0, 1))
    return from_columns("made", users, items, np.arange(len(pairs)))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60), st.integers(1, 5))
def test_what_remains_is_what_no_removal_of_one_user_or_item_after_another_takes(
    pairs: list[tuple[int, int]], k: int
) -> None:
    whole = made(pairs)
    rows = rows_of(whole)
    while True:
        few = [(at, row[at]) for row in rows for at in (0, 1) if sum(other[at] == row[at] for other in rows) < k]
        if not few:
            break
        at, name = few[0]
        rows = [row for row in rows if row[at] != name]
    assert rows_of(core(whole, k)) == rows


@pytest.mark.parametrize("name", ["own.inter", "own.inter.gz"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    whole = made([(3, 1), (3, 2), (1, 1), (3, 1), (1, 5)])
    write_inter(whole, tmp_path / name)
    assert rows_of(read_inter(tmp_path / name)) == rows_of(whole)


def test_the_command_writes_the_core(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_inter(made([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 7)]), tmp_path / "own.inter")
    asked = [str(tmp_path / "own.inter"), "--data-dir", str(tmp_path), "--core"]
    written = tmp_path / "core.inter.gz"
    assert main([*asked, "2", "--output", str(written)]) == 0
    # Without item 7, which has one interaction, user 2 has one.
    assert {row[0] for row in rows_of(read_inter(written))} == {"0", "1"}
    assert main([*asked, "3"]) == 1
    assert "--core = 3: expected fewer, so that something is left" in capsys.readouterr().err
    assert main([*asked, "2", "--output", str(tmp_path / "core.txt")]) == 1
    assert main([*asked, "2", "--output", str(tmp_path / "missing" / "core.inter")]) == 1
    assert "cannot be written" in capsys.readouterr().err
