"""Two processes that serve one node in turn, in any order, answer and keep what one process would."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import served_node
from hypothesis import given, settings
from hypothesis import strategies as st
from served_node import DIM

from client.state.about import kept_states, opened

run_ids = count(91_000)

Step = tuple[str, int, tuple[int, ...], int]


@pytest.fixture(scope="module")
def processes() -> Iterator[list[ProcessPoolExecutor]]:
    pools = [ProcessPoolExecutor(1, get_context("spawn")) for _ in range(2)]
    yield pools
    for pool in pools:
        pool.shutdown()


@st.composite
def stories(draw: st.DrawFn) -> list[Step]:
    """Rounds as a server asks for them: one after another, some of them twice, with resumes in between."""
    steps: list[Step] = []
    server_round, resumed_at, oldest = 0, (), 0
    for what in draw(st.lists(st.sampled_from("ttttrreb"), min_size=3, max_size=10)):
        if what == "t":
            server_round += 1
        if what == "b" and server_round:
            server_round = draw(st.integers(oldest, server_round))
            resumed_at = (*resumed_at, server_round)
            server_round += 1
        if what == "e" or not server_round:
            steps.append(("evaluate", server_round, resumed_at, oldest))
            continue
        if draw(st.booleans()):
            oldest = max(oldest, min(server_round - 1, draw(st.integers(0, server_round))))
        steps.append(("train", server_round, resumed_at, oldest))
    return steps


def kept(folder: Path) -> Any:
    (path,) = kept_states(folder)
    store = opened(path)
    with store.begin():
        users = store.kept_users()
        values, last = store.vectors(users, DIM)
        return users.tolist(), last.tolist(), values.tobytes(), store.attack(), store.newest(), store.note("evaluated")


@given(stories(), st.lists(st.integers(0, 1), min_size=10, max_size=10))
@settings(max_examples=15, deadline=None)
def test_two_processes_serve_one_node_as_one_would(
    processes: list[ProcessPoolExecutor],
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[Step],
    servers: list[int],
) -> None:
    run_id, alone, shared = next(run_ids), tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    served_node.begin(run_id, alone)
    expected = [served_node.serve(run_id, alone, step) for step in steps]
    processes[servers[0]].submit(served_node.begin, run_id, shared).result()
    found = [
        processes[server].submit(served_node.serve, run_id, shared, step).result()
        for server, step in zip(servers, steps, strict=False)
    ]
    assert found == expected[: len(found)]
    assert kept(shared) == kept(alone)


def test_an_attack_served_in_turn_goes_on_where_the_other_process_left_it(
    processes: list[ProcessPoolExecutor], tmp_path: Path
) -> None:
    """K of ClusterAttack after thirty rounds was another one where each process went on from its own memory."""
    run_id = next(run_ids)
    served_node.begin(run_id, tmp_path / "alone")
    served_node.begin(run_id + 1, tmp_path / "shared")
    for server_round in range(1, 31):
        step: Step = ("train", server_round, (), 0)
        served_node.serve(run_id, tmp_path / "alone", step)
        processes[server_round % 2].submit(served_node.serve, run_id + 1, tmp_path / "shared", step).result()
    next(run_ids)
    state = kept(tmp_path / "alone")[3]
    assert state["clusters"] != 2, "the attack must have adapted, or there is nothing to compare"
    assert kept(tmp_path / "shared") == kept(tmp_path / "alone")
