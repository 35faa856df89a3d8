"""Gaussian, LIE and Fang: what they claim of their draws, against dense moments computed here."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_world import dense, random_updates, scripted_view
from scipy.stats import kstest

from attacks.updates.fang import Fang, FangOptions
from attacks.updates.gaussian import Gaussian, GaussianOptions
from attacks.updates.honest_statistics import honest_moments
from attacks.updates.lie import Lie, LieOptions, largest_z, supporters_needed
from protocol.requests import GlobalModel
from protocol.updates import Updates
from settings.options import OptionError

ITEMS, DIM, SHARED = 9, 3, 4
USERS = list(range(40, 70))
MANY = list(range(30)) * 40


def honest(seed: int = 0) -> Updates:
    """Thirty users; nobody touches the last item, and the first item's first coordinate is the same for all."""
    updates = random_updates(USERS, ITEMS - 1, DIM, SHARED, seed)
    updates.rows[updates.items == 2, 0] = 0.25
    return updates


def dense_moments(updates: Updates) -> tuple[np.ndarray, np.ndarray]:
    """μ and σ (I·d + p,) in double precision, zeros included."""
    values = np.concatenate([dense(updates, ITEMS).reshape(len(updates), -1), updates.shared.numpy()], 1)
    return values.mean(0), values.std(0)


def flat(updates: Updates) -> np.ndarray:
    return np.concatenate([dense(updates, ITEMS).reshape(len(updates), -1), updates.shared.numpy()], 1)


def many_selected(updates: Updates) -> Updates:
    """The same users again and again, so that an attack makes many draws at once."""
    return updates.select(torch.tensor(MANY))


def test_moments_count_untouched_rows_as_zeros() -> None:
    updates = honest()
    mean, deviation = honest_moments(updates)
    expected_mean, expected_deviation = dense_moments(updates)
    for found, expected in ((mean, expected_mean), (deviation, expected_deviation)):
        rows = np.zeros((ITEMS, DIM))
        rows[found.items] = found.rows
        np.testing.assert_allclose(np.concatenate([rows.ravel(), found.shared]), expected, atol=1e-6)
    assert mean.items.tolist() == list(range(ITEMS - 1))


def test_a_single_user_has_no_deviation() -> None:
    updates = honest().select(torch.tensor([4]))
    mean, deviation = honest_moments(updates)
    assert torch.equal(mean.rows, updates.rows)
    assert not deviation.rows.any()
    assert not deviation.shared.any()


def poisoned_many(attack: Gaussian | Fang, updates: Updates, weight_decay: float = 0.0, seed: int = 1) -> np.ndarray:
    """(1200, I·d + p): the uploads of as many selected users."""
    generator = np.random.default_rng(seed)
    model = GlobalModel(
        torch.from_numpy(generator.normal(size=(ITEMS, DIM))).to(torch.float32),
        torch.from_numpy(generator.normal(size=SHARED)).to(torch.float32),
    )
    view = scripted_view(updates, USERS, ITEMS, weight_decay=weight_decay, model=model, seed=seed)
    many = many_selected(updates)
    return flat(attack.poison(replace(view, selected=many.users, honest=many)))


def test_gaussian_draws_have_the_honest_moments() -> None:
    updates = honest()
    mean, deviation = dense_moments(updates)
    draws = poisoned_many(Gaussian(), updates)
    varied = deviation > 1e-6
    np.testing.assert_allclose(draws[:, ~varied], np.broadcast_to(mean[~varied], draws[:, ~varied].shape), atol=1e-6)
    standard = (draws[:, varied] - mean[varied]) / deviation[varied]
    count = len(draws)
    # Five standard errors of a mean, and of a variance of normal draws.
    assert np.abs(standard.mean(0)).max() < 5 / np.sqrt(count)
    assert np.abs(standard.var(0) - 1).max() < 5 * np.sqrt(2 / count)
    assert kstest(standard.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(standard, axis=0)) == count


def test_the_programs_gaussian_spreads_by_one_degree_of_freedom_less() -> None:
    """The same draws, wider by √(n/(n − 1))."""
    updates = honest()
    mean, _ = dense_moments(updates)
    text, program = poisoned_many(Gaussian(), updates), poisoned_many(Gaussian(GaussianOptions("program")), updates)
    np.testing.assert_allclose(program - mean, (text - mean) * np.sqrt(len(USERS) / (len(USERS) - 1)), atol=1e-5)


@pytest.mark.parametrize(("z", "expected"), [(0.0, 0.1), (1.5, 1.5)])
def test_the_programs_lie_goes_a_tenth_of_a_deviation(z: float, expected: float) -> None:
    """With n − 1 in σ, whatever the share of malicious users, and where the formula has no value."""
    updates = honest()
    values = flat(updates)
    poisoned = Lie(LieOptions("program", z)).poison(scripted_view(updates, USERS[:2], ITEMS, num_users=40))
    shifted = values.mean(0) - expected * values.std(0, ddof=1)
    np.testing.assert_allclose(flat(poisoned), np.broadcast_to(shifted, (2, len(shifted))), atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_the_programs_fang_goes_along_the_gradient_by_one_draw_an_upload(weight_decay: float) -> None:
    updates = honest()
    values = flat(updates)
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    generator = np.random.default_rng(1)
    table, shared = generator.normal(size=(ITEMS, DIM)), generator.normal(size=SHARED)
    sign = np.sign(mean + weight_decay * np.concatenate([table.ravel(), shared]))
    draws = poisoned_many(Fang(FangOptions("program")), updates, weight_decay)
    varied = deviation > 1e-6
    lengths = (draws - mean)[:, varied] / (sign * deviation)[varied]
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[:, :1], lengths.shape), atol=1e-3)
    assert len(np.unique(lengths[:, 0])) > 0.99 * len(lengths)
    assert kstest(lengths[:, 0], "uniform", args=(3, 1)).pvalue > 1e-3


