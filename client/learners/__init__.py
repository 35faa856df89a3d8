"""What a node runs for each kind of model."""
