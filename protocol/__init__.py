"""What crosses the wire: requests, updates, and the options that travel with a run."""

from robust_fedrec import require_own

require_own(__name__)
