"""Robust rules over updates, and the Flower strategy that runs them."""
