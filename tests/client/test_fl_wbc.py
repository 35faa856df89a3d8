"""FL-WBC's client half: noise of the right kind on flat coordinates alone, and for benign users alone."""

import dataclasses

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from scipy.stats import kstest

from client.app import app
from client.perturbation import perturbed
from data.partition import malicious_users
from protocol.messages import model_record, read_own_reply, request_content
from protocol.requests import GlobalModel, LossOptions, TrainRequest
from protocol.updates import Updates, make_updates
from server.config import server_config
from server.simulation import default_options
from settings.options import OptionError, Scalar
from strategies.rules.fl_wbc import FlWbcOptions

SEED, ROUND = 4, 17


def updates_of(users: list[int], counts: list[int], shared: int = 5, dim: int = 8) -> Updates:
    """Users with so many rows, whose values differ by orders of magnitude; every third row is half zeros."""
    generator = np.random.default_rng(len(users))
    total = sum(counts)
    rows = generator.normal(size=(total, dim)) * np.exp(generator.normal(size=(total, dim)))
    rows[::3, : dim // 2] = 0
    return make_updates(
        users=torch.tensor(users),
        num_examples=torch.arange(1, len(users) + 1),
        row_splits=torch.tensor([0, *np.cumsum(counts)]),
        items=torch.cat([torch.arange(count) * 2 for count in counts]),
        rows=torch.from_numpy(rows).to(torch.float32),
        shared=torch.from_numpy(generator.normal(size=(len(users), shared))).to(torch.float32),
    )


def assert_same(first: Updates, second: Updates) -> None:
    for field in dataclasses.fields(Updates):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_only_coordinates_of_low_curvature_get_noise() -> None:
    """A coordinate's curvature n·g² against the threshold times the user's mean of it, one by one."""
    updates = updates_of([3, 9, 20], [6, 1, 11])
    noisy = perturbed(updates, FlWbcOptions(noise=0.1, threshold=0.3), SEED, ROUND)
    for k in range(len(updates)):
        examples = int(updates.num_examples[k])
        part = slice(int(updates.row_splits[k]), int(updates.row_splits[k + 1]))
        for before, after in ((updates.rows[part], noisy.rows[part]), (updates.shared[k], noisy.shared[k])):
            curvature = examples * before.numpy().astype(np.float64) ** 2
            flat = curvature <= 0.3 * curvature.mean()
            np.testing.assert_array_equal((before != after).numpy(), flat)
            assert flat.any()
            assert not flat.all()


def test_what_no_gradient_trains_gets_no_noise_and_decides_nothing() -> None:
    """BatchNorm's statistics, behind the weights, move far more than these."""
    updates = updates_of([3, 9, 20], [6, 1, 11], shared=5)
    larger = dataclasses.replace(updates, shared=updates.shared * torch.tensor([1.0, 1.0, 1.0, 1e3, 1e3]))
    options = FlWbcOptions(noise=0.1, threshold=0.3)
    noisy = perturbed(larger, options, SEED, ROUND, num_weights=3)
    assert torch.equal(noisy.shared[:, 3:], larger.shared[:, 3:])
    weights = larger.shared[:, :3].square()
    assert torch.equal(noisy.shared[:, :3] != larger.shared[:, :3], weights <= 0.3 * weights.mean(1, keepdim=True))
    assert torch.equal(noisy.rows, perturbed(larger, options, SEED, ROUND).rows)


def test_everything_else_stays() -> None:
    updates = updates_of([3, 9, 20], [6, 1, 11])
    noisy = perturbed(updates, FlWbcOptions(), SEED, ROUND)
    for name in ("users", "num_examples", "row_splits", "items", "l2_share"):
        assert torch.equal(getattr(updates, name), getattr(noisy, name))
    assert noisy.rows.dtype == torch.float32


def test_the_noise_is_laplacian() -> None:
    """With an endless threshold every coordinate gets noise; its distribution is Laplace(0, b)."""
    updates = updates_of([1, 2, 3, 4], [300, 200, 250, 100])
    noisy = perturbed(updates, FlWbcOptions(noise=2.0, threshold=1e30), SEED, ROUND)
    added = (noisy.rows - updates.rows).numpy().astype(np.float64).ravel()
    assert kstest(added, "laplace", args=(0, 2.0)).pvalue > 1e-3
    # Five standard errors: a Laplace variable has the variance 2b², and |x| is exponential with the mean b.
    assert abs(added.mean()) < 5 * 2.0 * np.sqrt(2 / len(added))
    assert abs(np.abs(added).mean() - 2.0) < 5 * 2.0 / np.sqrt(len(added))
    assert abs(np.corrcoef(added[:-1], added[1:])[0, 1]) < 5 / np.sqrt(len(added))


def test_without_noise_nothing_changes() -> None:
    updates = updates_of([3, 9], [6, 2])
    assert_same(perturbed(updates, FlWbcOptions(noise=0.0), SEED, ROUND), updates)


def test_a_threshold_of_zero_leaves_only_coordinates_without_gradient() -> None:
    updates = updates_of([3, 9], [6, 4])
    noisy = perturbed(updates, FlWbcOptions(noise=1.0, threshold=0.0), SEED, ROUND)
    assert torch.equal(noisy.rows != updates.rows, updates.rows == 0)
    assert torch.equal(noisy.shared, updates.shared)


def test_the_noise_depends_on_seed_round_and_user_alone() -> None:
    updates = updates_of([3, 9, 20], [6, 1, 11])
    options = FlWbcOptions(noise=0.1)
    together = perturbed(updates, options, SEED, ROUND)
    for k in (2, 0, 1):
        alone = perturbed(updates.select(torch.tensor([k])), options, SEED, ROUND)
        assert_same(alone, together.select(torch.tensor([k])))
    for seed, now in ((SEED + 1, ROUND), (SEED, ROUND + 1)):
        assert not torch.equal(perturbed(updates, options, seed, now).rows, together.rows)


@pytest.mark.parametrize(("counts", "shared"), [([0, 3], 0), ([0, 0], 4), ([], 2)])
def test_users_without_rows_and_models_without_shared_parameters(counts: list[int], shared: int) -> None:
    updates = updates_of(list(range(len(counts))), counts, shared) if counts else updates_of([1], [2], 2)
    updates = updates if counts else updates.select(torch.zeros(1, dtype=torch.bool))
    noisy = perturbed(updates, FlWbcOptions(noise=1.0), SEED, ROUND)
    assert noisy.rows.shape == updates.rows.shape
    assert noisy.shared.shape == updates.shared.shape


def train(run_id: int, users: list[int], **changed: Scalar) -> Updates:
    """One round of the real app."""
    options = {name.replace("_", "-"): value for name, value in changed.items()}
    run_config = {**default_options(), "malicious-fraction": 0.02, "fl-wbc-noise": 0.01, **options}
    node: dict[str, Scalar] = {"partition-id": 0, "num-partitions": 1, "state-dir": "memory"}
    context = Context(run_id, 1, node, RecordDict(), run_config)  # type: ignore[arg-type]
    model = GlobalModel(torch.randn(800, 8, generator=torch.Generator().manual_seed(0)) * 0.2, torch.empty(0))
    request = TrainRequest(1, torch.tensor(users), "a-run", LossOptions())
    message = Message(request_content(model_record(model), request), 1, "train", group_id="1")
    return read_own_reply(app(message, context).content).updates


def test_benign_users_add_noise_and_malicious_ones_do_not() -> None:
    malicious = malicious_users(1000, 0.02, 0).tolist()
    benign = [user for user in range(0, 1000, 97) if user not in malicious]
    users = [benign[3], *malicious[4:7], *benign[:3]]
    plain = train(20_001, users, attack="lie", lie_z=1.0)
    noisy = train(20_002, users, attack="lie", lie_z=1.0, defense="fl-wbc+norm-bound")
    ours = torch.isin(plain.users, torch.tensor(malicious))
    assert_same(plain.select(ours), noisy.select(ours))
    before, after = plain.select(~ours), noisy.select(~ours)
    assert torch.equal(plain.users, noisy.users)
    assert torch.equal(before.items, after.items)
    changed = (before.rows != after.rows).any(1)
    assert before.row_owner[changed].unique().tolist() == [0, 1, 2, 3]
    assert_same(after, perturbed(before, FlWbcOptions(noise=0.01), 0, 1))


def test_without_the_defense_nobody_adds_noise() -> None:
    users = [1, 2, 3]
    assert_same(train(20_003, users), train(20_004, users, defense="norm-bound", fl_wbc_noise=5.0))


@pytest.mark.parametrize("option", ["fl-wbc-noise", "fl-wbc-threshold"])
def test_a_wrong_parameter_stops_the_run_before_it_starts(option: str) -> None:
    options = {**default_options(), option: -1.0}
    with pytest.raises(OptionError, match=f"{option} = -1.0: expected a number from 0"):
        server_config({**options, "defense": "union+fl-wbc"})
    server_config({**options, "defense": "union"})
