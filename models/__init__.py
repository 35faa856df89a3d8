"""Recommenders and classifiers with their losses, in plain torch."""
