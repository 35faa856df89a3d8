"""What rules share: arithmetic on sparse updates."""
