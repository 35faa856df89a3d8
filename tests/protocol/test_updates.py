"""The one data structure against what its words mean on dense tensors."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.updates import Gradient, Updates, concat, make_updates, merge, splits_of

NUM_ITEMS, DIM, SHARED = 7, 3, 2


@st.composite
def some_updates(draw, first_user: int = 0) -> Updates:
    """Up to five users who touch any items, in any order of users, some with none."""
    count = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    touched = [torch.randperm(NUM_ITEMS, generator=generator)[: draw(st.integers(0, NUM_ITEMS))] for _ in range(count)]
    items = torch.cat([part.sort().values for part in touched])
    return make_updates(
        users=first_user + torch.randperm(count, generator=generator),
        num_examples=torch.randint(1, 50, (count,), generator=generator),
        row_splits=splits_of(torch.tensor([len(part) for part in touched])),
        items=items,
        rows=torch.randn(len(items), DIM, generator=generator, dtype=torch.float64),
        shared=torch.randn(count, SHARED, generator=generator, dtype=torch.float64),
    )


def dense(updates: Updates) -> torch.Tensor:
    """(n, num_items·d + p), by a loop over users."""
    rows = []
    for k in range(len(updates)):
        table = torch.zeros(NUM_ITEMS, DIM, dtype=torch.float64)
        for r in range(int(updates.row_splits[k]), int(updates.row_splits[k + 1])):
            table[updates.items[r]] = updates.rows[r]
        rows.append(torch.cat([table.flatten(), updates.shared[k]]))
    return torch.stack(rows)


@given(some_updates(), st.data())
@settings(max_examples=60, deadline=None)
def test_select_takes_users_in_the_order_asked_for(updates: Updates, data) -> None:
    positions = torch.tensor(data.draw(st.permutations(range(len(updates)))))[: data.draw(st.integers(1, len(updates)))]
    found = updates.select(positions)
    assert torch.equal(found.users, updates.users[positions])
    assert torch.equal(found.num_examples, updates.num_examples[positions])
    assert torch.equal(dense(found), dense(updates)[positions])
    mask = torch.zeros(len(updates), dtype=torch.bool)
    mask[positions] = True
    assert torch.equal(dense(updates.select(mask)), dense(updates)[mask])


@given(some_updates(), some_updates(first_user=10), some_updates(first_user=20))
@settings(max_examples=60, deadline=None)
def test_merging_is_joining_and_sorting(first: Updates, second: Updates, third: Updates) -> None:
    parts = [second, first, third]
    joined = concat(parts)
    assert torch.equal(dense(joined), torch.cat([dense(part) for part in parts]))
    merged = merge(parts)
    assert torch.equal(merged.users, joined.users.sort().values)
    assert torch.equal(dense(merged), dense(joined)[joined.users.argsort()])
    assert torch.equal(merged.items, joined.sorted_by_user().items)


@given(some_updates())
@settings(max_examples=60, deadline=None)
def test_norms_scale_and_mean_are_those_of_the_dense_updates(updates: Updates) -> None:
    whole = dense(updates)
    torch.testing.assert_close(updates.norms(), whole.norm(dim=1), rtol=1e-10, atol=1e-12)
    factors = torch.linspace(0.1, 2, len(updates), dtype=torch.float64)
    scaled = updates.scale(factors)
    torch.testing.assert_close(dense(scaled), whole * factors[:, None])
    weights = updates.num_examples.double()
    mean = (weights @ whole) / weights.sum()
    found = updates.weighted_mean(NUM_ITEMS)
    torch.testing.assert_close(torch.cat([found.items.flatten(), found.shared]), mean)
    assert abs(found.l2 - 1.0) < 1e-6
    assert abs(scaled.weighted_mean(NUM_ITEMS).l2 - float(weights @ factors / weights.sum())) < 1e-6


@given(some_updates())
@settings(max_examples=60, deadline=None)
def test_the_norm_with_a_common_term_is_that_of_the_sum(updates: Updates) -> None:
    common = Gradient(torch.randn(NUM_ITEMS, DIM, dtype=torch.float64), torch.randn(SHARED, dtype=torch.float64))
    flat = torch.cat([common.items.flatten(), common.shared])
    share = torch.linspace(0.5, 1, len(updates), dtype=torch.float64)
    scaled = updates.scale(share)
    expected = (dense(scaled) + scaled.l2_share.double()[:, None] * flat).norm(dim=1)
    torch.testing.assert_close(scaled.norms(common), expected, rtol=1e-6, atol=1e-6)
