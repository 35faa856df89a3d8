"""Recommenders: plain torch, no Flower."""
