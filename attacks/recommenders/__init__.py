"""Attacks on recommenders: one attack a file."""
