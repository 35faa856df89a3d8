"""Attacks on image classifiers: one attack a file."""
