"""What runs on a GPU, run on one: a real one, or an emulated one, a module that is loaded before torch.

python -m pytest tests/gpu/on_device.py                       # a real one
python -m pytest -p emulated_device tests/gpu/on_device.py    # its folder in PYTHONPATH
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks import ATTACKS, IMAGE_ATTACKS
from benchmarks import rules as rules_benchmark
from benchmarks import sasrec as sasrec_benchmark
from benchmarks import training as training_benchmark
from client.perturbation import perturbed
from metrics import ranked
from models.device import chosen
from models.recommenders import mf_recommender
from server.simulation import simulate
from settings.options import Scalar
from strategies import RULES
from strategies.chain import compose
from strategies.rule import ServerView
from strategies.rules.fl_wbc import FlWbcOptions

EMULATED: Any = sys.modules.get("emulated_device")
pytestmark = pytest.mark.skipif(
    EMULATED is None and not torch.cuda.is_available(), reason="torch finds no GPU, and none is emulated"
)

RECOMMENDERS = ("mf", "sasrec", "ncf")
SMALL: dict[str, Scalar] = {
    "engine": "local",
    "device": "cuda",
    "num-nodes": 2,
    "num-server-rounds": 1,
    "eval-every": 1,
    "eval-users": 20,
    "clients-per-round": 6,
    "malicious-fraction": 0.3,
    "embedding-dim": 4,
    "max-length": 8,
    "num-clients": 6,
    "target-items": "coldest:2",
    "public-share": 0.1,
    "local-epochs": 1,
    "checkpoint-every": 0,
    "tracker": "none",
}
IMAGES: dict[str, Scalar] = {"target-items": "", "public-share": 0.0, "dataset": "synthetic-images", "model": "lenet"}


WITHOUT_VALIDATION = [name for name in RULES if name not in ("accuracy-check", "fltrust")]
"""Rules that need no images at the server; those two train and test on the CPU, where the server is."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 16 users at a time: NCF scores a block's empty places one by one, too."""
    monkeypatch.setattr(ranked, "BLOCK_SCORES", 1)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Any]:
    """The device for one test; what it was asked to do where it is emulated."""
    if EMULATED is None:
        yield None
        return
    with EMULATED.EmulatedCuda() as device:
        yield device


def trained(tmp_path: Path, gpu: Any, **options: Scalar) -> None:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    _, summary = simulate({**SMALL, **named, "output-dir": str(tmp_path)})
    assert (summary["status"], summary["rounds"]) == ("completed", 1)
    assert (summary["skipped_rounds"], summary["failed_answers"], summary["rejected"]) == (0, 0, {})
    if gpu is not None:
        assert gpu.ledger.kernels, "Nothing ran on the device."


def test_a_planted_mistake_ends_the_training(tmp_path: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mf_recommender.Pairs, "to", lambda self, device: self)
    with pytest.raises(AssertionError):
        trained(tmp_path, gpu, model="mf")


@pytest.mark.parametrize("model", RECOMMENDERS)
@pytest.mark.parametrize("attack", ["none", *ATTACKS])
def test_every_attack_on_recommenders(attack: str, model: str, tmp_path: Path, gpu: Any) -> None:
    trained(tmp_path, gpu, model=model, attack=attack)


@pytest.mark.parametrize("model", RECOMMENDERS)
def test_the_contrastive_task_and_noise(model: str, tmp_path: Path, gpu: Any) -> None:
    trained(tmp_path, gpu, model=model, defense="union+norm-bound+fl-wbc", contrastive_task="on")


@pytest.mark.parametrize("attack", ["none", *IMAGE_ATTACKS])
def test_every_attack_on_images(attack: str, tmp_path: Path, gpu: Any) -> None:
    trained(tmp_path, gpu, **IMAGES, attack=attack)


@pytest.mark.parametrize("name", WITHOUT_VALIDATION)
def test_every_rule_gives_what_it_gives_on_the_cpu(name: str) -> None:
    device = torch.device("cuda")
    updates = rules_benchmark.cohort(12, malicious=2, num_items=30, mean_examples=6.0, negatives=1)
    model = rules_benchmark.trained_model(30, rounds=2)
    rule = compose(name, {}, len(updates), 0.1)
    here = rule.aggregate(updates, ServerView(1, model, len(updates), np.random.default_rng(0)))
    moved = rules_benchmark.on(updates, device), rules_benchmark.model_on(model, device)
    there = rule.aggregate(moved[0], ServerView(1, moved[1], len(updates), np.random.default_rng(0)))
    assert there.gradient.items.is_cuda
    torch.testing.assert_close(there.gradient.items.cpu(), here.gradient.items, rtol=1e-3, atol=1e-5)


def test_noise_has_the_updates_device() -> None:
    updates = rules_benchmark.cohort(4, malicious=1, num_items=30, mean_examples=6.0, negatives=1)
    options = FlWbcOptions(noise=0.1)
    moved = perturbed(rules_benchmark.on(updates, torch.device("cuda")), options, 0, 1)
    here = perturbed(updates, options, 0, 1)
    for field in fields(here):
        torch.testing.assert_close(getattr(moved, field.name).cpu(), getattr(here, field.name))


COMMANDS = {
    training_benchmark: ["--dataset=synthetic", "--rounds=1", "--users=4"],
    rules_benchmark: ["--repeats=1", "--users=8"],
    sasrec_benchmark: ["--rounds=1"],
}


@pytest.mark.parametrize("benchmark", COMMANDS, ids=lambda module: module.__name__)
def test_every_benchmark(benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device=cuda", *COMMANDS[benchmark]])
    # Tiny, so that the whole file takes seconds.
    monkeypatch.setattr(sasrec_benchmark, "NUM_USERS", 3)
    monkeypatch.setattr(rules_benchmark, "COHORTS", {"tiny": {"num_items": 40, "mean_examples": 5.0, "negatives": 1}})
    # The emulation takes minutes under torch's profiler.
    monkeypatch.setattr(sasrec_benchmark, "_report_profile", lambda *_: None)
    monkeypatch.setattr(training_benchmark, "grow", lambda *_: None)
    benchmark.main()
    assert capsys.readouterr().out


@pytest.mark.parametrize(("name", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:0", "cuda"), ("cpu", "cpu")])
def test_the_device_of_an_option(name: str, kind: str) -> None:
    assert chosen(name, for_gpu=True).type == kind
