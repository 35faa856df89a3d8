"""Data sets as interactions, their splits, and who hosts whom."""
