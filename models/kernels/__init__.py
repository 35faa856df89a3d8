"""Compiled loops over NumPy arrays (numba): each reads like its formula, and none knows torch or Flower."""
