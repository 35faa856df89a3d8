"""What must run where torch alone is installed imports neither Flower nor Ray."""

import subprocess
import sys

import pytest

PURE = (
    "benchmarks.rules",
    "benchmarks.training",
    "client.learners.images",
    "client.learners.recommender",
    "models.recommenders.mf_recommender",
    "models.recommenders.sasrec_recommender",
    "strategies.chain",
    "strategies.detection",
)


@pytest.mark.parametrize("module", PURE)
def test_it_imports_neither_flower_nor_ray(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'flwr', 'ray'}} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
