"""Pages, tables and curves of runs."""
