"""Interactions, their split by time, and the shards of nodes."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.interactions import Interactions, from_columns, leave_one_out, require_trainable
from data.shard import load_shard, shard_of
from settings.options import OptionError

# Few users, items and times, so that ties and repeats are common.
ROWS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=60)


def columns(rows: list[tuple[int, int, int]]) -> Interactions:
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return from_columns("test", users, items, times)


def histories(rows: list[tuple[int, int, int]]) -> dict[str, list[str]]:
    """The same by a dictionary and Python's stable sort."""
    by_user = defaultdict(list)
    for user, item, time in rows:
        by_user[str(user)].append((time, str(item)))
    return {user: [item for _, item in sorted(seen, key=lambda row: row[0])] for user, seen in by_user.items()}


@given(ROWS)
def test_every_history_is_in_the_order_of_time_and_ties_in_that_of_the_rows(rows: list[tuple[int, int, int]]) -> None:
    made = columns(rows)
    found = {
        str(user): [str(made.item_ids[item]) for item in made.items[made.splits[k] : made.splits[k + 1]]]
        for k, user in enumerate(made.user_ids)
    }
    assert found == histories(rows)
    assert made.items.dtype == np.int32
    assert made.splits.dtype == np.int64


@given(ROWS)
def test_leave_one_out_takes_the_last_two_of_users_with_three(rows: list[tuple[int, int, int]]) -> None:
    made = columns(rows)
    split = leave_one_out(made)
    truth = histories(rows)
    for k, user in enumerate(made.user_ids.tolist()):
        train = [made.item_ids[i] for i in split.train_items[split.train_splits[k] : split.train_splits[k + 1]]]
        if len(truth[user]) < 3:
            assert (train, split.valid[k], split.test[k]) == (truth[user], -1, -1)
        else:
            assert [*train, made.item_ids[split.valid[k]], made.item_ids[split.test[k]]] == truth[user]


@given(ROWS, st.data())
def test_a_shard_is_its_users_part_of_the_split_however_it_is_made(
    rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    made = columns(rows)
    split = leave_one_out(made)
    users = data.draw(st.lists(st.integers(0, made.num_users - 1), unique=True))
    shards = shard_of(split, users), load_shard(made, users)
    for shard in shards:
        assert shard.users.tolist() == sorted(users)
        assert (shard.num_items, shard.num_users) == (made.num_items, made.num_users)
        for k, user in enumerate(shard.users):
            train = shard.train_items[shard.train_splits[k] : shard.train_splits[k + 1]]
            assert train.tolist() == split.train_items[split.train_splits[user] : split.train_splits[user + 1]].tolist()
            assert (shard.valid[k], shard.test[k]) == (split.valid[user], split.test[user])
        assert shard.num_examples.sum() == len(shard.train_items)


@pytest.mark.parametrize("users", [[3], [-1], [1, 1]])
def test_a_shard_of_unknown_or_repeated_users_is_refused(users: list[int]) -> None:
    made = columns([(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    for make in (lambda: shard_of(leave_one_out(made), users), lambda: load_shard(made, users)):
        with pytest.raises(ValueError, match=r"Users|twice"):
            make()


@given(ROWS, st.randoms(use_true_random=False))
def test_indexes_depend_on_the_ids_alone(rows: list[tuple[int, int, int]], random: Any) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    one, other = columns(rows), columns(shuffled)
    assert one.user_ids.tolist() == other.user_ids.tolist() == sorted(map(str, {row[0] for row in rows}), key=int)
    assert one.item_ids.tolist() == other.item_ids.tolist()


@pytest.mark.parametrize("kind", [np.int64, "U", "S"])
def test_whole_numbers_are_ordered_by_value_whatever_type_they_came_in(kind: Any) -> None:
    users = np.array([10, 9, 2, 100]).astype(kind)
    made = from_columns("test", users, users, np.zeros(4))
    assert made.user_ids.tolist() == ["2", "9", "10", "100"]


@pytest.mark.parametrize("ids", [["7", "07", "0"], ["b", "a", "10"], ["9" * 19, "1", "2"], ["+1", "1", "²"]])
def test_ids_that_are_text_keep_every_letter_and_stay_distinct(ids: list[str]) -> None:
    made = from_columns("test", np.array(ids), np.char.encode(np.array(ids), "utf-8"), np.zeros(3))
    assert made.user_ids.tolist() == made.item_ids.tolist() == sorted(ids)


def test_titles_stand_at_their_items() -> None:
    made = from_columns("test", np.array([1, 1]), np.array([30, 20]), np.array([0, 1]), {"30": "Thirty"})
    assert made.titles is not None
    assert dict(zip(made.item_ids.tolist(), made.titles.tolist(), strict=True)) == {"20": "", "30": "Thirty"}


@pytest.mark.parametrize("time", [np.nan, np.inf])
def test_times_must_be_finite(time: float) -> None:
    with pytest.raises(OptionError, match="timestamp"):
        from_columns("test", np.array([1]), np.array([1]), np.array([time]))


def test_no_interactions_are_refused() -> None:
    with pytest.raises(OptionError, match="no interactions"):
        from_columns("test", *(np.empty(0, np.int64) for _ in range(3)))


@pytest.mark.parametrize(
    ("rows", "trainable"),
    [
        ([(0, 0, 0), (0, 1, 1)], False),
        ([(0, 0, 0), (1, 0, 1)], False),
        ([(user, item, 0) for user in range(3) for item in range(4)], False),
        ([(user, item, time) for user in range(3) for item in range(4) for time in range(2)], False),
        ([(user, item, 0) for user in range(3) for item in range(4)][:-1], True),
        # As many interactions as items, but not of every item.
        ([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)], True),
    ],
)
def test_what_leaves_nothing_to_recommend_is_refused(rows: list[tuple[int, int, int]], trainable: bool) -> None:
    with nullcontext() if trainable else pytest.raises(OptionError, match="test"):
        require_trainable(columns(rows))
