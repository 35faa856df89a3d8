"""The options of a run, read and checked; and what a user adds of his own."""

from robust_fedrec import require_own

require_own(__name__)
