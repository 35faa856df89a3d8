"""From keys to running processes: a federation on one machine, and what its containers start."""
