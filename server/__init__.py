"""The ServerApp: population, round loop, grids, results."""
