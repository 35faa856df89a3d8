"""The papers' tables and figures, each one command: ``python -m experiments``."""

from robust_fedrec import require_own

require_own(__name__)
