"""``robust-fedrec list KIND``: what a run's options can name."""

from __future__ import annotations

import argparse

from attacks import ATTACKS, IMAGE_ATTACKS
from data import DATASETS, FORMATS
from models import MODELS
from server.simulation import default_options
from strategies import CLIENT_SIDE, RULES

IMAGES = ("mnist", "cifar10", "synthetic-images")
KINDS = {
    "attacks": ["none", *dict.fromkeys([*ATTACKS, *IMAGE_ATTACKS])],
    "defenses": ["none", *sorted({*RULES, *CLIENT_SIDE})],
    "models": list(MODELS),
    "datasets": [*DATASETS, *IMAGES, *(f"a file that ends in {ending}" for ending in FORMATS)],
    "options": [f"{name}={value}" for name, value in default_options().items()],
}


def main(arguments: list[str] | None = None) -> int:
    """Print the names of a kind, one a line."""
    parser = argparse.ArgumentParser(prog="robust-fedrec list", description="The names that a run's options take.")
    parser.add_argument("kind", choices=list(KINDS))
    print("\n".join(KINDS[parser.parse_args(arguments).kind]))
    return 0
