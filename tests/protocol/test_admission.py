"""Admission against its rules, written out one user at a time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hostile_replies import ASKED, COLUMNS, DIM, FLOATS, INTEGERS, LIMITS, NUM_ITEMS, columns, fuzzed, honest_columns
from hypothesis import given
from hypothesis import strategies as st

from protocol.admission import LARGEST_VALUE, MISSING, Admitted, UnreadableError, admit

Columns = dict[str, np.ndarray]


def judged(made: Columns) -> Admitted:
    return admit({name: torch.from_numpy(values) for name, values in made.items()}, LIMITS)


def oracle(made: Columns) -> set[int] | None:
    """Who may pass; ``None`` where the columns do not fit each other."""
    users, splits, items = made["users"].tolist(), made["row_splits"].tolist(), made["items"].tolist()
    fits = (
        len(users) <= 2 * len(ASKED) + 8
        and len(items) <= len(ASKED) * NUM_ITEMS
        and len(made["num_examples"]) == len(made["losses"]) == len(users)
        and made["rows"].shape == (len(items), DIM)
        and made["shared"].shape == (len(users), 2)
        and len(splits) == len(users) + 1
        and splits[0] == 0
        and splits[-1] == len(items)
        and splits == sorted(splits)
    )
    if not fits:
        return None
    good = set()
    for place, user in enumerate(users):
        own = items[splits[place] : splits[place + 1]]
        values = [*made["rows"][splits[place] : splits[place + 1]].ravel().tolist(), *made["shared"][place].tolist()]
        if (
            user in ASKED
            and users.count(user) == 1
            and 1 <= made["num_examples"][place] <= 1000
            and all(0 <= item < NUM_ITEMS for item in own)
            and all(later > earlier for earlier, later in pairwise(own))
            and all(math.isfinite(value) and abs(value) <= LARGEST_VALUE for value in values)
        ):
            good.add(user)
    return good


@st.composite
def plausible(draw: st.DrawFn) -> Columns:
    """Columns of the right kinds, with values and lengths that need not make sense."""
    made = honest_columns(draw(st.integers(0, 99)))
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(COLUMNS))
        values = made[name].copy()
        if draw(st.integers(0, 9)) == 0:
            made[name] = values[: draw(st.integers(0, 4))]
        elif values.size:
            pool: list[Any] = FLOATS if values.dtype.kind == "f" else INTEGERS
            with np.errstate(over="ignore"):
                values.reshape(-1)[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(pool))
            made[name] = values
    return made


@given(plausible())
@fuzzed(3000)
def test_each_user_is_judged_by_the_rules_and_by_nothing_else(made: Columns) -> None:
    expected = oracle(made)
    if expected is None:
        with pytest.raises(UnreadableError):
            judged(made)
        return
    found = judged(made)
    assert set(found.updates.users.tolist()) == expected
    assert set(found.rejected) == set(ASKED) - expected
    assert found.not_asked == sum(user not in ASKED for user in made["users"].tolist())
    for place, user in enumerate(found.updates.users.tolist()):
        at = made["users"].tolist().index(user)
        sent = slice(*made["row_splits"][at : at + 2])
        kept = slice(*found.updates.row_splits[place : place + 2].tolist())
        assert np.array_equal(found.updates.items[kept], made["items"][sent])
        assert np.array_equal(found.updates.rows[kept], made["rows"][sent])
        assert np.array_equal(found.updates.shared[place], made["shared"][at])
        assert found.updates.num_examples[place] == made["num_examples"][at]


@given(columns())
@fuzzed(400)
def test_columns_of_any_kind_are_refused_or_judged(made: dict[str, Any]) -> None:
    read = {name: torch.from_numpy(values) for name, values in made.items() if isinstance(values, np.ndarray)}
    right = honest_columns()
    fits = set(read) == set(right) and all(
        read[name].ndim == right[name].ndim and read[name].numpy().dtype == right[name].dtype for name in read
    )
    if not fits:
        # The reader of messages refuses these; admission is for columns of the right kinds.
        return
    try:
        found = admit(read, LIMITS)
    except UnreadableError:
        return
    assert set(found.updates.users.tolist()) <= set(ASKED)
    assert bool(torch.isfinite(found.updates.rows).all())


def test_one_bad_user_is_dropped_and_the_rest_stays() -> None:
    made = honest_columns(1)
    made["num_examples"] = np.array([10, 10**12, 20])
    found = judged(made)
    assert found.updates.users.tolist() == [3, 8]
    assert list(found.rejected) == [5]
    assert "examples" in found.rejected[5]


def test_a_user_who_is_left_out_is_noted() -> None:
    made = honest_columns(1)
    made["users"] = np.array([3, 4, 8])
    found = judged(made)
    assert found.updates.users.tolist() == [3, 8]
    assert found.rejected == {5: MISSING}
    assert found.not_asked == 1


def test_a_million_rows_are_refused_before_anybody_looks_at_them() -> None:
    made = honest_columns(1)
    made["items"] = np.arange(1_000_000)
    made["rows"] = np.zeros((1_000_000, DIM), np.float32)
    made["row_splits"] = np.array([0, 1_000_000, 1_000_000, 1_000_000])
    with pytest.raises(UnreadableError, match="at most 27"):
        judged(made)


def test_a_million_users_are_refused() -> None:
    count = 1_000_000
    made = {
        "users": np.arange(count),
        "num_examples": np.ones(count, np.int64),
        "row_splits": np.zeros(count + 1, np.int64),
        "items": np.zeros(0, np.int64),
        "rows": np.zeros((0, DIM), np.float32),
        "shared": np.zeros((count, 2), np.float32),
        "losses": np.zeros(count, np.float32),
    }
    with pytest.raises(UnreadableError, match="1000000 users where 3 were asked for"):
        judged(made)


def test_row_splits_whose_differences_wrap_round_are_refused() -> None:
    made = honest_columns(1)
    rows = len(made["items"])
    made["row_splits"] = np.array([0, 2**62, -(2**63) + 2**62, rows])
    with pytest.raises(UnreadableError, match="decrease"):
        judged(made)


def test_the_largest_dense_reply_fits_its_limits() -> None:
    dense = {
        "users": np.array(ASKED),
        "num_examples": np.ones(3, np.int64),
        "row_splits": np.arange(4) * NUM_ITEMS,
        "items": np.tile(np.arange(NUM_ITEMS), 3),
        "rows": np.zeros((3 * NUM_ITEMS, DIM), np.float32),
        "shared": np.zeros((3, 2), np.float32),
        "losses": np.zeros(3, np.float32),
    }
    assert sum(values.nbytes for values in dense.values()) + 7 * 266 <= LIMITS.most_bytes
    assert len(judged(dense).updates) == 3


def test_impossible_losses_do_not_cost_an_update_and_do_not_count() -> None:
    made = honest_columns(1)
    made["losses"] = np.array([np.inf, 3e38, 0.5], np.float32)
    found = judged(made)
    assert len(found.updates) == 3
    assert found.losses.isfinite().tolist() == [False, False, True]


@pytest.mark.parametrize("value", [1e9, -1e9, 1e-45])
def test_the_largest_values_are_admitted_since_their_squares_can_be_added_up(value: float) -> None:
    """1e9 squared over 1e20 coordinates is below the largest 32-bit float, 3.4e38."""
    assert torch.finfo(torch.float32).max > LARGEST_VALUE**2 * 1e20
    made = honest_columns(1)
    made["rows"] = np.full_like(made["rows"], value)
    assert len(judged(made).updates) == 3
