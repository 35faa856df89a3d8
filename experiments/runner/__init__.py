"""Runs grids of trainings and resumes them."""