def test_a_single_user_has_no_deviation_in_the_programs_reading_either() -> None:
    mean, deviation = honest_moments(honest().select(torch.tensor([4])), correction=1)
    assert bool(mean.rows.any())
    assert not deviation.rows.any()
    assert not deviation.shared.any()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_fang_lies_three_to_four_deviations_on_the_wrong_side(weight_decay: float) -> None:
    updates = honest()
    mean, deviation = dense_moments(updates)
    generator = np.random.default_rng(1)
    table, shared = generator.normal(size=(ITEMS, DIM)), generator.normal(size=SHARED)
    direction = mean + weight_decay * np.concatenate([table.ravel(), shared])
    draws = poisoned_many(Fang(), updates, weight_decay)
    for j in range(len(mean)):
        low, high = (-4, -3) if direction[j] > 0 else (3, 4)
        assert (draws[:, j] >= mean[j] + low * deviation[j] - 1e-5).all()
        assert (draws[:, j] <= mean[j] + high * deviation[j] + 1e-5).all()
    varied = deviation > 1e-6
    distance = np.abs(draws[:, varied] - mean[varied]) / deviation[varied]
    assert kstest(distance.ravel(), "uniform", args=(3, 1)).pvalue > 1e-3


def test_fang_turns_where_the_l2_term_outweighs_the_loss() -> None:
    """The honest direction is μ + λΘ: with a large λ its sign is Θ's."""
    updates = honest()
    mean, deviation = dense_moments(updates)
    view = scripted_view(
        updates, USERS[:1], ITEMS, weight_decay=1e3, model=GlobalModel(-torch.ones(ITEMS, DIM), torch.ones(SHARED))
    )
    upload = flat(Fang().poison(view))[0]
    varied = deviation > 1e-6
    wrong_way = np.sign(upload - mean)[varied]
    expected = np.concatenate([np.ones(ITEMS * DIM), -np.ones(SHARED)])[varied]
    np.testing.assert_array_equal(wrong_way, expected)


def test_lie_on_the_papers_example() -> None:
    """Baruch et al. 2019: of n = 50 workers m = 24 are corrupted; q = 2, z ≈ 1.43."""
    assert supporters_needed(50, 24) == 2
    assert largest_z(50, 24) == pytest.approx(1.43, abs=0.005)


def test_lie_with_one_attacker_among_fifty_stays_at_the_mean() -> None:
    """Φ⁻¹(24/49) = −0.0256: the formula leaves a single attacker no room."""
    assert largest_z(50, 1) == pytest.approx(-0.0256, abs=1e-4)


@pytest.mark.parametrize(("clients", "malicious"), [(50, 26), (50, 50), (2, 1), (1, 1)])
def test_lie_without_a_value_says_what_to_set(clients: int, malicious: int) -> None:
    with pytest.raises(OptionError, match="lie-z"):
        largest_z(clients, malicious)


def test_lie_uploads_the_same_shift_for_all() -> None:
    updates = honest()
    mean, deviation = dense_moments(updates)
    attack = Lie(LieOptions(z=1.5))
    poisoned = attack.poison(scripted_view(updates, USERS[:3], ITEMS))
    expected = np.broadcast_to(mean - 1.5 * deviation, (3, len(mean)))
    np.testing.assert_allclose(flat(poisoned), expected, atol=1e-6)
    assert torch.equal(poisoned.num_examples, updates.num_examples[:3])


def test_lie_takes_its_own_share_of_the_users_for_the_malicious_ones() -> None:
    """30 of 62 users are 24.19 of 50 clients: 25, rounded up."""
    updates = honest()
    mean, deviation = dense_moments(updates)
    view = scripted_view(updates, USERS[:1], ITEMS, num_users=62)
    assert view.expected_malicious == 25
    upload = flat(Lie().poison(view))[0]
    np.testing.assert_allclose(upload, mean - largest_z(50, 25) * deviation, atol=1e-6)


@pytest.mark.parametrize(("num_users", "cohort", "expected"), [(6040, 50, 1), (600, 50, 3), (500, 50, 3), (300, 50, 5)])
def test_the_expected_number_of_malicious_users(num_users: int, cohort: int, expected: int) -> None:
    """30 users of so many: 0.25, 2.5, 3 and 5 of a cohort."""
    view = scripted_view(honest(), USERS[:1], ITEMS, num_users=num_users, clients_per_round=cohort)
    assert view.expected_malicious == expected


def test_the_sample_of_honest_updates_holds_distinct_controlled_users() -> None:
    updates = random_updates(list(range(80)), 4, 2, 0, seed=2)
    view = scripted_view(updates, [0], 4)
    sample = view.sample_honest()
    assert len(sample) == 50
    assert len(sample.users.unique()) == 50
    assert view.sample_honest().users.tolist() != sample.users.tolist()
    assert len(scripted_view(honest(), USERS[:1], ITEMS).sample_honest()) == 30


@pytest.mark.parametrize("attack", [Gaussian(), Fang(), Lie(LieOptions(z=1.0))])
def test_what_is_uploaded_fits_the_wire(attack: Gaussian | Fang | Lie) -> None:
    poisoned = attack.poison(scripted_view(honest(), USERS[3:6], ITEMS))
    assert poisoned.users.tolist() == USERS[3:6]
    assert poisoned.rows.dtype == torch.float32
    assert poisoned.shared.dtype == torch.float32
    assert poisoned.shared.shape == (3, SHARED)
    assert poisoned.row_counts.tolist() == [ITEMS - 1] * 3
    assert (poisoned.items.view(3, -1).diff() > 0).all()
