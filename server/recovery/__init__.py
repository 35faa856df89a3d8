"""What survives a crash: checkpoints, resuming, interrupts."""
