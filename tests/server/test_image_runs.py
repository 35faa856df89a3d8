"""Image classification through the same rooms: every attack, every defense, engines, resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from what_runs_leave import assert_same, run

from attacks import ATTACKS, IMAGE_ATTACKS
from experiments.report.report import page
from experiments.report.run_record import read_run
from server.config import effective, server_config
from server.recovery.checkpoint import name_of
from server.results.update_log import recorded_rounds
from server.simulation import default_options
from settings.options import OptionError, Scalar
from strategies import RULES

SMALL: dict[str, Scalar] = {
    "model": "lenet",
    "dataset": "synthetic-images",
    "engine": "local",
    "num-nodes": 2,
    "num-clients": 12,
    "clients-per-round": 8,
    "local-epochs": 1,
    "num-server-rounds": 2,
    "eval-every": 2,
    "malicious-fraction": 0.25,
    "checkpoint-every": 0,
    "tracker": "none",
}
ATTACKED: dict[str, Scalar] = {**SMALL, "attack": "deep-poisoning", "defense": "norm-bound", "num-server-rounds": 4}


def assert_sound(directory: Path, summary: dict[str, Any], rounds: int) -> None:
    assert summary["status"] == "completed"
    assert (summary["rounds"], summary["skipped_rounds"], summary["failed_answers"]) == (rounds, 0, 0)
    assert summary["rejected"] == {}
    assert bool(torch.isfinite(load_file(directory / "model.safetensors")["shared"]).all())


def uploads(directory: Path) -> dict[int, torch.Tensor]:
    """What each user uploaded in round 1."""
    (one, *_) = recorded_rounds(directory)
    return dict(zip(one.updates.users.tolist(), one.updates.shared, strict=True))


RECORDED: dict[str, Scalar] = {**SMALL, "num-server-rounds": 1, "eval-every": 1, "record-updates": "1"}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[int, torch.Tensor]:
    return uploads(run(tmp_path_factory.mktemp("honest"), RECORDED)[0])


@pytest.mark.parametrize("attack", IMAGE_ATTACKS)
def test_every_attack_moves_the_malicious_updates_alone(
    attack: str, honest: dict[int, torch.Tensor], tmp_path: Path
) -> None:
    directory, summary = run(tmp_path, {**RECORDED, "attack": attack})
    assert_sound(directory, summary, 1)
    line = json.loads((directory / "rounds.jsonl").read_text())
    assert line["malicious"]
    found = uploads(directory)
    assert found.keys() == honest.keys()
    changed = [user for user in found if not torch.equal(found[user], honest[user])]
    assert changed == line["malicious"]


def test_the_stealthy_upload_is_no_longer_than_it_may_be(honest: dict[int, torch.Tensor], tmp_path: Path) -> None:
    directory, _ = run(tmp_path, {**RECORDED, "attack": "deep-poisoning", "deep-poisoning-norm-factor": 1.1})
    for user, update in uploads(directory).items():
        assert update.norm() <= 1.1 * honest[user].norm() * (1 + 1e-6)


def test_before_it_starts_an_attack_changes_nothing(honest: dict[int, torch.Tensor], tmp_path: Path) -> None:
    directory, _ = run(tmp_path, {**RECORDED, "attack": "backdoor", "attack-start": 2, "num-server-rounds": 2})
    found = uploads(directory)
    assert all(torch.equal(found[user], honest[user]) for user in honest)


FITTING = [name for name, rule in RULES.items() if rule.needs != "item rows" and name not in ("mean", "bulyan")]


@pytest.mark.parametrize("defense", [*FITTING, "fl-wbc", "accuracy-check+distance-range+multi-krum"])
def test_every_defense_runs_on_uploads_without_item_rows(defense: str, tmp_path: Path) -> None:
    directory, summary = run(tmp_path, {**SMALL, "attack": "backdoor", "defense": defense})
    assert_sound(directory, summary, 2)


def test_bulyan_runs_where_enough_clients_take_part(tmp_path: Path) -> None:
    options: dict[str, Scalar] = {**SMALL, "attack": "backdoor", "defense": "bulyan", "malicious-fraction": 0.1}
    assert_sound(*run(tmp_path, options), 2)


def test_the_accuracy_check_sees_the_servers_validation_images(tmp_path: Path) -> None:
    """A single update of fifty times its length is far less accurate than what the others would make."""
    everybody: dict[str, Scalar] = {"clients-per-round": 12, "malicious-fraction": 0.05, "attack-start": 2}
    boosted: dict[str, Scalar] = {"attack": "backdoor", "backdoor-boost": 50.0, "defense": "accuracy-check"}
    directory, _ = run(tmp_path, {**SMALL, **everybody, **boosted, "local-epochs": 3})
    lines = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    assert len(lines[1]["malicious"]) == 1
    assert set(lines[1]["malicious"]) <= set(lines[1]["rules"]["accuracy-check"]["filtered"])


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("two"), ATTACKED)[0]


def test_its_evaluations_send_nothing(two_nodes: Path) -> None:
    counted = json.loads((two_nodes / "summary.json").read_text())["bytes"]
    assert counted["down"] > 0
    assert counted["evaluation_down"] == counted["evaluation_up"] == 0


def test_it_learns(tmp_path: Path) -> None:
    options: dict[str, Scalar] = {**SMALL, "local-epochs": 5, "num-server-rounds": 5, "eval-every": 1}
    directory, summary = run(tmp_path, options)
    assert summary["test"]["accuracy"] > 0.9
    assert summary["test"]["attack_success"] < 0.1
    best = max(json.loads(line)["valid"]["accuracy"] for line in (directory / "metrics.jsonl").open())
    assert summary["valid"]["accuracy"] == best


def test_five_nodes_give_what_two_give(two_nodes: Path, tmp_path: Path) -> None:
    assert_same(two_nodes, run(tmp_path, {**ATTACKED, "num-nodes": 5})[0])


def test_an_attacker_who_looks_at_all_of_its_clients_does_so_on_any_number_of_nodes(tmp_path: Path) -> None:
    """Twelve nodes would give a quarter of the clients three; LIE takes the mean of them all."""
    options = {**ATTACKED, "attack": "lie", "lie-z": 1.0, "num-server-rounds": 2}
    few, many = (run(tmp_path / str(nodes), {**options, "num-nodes": nodes})[0] for nodes in (2, 12))
    assert_same(few, many)


def test_ray_actors_give_what_this_process_gives(two_nodes: Path, tmp_path: Path) -> None:
    assert_same(two_nodes, run(tmp_path, {**ATTACKED, "engine": "ray", "num-nodes": 3})[0])


def test_a_resumed_run_is_the_same_run(two_nodes: Path, tmp_path: Path) -> None:
    kept: dict[str, Scalar] = {**ATTACKED, "checkpoint-every": 2, "run-name": "resumed"}
    directory, _ = run(tmp_path, {**kept, "num-server-rounds": 3})
    run(tmp_path, {**kept, "resume": str(directory / "checkpoints" / name_of(2))})
    assert_same(two_nodes, directory)


def test_uploads_in_half_the_bytes_train_too(tmp_path: Path) -> None:
    assert_sound(*run(tmp_path, {**SMALL, "upload-dtype": "bfloat16"}), 2)


def test_a_report_and_a_tracker_show_its_metrics(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("tensorboard")
    directory, _ = run(tmp_path, {**SMALL, "tracker": "tensorboard"})
    text = page([read_run(directory)])
    assert "ATTACK SUCCESS" in text
    assert "test_last_five/accuracy" in text
    assert list(directory.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attack": "cluster"}, "does not fit model = 'lenet'; expected one of none, label-flip, backdoor"),
        ({"attack": "fed-attack"}, "does not fit model = 'lenet'"),
        ({"model": "mf", "dataset": "synthetic", "attack": "deep-poisoning"}, "does not fit model = 'mf'"),
        ({"defense": "union+krum"}, "union needs item rows, which that model does not have"),
        ({"defense": "per-item-median"}, "per-item-median needs item rows"),
        ({"defense": "support-bound"}, "support-bound needs item rows"),
        ({"model": "mf", "dataset": "synthetic", "defense": "accuracy-check"}, "needs a validation set"),
        ({"dataset": "synthetic"}, "dataset = 'synthetic': expected one of 'mnist', 'cifar10', 'synthetic-images'"),
        ({"model": "mf", "dataset": "mnist"}, "dataset = 'mnist': expected one of"),
        ({"num-clients": 0}, "num-clients = 0: expected at least 1"),
        ({"num-clients": 5000}, "num-clients = 5000: expected 1 to"),
        ({"clients-per-round": 13}, "clients-per-round = 13: expected at most the 12 users"),
        ({"dirichlet-alpha": -1.0}, "dirichlet-alpha"),
        ({"local-epochs": 0}, "local-epochs = 0: expected at least 1"),
        ({"local-batch-size": 0}, "local-batch-size"),
        ({"local-learning-rate": 0.0}, "local-learning-rate"),
        ({"poison-kind": "pixels"}, "poison-kind = 'pixels': expected one of 'trigger', 'samples'"),
        ({"poison-target": 10}, "poison-target = 10: expected below 10"),
        ({"poison-kind": "samples", "poison-num-samples": 501}, "poison-num-samples"),
        ({"attack": "deep-poisoning", "deep-poisoning-quantile": 0.0}, "deep-poisoning-quantile"),
        ({"attack": "backdoor", "backdoor-boost": -1.0}, "backdoor-boost"),
        ({"attack": "alternating-minimization", "alternating-poison-steps": 0}, "alternating-poison-steps"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options: dict[str, Scalar], expected: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=expected):
        run(tmp_path, {**SMALL, **options})
    assert not list(tmp_path.glob("*/rounds.jsonl"))


def test_only_the_attacks_that_fit_are_offered() -> None:
    assert not {"cluster", "cluster+cl", "fed-attack"} & set(IMAGE_ATTACKS)
    assert not {"deep-poisoning", "backdoor", "alternating-minimization"} & set(ATTACKS)


def test_fedavg_has_no_weight_decay_of_its_own() -> None:
    chosen = server_config({**default_options(), **SMALL})
    assert chosen.loss.weight_decay == 0.0
    assert effective(chosen)["weight-decay"] == 0.0
    assert chosen.options.learning_rate == 1.0
