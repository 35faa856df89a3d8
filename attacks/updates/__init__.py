"""Attacks on any model's updates, from honest statistics: one attack a file."""
