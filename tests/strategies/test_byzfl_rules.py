"""On dense updates the rules that ByzFL has too give what ByzFL's aggregators give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from random_updates import Floats, Shape, flat, from_dense, model_of, view

from benchmarks.byzfl import MISSING, aggregators
from strategies.rule import Rule
from strategies.rules.centered_clipping import CenteredClipping, CenteredClippingOptions
from strategies.rules.geometric_median import GeometricMedian, GeometricMedianOptions
from strategies.rules.krum import KrumOptions, MultiKrum
from strategies.rules.meamed import Meamed, MeamedOptions
from strategies.rules.median import Median
from strategies.rules.nearest_neighbor_mixing import MixingOptions, NearestNeighborMixing
from strategies.rules.trimmed_mean import TrimmedMean, TrimmedMeanOptions

byzfl: Any = aggregators()
pytestmark = pytest.mark.skipif(byzfl is None, reason=MISSING)

NUM_ITEMS, DIM = 9, 4
ASSUMED = 3
TRIMMED = TrimmedMeanOptions(num_malicious_nodes=ASSUMED)
MIXED = MixingOptions(num_malicious_nodes=ASSUMED)

PAIRS: dict[str, tuple[Rule, Callable[[Floats], Floats]]] = {
    "trimmed-mean": (TrimmedMean(TRIMMED), lambda matrix: byzfl.TrMean(ASSUMED)(matrix)),
    "median": (Median(), lambda matrix: byzfl.Median()(matrix)),
    "meamed": (Meamed(MeamedOptions(num_malicious_nodes=ASSUMED)), lambda matrix: byzfl.Meamed(ASSUMED)(matrix)),
    "geometric-median": (
        GeometricMedian(GeometricMedianOptions(iterations=5, smoothing=0.1)),
        lambda matrix: byzfl.GeometricMedian(0.1, 5)(matrix),
    ),
    "centered-clipping": (
        CenteredClipping(CenteredClippingOptions(threshold=2.0, iterations=4)),
        lambda matrix: byzfl.CenteredClipping(L=4, tau=2.0)(matrix),
    ),
    "nnm+trimmed-mean": (
        NearestNeighborMixing(TrimmedMean(TRIMMED), MIXED),
        lambda matrix: byzfl.TrMean(ASSUMED)(byzfl.NNM(ASSUMED)(matrix)),
    ),
    "nnm+geometric-median": (
        NearestNeighborMixing(GeometricMedian(GeometricMedianOptions(3, 0.1)), MIXED),
        lambda matrix: byzfl.GeometricMedian(0.1, 3)(byzfl.NNM(ASSUMED)(matrix)),
    ),
    # ByzFL's Krum counts the n − f − 1 nearest others, the paper's and ours n − f − 2: ours with one attacker fewer.
    "multi-krum": (
        MultiKrum(options=KrumOptions(num_malicious_nodes=ASSUMED - 1, num_nodes_to_select=10)),
        lambda matrix: byzfl.MultiKrum(ASSUMED)(matrix),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_byzfl(name: str, seed: int) -> None:
    ours, theirs = PAIRS[name]
    n = 13
    matrix = np.random.default_rng(seed).normal(size=(n, NUM_ITEMS * DIM))
    model = model_of(Shape(0, n, NUM_ITEMS, DIM, 0, 1.0))
    result = ours.aggregate(from_dense(matrix, NUM_ITEMS), view(model)).gradient
    np.testing.assert_allclose(flat(result), theirs(matrix.copy()), rtol=1e-6, atol=1e-9)
