"""ByzFL's aggregators (0.0.11), as a yardstick, without the rest of its package, which needs torchvision.

``pip install --no-deps byzfl==0.0.11``; the aggregators themselves need NumPy, SciPy and torch alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

MISSING = "ByzFL is not installed: pip install --no-deps byzfl==0.0.11"


def aggregators() -> ModuleType | None:
    """The module ``byzfl.aggregators``, or ``None`` where ByzFL is not installed."""
    found = importlib.util.find_spec("byzfl") if "byzfl" not in sys.modules else sys.modules["byzfl"].__spec__
    if found is None or found.submodule_search_locations is None:
        return None
    if "byzfl" not in sys.modules:
        # The package itself, left empty: its own __init__ imports data sets of torchvision.
        package = importlib.util.module_from_spec(found)
        sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators")
