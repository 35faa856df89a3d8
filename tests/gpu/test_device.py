"""Which device an option names, and a few trainings on an emulated one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from models.device import chosen, deterministic
from server.grids.engine import require_room
from server.grids.ray_grid import Placement
from settings.options import OptionError, read
from settings.run import RunOptions

HERE = Path(__file__).resolve().parent
EMULATION = HERE / "emulated_device.py"
"""A CUDA device made of CPU memory."""

QUICK = (
    "planted or of_an_option or noise_has or (recommenders and none) or (recommenders and cluster and mf) "
    "or (images and sign-flip) or contrastive or (every_rule and (union or krum))"
)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the emulated device is compiled, and there is no g++")
def test_trainings_on_an_emulated_gpu() -> None:
    """In a process of its own: the emulation must be loaded before torch."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", EMULATION.stem]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    done = subprocess.run(
        [*command, str(HERE / "on_device.py"), "-k", QUICK],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert set(done.stdout.split()[0]) == {"."}, "Something was skipped."


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", "mps", ""])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"device = .*expected auto, cpu, cuda, or cuda:N"):
        read(RunOptions, {"device": name})


def test_a_build_without_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(OptionError, match="a build for CPUs alone"):
        chosen("cuda", for_gpu=True)
    assert chosen("auto", for_gpu=True).type == "cpu"


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(OptionError, match="this process sees no GPU"):
        chosen("cuda:0", for_gpu=True)


def test_gpus_are_counted_from_zero_and_auto_asks_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen("cuda:1", for_gpu=False) == torch.device("cuda", 1)
    with pytest.raises(OptionError, match="cpu, auto, or one of cuda:0, cuda:1"):
        chosen("cuda:2", for_gpu=True)
    assert chosen("auto", for_gpu=True).type == "cuda"
    assert chosen("auto", for_gpu=False).type == "cpu"


def test_torch_is_as_before_after_a_deterministic_request(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        torch.set_float32_matmul_precision("high")
        with deterministic(torch.device("cuda"), wanted=True):
            within = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
        after = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before[1])
    assert (within, after) == ((True, "highest"), (before[0], "high"))


@pytest.mark.parametrize(
    ("placement", "fits"),
    [
        (Placement(4, gpus=0.5), True),
        (Placement(5, gpus=0.5), False),
        (Placement(5, gpus=0.5, together=2), True),
        (Placement(3, gpus=0.6), False),  # 1.8 of the 2 GPUs, but a share is of one
        (Placement(2, gpus=1), True),
        (Placement(1, gpus=2), False),  # a process has its GPUs on one machine
        (Placement(5, cpus=2), True),
        (Placement(6, cpus=2), False),
    ],
)
def test_more_than_ray_has_is_refused(placement: Placement, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    nodes = [{"Alive": True, "Resources": resources} for resources in machines]
    monkeypatch.setattr("ray.nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}])
    with nullcontext() if fits else pytest.raises(OptionError, match=r"s-per-node = .* of which Ray can give"):
        require_room(placement)
