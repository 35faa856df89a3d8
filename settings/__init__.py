"""The options of a run, read and checked; and what a user adds of his own."""
