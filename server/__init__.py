"""The ServerApp: population, round loop, grids, results."""

from robust_fedrec import require_own

require_own(__name__)
