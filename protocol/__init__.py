"""What crosses the wire: requests, updates, and the options that travel with a run."""
