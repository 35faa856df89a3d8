"""Pieces of a rule's work on several threads: the same numbers, to the bit, as on one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from protocol.updates import Updates, make_updates
from strategies.rules.krum import squared_distances
from strategies.server_model import ServerModel
from strategies.sparse.order_statistics import coordinate_wise, middle_mean
from strategies.sparse.side_by_side import side_by_side, use_threads
from strategies.sparse.uniformity import uniformities


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    yield
    use_threads(1)


def cohort(n: int, num_items: int, dim: int) -> tuple[Updates, ServerModel]:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, num_items, (n,), generator=generator)
    items = torch.cat([torch.randperm(num_items, generator=generator)[:count].sort().values for count in counts])
    splits = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    rows = torch.randn(len(items), dim, generator=generator)
    updates = make_updates(torch.arange(n), torch.ones(n, dtype=torch.int64), splits, items, rows)
    table = torch.randn(num_items, dim, generator=generator)
    return updates, ServerModel.start(table, torch.empty(0), 0.01, 1e-5)


def test_results_are_in_order_and_errors_come_out() -> None:
    for threads in (1, 3):
        use_threads(threads)
        assert side_by_side(lambda piece: piece * 2, range(20)) == [piece * 2 for piece in range(20)]
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda piece: 1 // (piece - 3), range(5))


def test_only_the_pool_s_own_threads_are_kept_to_one_torch_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        use_threads(4)
        assert side_by_side(lambda _: torch.get_num_threads(), range(20)) == [1] * 20
        use_threads(1)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_rules_give_the_same_bits_on_any_number_of_threads() -> None:
    updates, model = cohort(12, 300, 8)
    found = []
    for threads in (1, 2, 5):
        use_threads(threads)
        mean = coordinate_wise(updates, model, lambda rows: middle_mean(rows, 12, 2, 10))
        found.append((uniformities(updates, model, torch.arange(0, 300, 2)), squared_distances(updates), mean.items))
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))
