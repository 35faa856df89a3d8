"""What malicious clients send instead of their honest updates."""
