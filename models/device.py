"""The device that a node computes on: which one an option names, and what makes its numbers the same each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from settings.options import require

WORKSPACE = ":4096:8"
"""With workspaces of a fixed size cuBLAS takes the same sums each time (``CUBLAS_WORKSPACE_CONFIG``)."""


def chosen(name: str, for_gpu: bool) -> torch.device:
    """The device that the option ``device`` names; "auto": a GPU where there is one and the model is ``for_gpu``.

    Raises ``OptionError`` for a device that this process does not have.
    """
    if name == "auto":
        return torch.device("cuda" if for_gpu and torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        require(
            bool(torch.version.cuda) or found > 0, "device", name, "cpu or auto: this torch is a build for CPUs alone"
        )
        require(found > 0, "device", name, "cpu or auto: this process sees no GPU (nvidia-smi, CUDA_VISIBLE_DEVICES)")
        there = ", ".join(f"cuda:{number}" for number in range(found))
        require((device.index or 0) < found, "device", name, f"cpu, auto, or one of {there}")
    return device


def described(device: torch.device) -> str:
    """A device with the name of its kind, such as "cuda:0 (NVIDIA H100 PCIe)"."""
    if device.type != "cuda":
        return str(device)
    return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"


@contextmanager
def deterministic(device: torch.device, wanted: bool) -> Iterator[None]:
    """Let a GPU compute the same numbers each time, where that is wanted and as far as torch offers it.

    Kernels without atomics, float32 products without TF32, and cuDNN's algorithms chosen by rule and not by trial.
    Where torch has no such kernel it warns. On a CPU nothing changes.
    """
    if device.type != "cuda" or not wanted:
        yield
        return
    # Read by cuBLAS when it is used first.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
    mode, precision = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=only_warns)
        torch.set_float32_matmul_precision(precision)
